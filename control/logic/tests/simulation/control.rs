//! The control plane as the shell runs it, in steps that chance can order: each kind's watch may
//! lag, plans are executed action by action, and a restart forgets everything but the API.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::built_in;
use proa_logic::controllers::reconcile;
use proa_logic::scheduler::Scheduler;
use proa_logic::world::autoscaling::sample::Sample;
use proa_logic::world::plan::{Action, Plan, Reference, Verb};
use proa_logic::world::{Controller, Key, KindName, Object, Observed, Wakes};

use super::api::{Api, kind_name};
use super::random::Random;
use super::{keys, oracle, scaling};

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
    /// What was refused of a create or a change of size.
    refused: Option<String>,
    writes: Vec<(String, u64)>,
    done: bool,
}

pub struct Control {
    pub seen: Observed,
    scheduler: Scheduler,
    /// How far each kind's watch has come in the log.
    cursors: BTreeMap<String, (KindName, usize)>,
    dirty: BTreeSet<(Controller, Key)>,
    timers: BTreeMap<(Controller, Key), Timestamp>,
    running: BTreeMap<Work, Running>,
    /// What the scheduler has decided and the watch has not shown.
    decided: oracle::Decided,
}

impl Control {
    /// A fresh start: the whole state is listed.
    pub fn start(api: &Api, now: Timestamp) -> Self {
        let mut seen = Observed { kinds: Arc::new(built_in::table()), ..Observed::new("PEM") };
        seen.settings.cluster_cidr = "10.42.0.0/16".into();
        let mut control = Control {
            seen,
            scheduler: Scheduler::default(),
            cursors: BTreeMap::new(),
            dirty: BTreeSet::new(),
            timers: BTreeMap::new(),
            running: BTreeMap::new(),
            decided: oracle::Decided::default(),
        };
        let mut wakes = Wakes::default();
        for kind in built_in::table().iter().filter(|k| k.kind != "Event" && k.view.is_none()) {
            let name = KindName::new(&kind.api_version(), &kind.kind);
            let text = kind_name(&name.api_version, &name.kind);
            let objects = api.list(&text).map(|o| decode(&name, o)).collect();
            for change in control.seen.reset(&name, objects, now) {
                control.scheduler.apply(&control.seen, &change, now);
                wakes.add(&control.seen, &change);
            }
            control.cursors.insert(text, (name, api.log.len()));
        }
        control.dirty.extend(wakes.keys);
        control
    }

    /// Shows up to `count` entries of the log to one kind's watch, or to all.
    pub fn watch(&mut self, api: &Api, now: Timestamp, kind: Option<usize>, count: usize) {
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
                    self.seen.delete(&object.meta, now)
                } else {
                    self.seen.apply(object, now)
                };
                self.scheduler.apply(&self.seen, &change, now);
                wakes.add(&self.seen, &change);
            }
            self.cursors.insert(kind.clone(), (name, end));
        }
        self.dirty.extend(wakes.keys);
        self.decided.forget(&self.seen);
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
    pub fn decide(&mut self, api: &mut Api, now: Timestamp, random: &mut Random) -> bool {
        let due: Vec<_> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.timers.remove(&key);
            self.dirty.insert(key);
        }
        for (key, plan) in self.scheduler.schedule(&self.seen, now, 1 + random.below(4)) {
            self.decided.check(api, &self.seen, &key, &plan);
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
        let mut plan = reconcile(controller, &self.seen, &key, now);
        if let Some(memory) = plan.memory.take() {
            self.seen.autoscaling.remember(&key, memory);
        }
        scaling::check_plan(api, &self.seen, &key, &plan);
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
    pub fn execute(&mut self, api: &mut Api, now: Timestamp, random: &mut Random, fault: bool) -> bool {
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
                check(api, &work, &action.verb);
                let done = if fault { Err(Refusal::unavailable("busy")) } else { api.perform(&action.verb) };
                running.note(api, &action.verb, done);
            }
        }
        if running.actions.is_empty() {
            self.finish(&work, now);
            self.settle(api);
        }
        true
    }

    fn finish(&mut self, work: &Work, now: Timestamp) {
        let running = self.running.get_mut(work).expect("it has just been executed");
        running.done = true;
        let failed = running.failed;
        match work {
            Work::Scheduler(key) => {
                if failed {
                    self.decided.fail(key);
                }
                self.scheduler.finished(key, !failed, &self.seen, now);
                self.running.remove(work);
            }
            Work::Controller(controller, key) => {
                let id = (*controller, key.clone());
                if failed {
                    self.timers.insert(id.clone(), now);
                }
                match running.refused.take() {
                    Some(text) => {
                        self.seen.refused.insert(id, text);
                    }
                    None if !failed && self.seen.refused.remove(&id).is_some() => {
                        self.dirty.insert(id);
                    }
                    None => {}
                }
            }
        }
    }

    /// What it is at, for people.
    pub fn show(&self) -> String {
        let running = self.running.iter().map(|(work, r)| format!("{work:?}: {:?}", r.actions));
        let mut timers: Vec<_> = self.timers.iter().map(|(key, at)| (at, key)).collect();
        timers.sort();
        let due = timers.into_iter().take(3).map(|(at, key)| format!("{key:?} at {at}"));
        let dirty = self.dirty.iter().map(|key| format!("{key:?}"));
        running.chain(due).chain(dirty).collect::<Vec<_>>().join("\n")
    }

    /// What every key of every controller wants done, for the last check.
    pub fn all_plans(&self, now: Timestamp) -> Vec<(Controller, Key, Plan)> {
        let plan = |(c, k): (Controller, Key)| (c, k.clone(), reconcile(c, &self.seen, &k, now));
        keys::all(&self.seen).map(plan).collect()
    }

    /// Takes what has been measured of pods, which is for all autoscalers to look at.
    pub fn measure(&mut self, sample: Sample) {
        self.seen.autoscaling.sample = Some(Arc::new(sample));
        let keys = self.seen.horizontal_pod_autoscalers.iter();
        self.dirty.extend(keys.map(|(key, _)| (Controller::HorizontalPodAutoscaler, key.clone())));
    }
}

impl Running {
    fn note(&mut self, api: &mut Api, verb: &Verb, done: Result<Option<(String, u64)>, Refusal>) {
        let refusal = match done {
            Ok(written) => return self.writes.extend(written),
            Err(refusal) => refusal,
        };
        self.failed = true;
        match refusal.code() {
            409 => api.meet("a write comes too late"),
            403 if refusal.to_string().contains("exceeded quota") => api.meet("a quota refuses"),
            _ => {}
        }
        if refusal.code() != 409 && matches!(verb, Verb::Create { .. } | Verb::Scale { .. }) {
            self.refused.get_or_insert(refusal.to_string());
            // What is refused to one will be refused to the next.
            while self.actions.front().is_some_and(|a| matches!(a.verb, Verb::Create { .. })) {
                self.actions.pop_front();
            }
        }
    }
}

/// What must hold of an action in the moment of its execution.
fn check(api: &mut Api, work: &Work, verb: &Verb) {
    match (work, verb) {
        (Work::Controller(Controller::GarbageCollector, _), Verb::Delete { target, .. }) => {
            check_collected(api, target);
        }
        (Work::Scheduler(key), Verb::Delete { target, .. }) => oracle::check_victim(api, key, target),
        _ => {}
    }
}

/// The garbage collector never deletes what somebody still owns.
fn check_collected(api: &Api, target: &Reference) {
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
