//! The control plane as the shell runs it, in steps that chance can order: each kind's watch may
//! lag, plans are executed action by action, and a restart forgets everything but the API.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proa_api::Refusal;
use proa_logic::controllers::plan::{Action, Plan, Verb};
use proa_logic::controllers::{Controller, Key, KindName, Object, Observed, Wakes, reconcile};
use proa_logic::kinds::built_in;
use proa_logic::scheduler::Scheduler;

use super::api::{Api, kind_name};
use super::random::Random;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Controller(Controller, Key),
    Scheduler(Key),
}

/// A plan that is being executed, or whose writes have not been seen yet.
#[derive(Default)]
struct Running {
    actions: VecDeque<Action>,
    failed: bool,
    writes: Vec<(String, u64)>,
    done: bool,
}

pub struct Control {
    pub seen: Observed,
    scheduler: Scheduler,
    /// How far each kind's watch has come in the log.
    cursors: BTreeMap<String, (KindName, usize)>,
    dirty: BTreeSet<(Controller, Key)>,
    timers: BTreeMap<(Controller, Key), jiff::Timestamp>,
    running: BTreeMap<Work, Running>,
}

impl Control {
    /// A fresh start: the whole state is listed.
    pub fn start(api: &Api) -> Self {
        let mut control = Control {
            seen: Observed::new("PEM"),
            scheduler: Scheduler::default(),
            cursors: BTreeMap::new(),
            dirty: BTreeSet::new(),
            timers: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        let mut wakes = Wakes::default();
        for kind in built_in().iter().filter(|k| k.kind != "Event") {
            let name = KindName::new(&kind.api_version(), &kind.kind);
            let text = kind_name(&name.api_version, &name.kind);
            let objects = api.list(&text).map(|o| decode(&name, o)).collect();
            for change in control.seen.reset(&name, objects, api.now) {
                control.scheduler.apply(&control.seen, &change, api.now);
                wakes.add(&control.seen, &change);
            }
            control.cursors.insert(text, (name, api.log.len()));
        }
        control.dirty.extend(wakes.keys);
        control
    }

    /// Shows up to `count` entries of the log to one kind's watch, or to all.
    pub fn watch(&mut self, api: &Api, kind: Option<usize>, count: usize) {
        let mut wakes = Wakes::default();
        let kinds: Vec<String> = self.cursors.keys().cloned().collect();
        let chosen: Vec<&String> = match kind {
            Some(index) => vec![&kinds[index % kinds.len()]],
            None => kinds.iter().collect(),
        };
        for kind in chosen {
            let (name, cursor) = self.cursors[kind].clone();
            let end = api.log.len().min(cursor + count);
            for entry in api.log[cursor..end].iter().filter(|e| e.kind == *kind) {
                let object = decode(&name, &entry.object);
                let change = if entry.deleted {
                    self.seen.delete(&object.meta, api.now)
                } else {
                    self.seen.apply(object, api.now)
                };
                self.scheduler.apply(&self.seen, &change, api.now);
                wakes.add(&self.seen, &change);
            }
            self.cursors.insert(kind.clone(), (name, end));
        }
        self.dirty.extend(wakes.keys);
        self.settle(api);
    }

    /// Lets go of the keys whose writes the index has seen.
    fn settle(&mut self, api: &Api) {
        let cursors = &self.cursors;
        let passed = |kind: &str, revision: u64| {
            let cursor = cursors[kind].1;
            api.log[..cursor].last().is_some_and(|e| e.revision >= revision)
        };
        self.running
            .retain(|_, r| !(r.done && r.writes.iter().all(|(kind, revision)| passed(kind, *revision))));
    }

    /// Decides about one key, or lets the scheduler decide.
    pub fn decide(&mut self, api: &Api, random: &mut Random) -> bool {
        let due: Vec<_> =
            self.timers.iter().filter(|(_, at)| **at <= api.now).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.timers.remove(&key);
            self.dirty.insert(key);
        }
        for (key, plan) in self.scheduler.schedule(&self.seen, api.now, 1 + random.below(4)) {
            self.run(Work::Scheduler(key), plan);
        }
        let free: Vec<_> = self
            .dirty
            .iter()
            .filter(|(c, k)| !self.running.contains_key(&Work::Controller(*c, k.clone())))
            .cloned()
            .collect();
        if free.is_empty() {
            return false;
        }
        let (controller, key) = free[random.below(free.len())].clone();
        self.dirty.remove(&(controller, key.clone()));
        let plan = reconcile(controller, &self.seen, &key, api.now);
        match plan.again_at {
            Some(at) => self.timers.insert((controller, key.clone()), at),
            None => self.timers.remove(&(controller, key.clone())),
        };
        if !plan.actions.is_empty() {
            self.run(Work::Controller(controller, key), plan);
        }
        true
    }

    fn run(&mut self, work: Work, plan: Plan) {
        self.running.insert(work, Running { actions: plan.actions.into(), ..Running::default() });
    }

