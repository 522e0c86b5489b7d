//! The control plane as the shell runs it, in steps that chance can order: each kind's watch may
//! lag, plans are executed action by action, which may wait for their commit, and a restart forgets
//! everything but the API.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use proa_control::registry::WatchOptions;
use proa_control::shell::perform::Done;
use proa_control::store::memory::Fault;
use proa_control::store::{EventKind, Revision};
use proa_control::watch::{WatchItem, WatchStream};
use proa_kinds::Kind;
use proa_logic::controllers::reconcile;
use proa_logic::scheduler::Scheduler;
use proa_logic::world::autoscaling::sample::Sample;
use proa_logic::world::observed::Change;
use proa_logic::world::plan::{Action, Plan, Reference, Verb};
use proa_logic::world::{Controller, Key, KindName, Object, Observed, Wakes};
use tokio::task::JoinHandle;

use super::api::{Api, Written, kind_name};
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
    /// What has been started and waits for its commit.
    waiting: Option<(Action, JoinHandle<Done>)>,
    failed: bool,
    /// What was refused of a create or a change of size.
    refused: Option<String>,
    writes: Vec<(String, u64)>,
    done: bool,
}

/// The watch of one kind.
struct Feed {
    kind: Arc<Kind>,
    name: KindName,
    stream: WatchStream,
    /// How far it has come.
    seen: Revision,
}

/// What a watch shows.
enum News {
    Changed(Change),
    /// It has to begin anew.
    Ended,
}

pub struct Control {
    /// Which server it works with.
    server: usize,
    pub seen: Observed,
    scheduler: Scheduler,
    feeds: BTreeMap<String, Feed>,
    dirty: BTreeSet<(Controller, Key)>,
    timers: BTreeMap<(Controller, Key), Timestamp>,
    running: BTreeMap<Work, Running>,
    /// What the scheduler has decided and the watch has not shown.
    decided: oracle::Decided,
}

impl Feed {
    /// A watch from now on, with all that is there.
    fn start(api: &Api, server: usize, kind: &Arc<Kind>) -> (Feed, Vec<Object>) {
        let options = WatchOptions { send_initial_events: Some(true), ..WatchOptions::default() };
        let mut stream = api.registry(server).watch(kind, None, options).expect("a watch of everything");
        let name = KindName::new(&kind.api_version(), &kind.kind);
        let mut objects = Vec::new();
        loop {
            match api.runtime().block_on(stream.next()) {
                Some(WatchItem::Event(_, object, _)) => objects.push(decode(kind, &name, &object.bytes)),
                Some(WatchItem::Bookmark(seen, true)) => {
                    return (Feed { kind: kind.clone(), name, stream, seen }, objects);
                }
                other => panic!("{other:?} in the initial state"),
            }
        }
    }

    /// The next that is there already.
    fn next(&mut self, seen: &mut Observed, now: Timestamp) -> Option<News> {
        match self.stream.next().now_or_never()? {
            Some(WatchItem::Event(kind, object, _)) => {
                self.seen = object.revision;
                let object = decode(&self.kind, &self.name, &object.bytes);
                Some(News::Changed(match kind {
                    EventKind::Deleted => seen.delete(&object.meta, now),
                    EventKind::Added | EventKind::Modified => seen.apply(object, now),
                }))
            }
            Some(WatchItem::Bookmark(..)) => None,
            Some(WatchItem::Error(_)) | None => Some(News::Ended),
        }
    }
}

impl Control {
    /// A fresh start: the whole state is listed.
    pub fn start(api: &Api, server: usize, now: Timestamp) -> Self {
        let mut seen = Observed { kinds: api.registry(server).kinds(), ..Observed::new("PEM") };
        seen.settings.cluster_cidr = "10.42.0.0/16".into();
        let mut control = Control {
            server,
            seen,
            scheduler: Scheduler::default(),
            feeds: BTreeMap::new(),
            dirty: BTreeSet::new(),
            timers: BTreeMap::new(),
            running: BTreeMap::new(),
            decided: oracle::Decided::default(),
        };
        let kinds: Vec<Arc<Kind>> = api.kinds().filter(|k| k.kind != "Event").cloned().collect();
        let mut wakes = Wakes::default();
        kinds.iter().for_each(|kind| control.list(api, kind, now, &mut wakes));
        control.dirty.extend(wakes.keys);
        control
    }