    /// Executes one action of one plan. `fault` refuses it as a busy server would.
    pub fn execute(&mut self, api: &mut Api, random: &mut Random, fault: bool) -> bool {
        let works: Vec<Work> = self.running.iter().filter(|(_, r)| !r.done).map(|(w, _)| w.clone()).collect();
        if works.is_empty() {
            return false;
        }
        let work = works[random.below(works.len())].clone();
        let running = self.running.get_mut(&work).unwrap();
        if let Some(action) = running.actions.pop_front() {
            if action.chained && running.failed {
                running.actions.clear();
            } else {
                if let (Work::Controller(Controller::GarbageCollector, _), Verb::Delete { target, .. }) =
                    (&work, &action.verb)
                {
                    check_collected(api, target);
                }
                let done = if fault { Err(Refusal::unavailable("busy")) } else { api.perform(&action.verb) };
                match done {
                    Ok(written) => running.writes.extend(written),
                    Err(_) => running.failed = true,
                }
            }
        }
        if running.actions.is_empty() {
            running.done = true;
            let failed = running.failed;
            match &work {
                Work::Scheduler(key) => {
                    self.scheduler.finished(key, !failed, &self.seen, api.now);
                    self.running.remove(&work);
                }
                Work::Controller(controller, key) if failed => {
                    self.timers.insert((*controller, key.clone()), api.now);
                }
                Work::Controller(..) => {}
            }
            self.settle(api);
        }
        true
    }

    /// Every key of every controller, for the last check.
    pub fn all_plans(&self, api: &Api) -> Vec<(Controller, Key, Plan)> {
        let mut wakes = Wakes::default();
        for object in self.seen.graph.iter() {
            wakes.keys.insert((Controller::GarbageCollector, Key::new("", &object.uid)));
        }
        let keyed = |wakes: &mut Wakes, c: Controller, keys: Vec<Key>| {
            wakes.keys.extend(keys.into_iter().map(|k| (c, k)))
        };
        let named =
            |names: Vec<&std::sync::Arc<str>>| names.into_iter().map(|n| Key::new("", n)).collect::<Vec<_>>();
        keyed(
            &mut wakes,
            Controller::Deployment,
            self.seen.deployments.iter().map(|(k, _)| k.clone()).collect(),
        );
        let controllers = self.seen.replication_controllers.iter().map(|(k, _)| k.clone()).collect();
        keyed(&mut wakes, Controller::ReplicationController, controllers);
        let quotas = self.seen.resource_quotas.iter().map(|(k, _)| k.clone()).collect();
        keyed(&mut wakes, Controller::ResourceQuota, quotas);
        let budgets = self.seen.pod_disruption_budgets.iter().map(|(k, _)| k.clone()).collect();
        keyed(&mut wakes, Controller::Disruption, budgets);
        keyed(
            &mut wakes,
            Controller::ReplicaSet,
            self.seen.replica_sets.iter().map(|(k, _)| k.clone()).collect(),
        );
        keyed(
            &mut wakes,
            Controller::DaemonSet,
            self.seen.daemon_sets.iter().map(|(k, _)| k.clone()).collect(),
        );
        keyed(&mut wakes, Controller::CronJob, self.seen.cron_jobs.iter().map(|(k, _)| k.clone()).collect());
        keyed(
            &mut wakes,
            Controller::StatefulSet,
            self.seen.stateful_sets.iter().map(|(k, _)| k.clone()).collect(),
        );
        keyed(&mut wakes, Controller::Job, self.seen.jobs.iter().map(|(k, _)| k.clone()).collect());
        keyed(&mut wakes, Controller::JobOrphan, self.seen.pods.iter().map(|p| p.meta.key.clone()).collect());
        keyed(
            &mut wakes,
            Controller::EndpointSlice,
            self.seen.services.iter().map(|(k, _)| k.clone()).collect(),
        );
        let endpoints = self.seen.endpoints.iter().map(|(k, _)| k.clone()).collect();
        keyed(&mut wakes, Controller::EndpointSliceMirroring, endpoints);
        keyed(&mut wakes, Controller::Endpoints, self.seen.services.iter().map(|(k, _)| k.clone()).collect());
        keyed(&mut wakes, Controller::Node, named(self.seen.nodes.keys().collect()));
        for c in [Controller::ClaimBinder, Controller::ClaimProtection, Controller::VolumeExpansion] {
            keyed(&mut wakes, c, self.seen.persistent_volume_claims.iter().map(|(k, _)| k.clone()).collect());
        }
        for c in [Controller::VolumeBinder, Controller::VolumeProtection] {
            keyed(&mut wakes, c, self.seen.persistent_volumes.iter().map(|(k, _)| k.clone()).collect());
        }
        for c in [Controller::Namespace, Controller::ServiceAccount, Controller::RootCa] {
            keyed(&mut wakes, c, named(self.seen.namespaces.keys().collect()));
        }
        wakes.keys.into_iter().map(|(c, k)| (c, k.clone(), reconcile(c, &self.seen, &k, api.now))).collect()
    }
}

/// The garbage collector never deletes what somebody still owns.
fn check_collected(api: &Api, target: &proa_logic::controllers::plan::Reference) {
    let Some(object) =
        api.get(&kind_name(&target.api_version, &target.kind), &target.namespace, &target.name)
    else {
        return;
    };
    for owner in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
        let alive = api
            .objects
            .values()
            .any(|o| o["metadata"]["uid"] == owner["uid"] && o["metadata"]["deletionTimestamp"].is_null());
        assert!(!alive, "{target} is collected although {owner} is alive");
    }
}

fn decode(name: &KindName, object: &serde_json::Value) -> Object {
    Object::decode(name, &serde_json::to_vec(object).unwrap()).unwrap()
}