    fn list(&mut self, api: &Api, kind: &Arc<Kind>, now: Timestamp, wakes: &mut Wakes) {
        let (feed, objects) = Feed::start(api, self.server, kind);
        for change in self.seen.reset(&feed.name, objects, now) {
            self.scheduler.apply(&self.seen, &change, now);
            wakes.add(&self.seen, &change);
        }
        wakes.complete(&self.seen, &feed.name);
        self.feeds.insert(kind_name(&feed.name.api_version, &feed.name.kind), feed);
    }

    /// Shows up to `count` changes to one kind's watch, or to all.
    pub fn watch(&mut self, api: &mut Api, now: Timestamp, kind: Option<usize>, count: usize) {
        let mut wakes = Wakes::default();
        let kinds = self.feeds.len();
        let chosen = self.feeds.values_mut().enumerate();
        let chosen = chosen.filter(|(index, _)| kind.is_none_or(|kind| kind % kinds == *index));
        let mut ended = Vec::new();
        for (_, feed) in chosen {
            for _ in 0..count {
                match feed.next(&mut self.seen, now) {
                    Some(News::Changed(change)) => {
                        self.scheduler.apply(&self.seen, &change, now);
                        wakes.add(&self.seen, &change);
                    }
                    Some(News::Ended) => {
                        ended.push(feed.kind.clone());
                        break;
                    }
                    None => break,
                }
            }
        }
        for kind in ended {
            api.meet("a watch begins anew");
            self.list(api, &kind, now, &mut wakes);
        }
        self.dirty.extend(wakes.keys);
        self.decided.forget(&self.seen);
        self.settle();
    }

    /// Lets go of the keys whose writes the index has seen.
    fn settle(&mut self) {
        let passed = |(kind, revision): &(String, u64)| self.feeds[kind].seen >= *revision;
        self.running.retain(|_, r| !(r.done && r.writes.iter().all(passed)));
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

    /// Executes one action of one plan, or looks at what has become of it. With `faults` it may fail,
    /// or wait for its commit while others go on.
    pub fn execute(&mut self, api: &mut Api, now: Timestamp, random: &mut Random, faults: bool) -> bool {
        let works: Vec<Work> = self.running.iter().filter(|(_, r)| !r.done).map(|(w, _)| w.clone()).collect();
        if works.is_empty() {
            return false;
        }
        let work = works[random.below(works.len())].clone();
        let user = match &work {
            Work::Controller(..) => "system:kube-controller-manager",
            Work::Scheduler(_) => "system:kube-scheduler",
        };
        let running = self.running.get_mut(&work).unwrap();
        if let Some((action, request)) = running.waiting.take() {
            match api.answer(request) {
                Ok(done) => running.note(api, &action.verb, done),
                Err(request) => running.waiting = Some((action, request)),
            }
        } else if let Some(action) = running.actions.pop_front() {
            if action.chained && running.failed {
                running.actions.clear();
            } else {
                check(api, &work, &action.verb);
                if faults && random.one_in(8) {
                    api.fail(if random.one_in(2) { Fault::Refused } else { Fault::Unanswered });
                }
                if faults && random.one_in(2) {
                    api.lag();
                }
                if faults && random.one_in(3) {
                    let request = api.start(self.server, user, &action.verb);
                    running.waiting = Some((action, request));
                } else {
                    let done = api.perform(self.server, user, &action.verb);
                    running.note(api, &action.verb, done);
                }
            }
        }
        if running.actions.is_empty() && running.waiting.is_none() {
            self.finish(&work, now);
            self.settle();
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
    fn note(&mut self, api: &mut Api, verb: &Verb, done: Written) {
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

fn decode(kind: &Kind, name: &KindName, bytes: &[u8]) -> Object {
    let object = Object::decode(name, bytes).unwrap();
    match kind.scale() {
        Some(paths) => object.sized(paths, bytes).unwrap(),
        None => object,
    }
}
