//! Scheduler: gives each pod a node.
//!
//! The shell tells it which pods have changed and whether there may be more room
//! ([`Scheduler::note`]), asks for decisions ([`Scheduler::schedule`]) and says how each went
//! ([`Scheduler::finished`]). Between a decision and the moment it is seen in [`Observed`], the
//! pod is assumed to be on its node, so that the room is not given away twice.
//!
//! A pod is placed in a [`cycle`] by [`plugins`] that look at a [`snapshot`], under the settings
//! of a [`profile`].

pub mod args;
pub mod cycle;
pub mod domains;
pub mod explain;
pub mod framework;
pub mod plugins;
pub mod profile;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::controllers::facts::{Fact, Key, Pod};
use crate::controllers::observed::{Change as Seen, Observed};
use crate::controllers::plan::{Change, Guard, Plan, Problem, Report, Verb};
use crate::kinds::Part;

use cycle::{Choice, Diagnosis, Rotation};
use framework::Cycle;
use plugins::CycleState;
use profile::Profile;
use snapshot::Snapshot;

/// Who an Event says it comes from.
pub const COMPONENT: &str = "default-scheduler";

/// A pod that fitted nowhere is tried again after this long even if nothing seems to have
/// changed.
const RETRY: SignedDuration = SignedDuration::from_mins(5);
const BACK_OFF_SECONDS: i64 = 1;
const MAX_BACK_OFF_SECONDS: i64 = 10;

/// The pods that wait for a node, and those on their way to one.
#[derive(Clone, Debug)]
pub struct Scheduler {
    profiles: Vec<Profile>,
    snapshot: Snapshot,
    rotation: Rotation,
    turns: BTreeSet<Turn>,
    waiting: BTreeMap<Key, Waiting>,
    /// When those that back off or are parked get a turn in any case.
    due: BTreeSet<(Timestamp, Key)>,
    assumed: BTreeMap<Key, Assumed>,
    /// Pods whose last decision is still being executed.
    busy: BTreeSet<Key>,
}

/// Who is tried first: higher priority, then older.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(Reverse<i32>, Timestamp, Key);

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<Pod>,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has a turn.
    Queued,
    /// It gets a turn at this time.
    BackingOff(Timestamp),
    /// It fitted nowhere. It gets a turn when there is more room, but not before the first time,
    /// and at the second time in any case.
    Parked(Timestamp, Timestamp),
}

impl State {
    fn due(self) -> Option<Timestamp> {
        match self {
            State::Queued => None,
            State::BackingOff(at) | State::Parked(_, at) => Some(at),
        }
    }
}

#[derive(Clone, Debug)]
struct Assumed {
    pod: Arc<Pod>,
    node: Arc<str>,
}

impl Scheduler {
    /// A scheduler that has seen nothing yet.
    pub fn new(profiles: Vec<Profile>) -> Self {
        Scheduler {
            profiles,
            snapshot: Snapshot::default(),
            rotation: Rotation::default(),
            turns: BTreeSet::new(),
            waiting: BTreeMap::new(),
            due: BTreeSet::new(),
            assumed: BTreeMap::new(),
            busy: BTreeSet::new(),
        }
    }

    /// The same scheduler as if it had just been started, with everything there is.
    pub fn restart(&self, seen: &Observed, now: Timestamp) -> Self {
        let mut fresh = Scheduler::new(self.profiles.clone());
        for node in seen.nodes.keys() {
            fresh.note_node(seen, node);
        }
        for pod in seen.pods.unbound() {
            fresh.note_pod(pod);
        }
        fresh.wake_sleepers(now);
        fresh
    }

    /// Takes note of a change that has just been folded into `seen`.
    pub fn apply(&mut self, seen: &Observed, change: &Seen, now: Timestamp) {
        let (old, new) = (change.old.as_ref().map(|o| &o.fact), change.new.as_ref().map(|o| &o.fact));
        let mut room = false;
        match (old, new) {
            (_, Some(Fact::Pod(pod))) => {
                // What is kept shares its labels with its like.
                let pod = seen.pods.get(&pod.meta.key).unwrap_or(pod);
                let held = old.is_some() && self.snapshot.pod(&pod.meta.key).is_some();
                self.note_bound(seen, &pod.meta.key);
                room = held && self.snapshot.pod(&pod.meta.key).is_none();
                match wants_node(pod) && self.profile(pod).is_some() {
                    true => self.note_pod(pod),
                    false => self.forget(&pod.meta.key),
                }
            }
            (Some(Fact::Pod(pod)), _) => {
                self.assumed.remove(&pod.meta.key);
                room = self.snapshot.remove(&pod.meta.key).is_some();
                self.forget(&pod.meta.key);
            }
            (_, Some(Fact::Node(node))) => {
                self.note_node(seen, &node.meta.key.name);
                room = true;
            }
            (Some(Fact::Node(node)), _) => self.note_node(seen, &node.meta.key.name),
            (_, Some(Fact::PersistentVolumeClaim(_) | Fact::PersistentVolume(_) | Fact::StorageClass(_))) => {
                room = true;
            }
            _ => {}
        }
        if room {
            self.wake_parked(now);
        }
    }

    fn wake_parked(&mut self, now: Timestamp) {
        let parked: Vec<(Key, Timestamp)> = self
            .waiting
            .iter()
            .filter_map(|(key, w)| match w.state {
                State::Parked(not_before, _) => Some((key.clone(), not_before)),
                _ => None,
            })
            .collect();
        for (key, not_before) in parked {
            if not_before <= now { self.queue(&key) } else { self.set(&key, State::BackingOff(not_before)) }
        }
    }

    /// Places a pod where it is seen to be, or else assumed.
    fn note_bound(&mut self, seen: &Observed, key: &Key) {
        let Some(pod) = seen.pods.get(key) else { return };
        if pod.is_finished() {
            self.assumed.remove(key);
            self.snapshot.remove(key);
        } else if let Some(node) = &pod.node {
            self.assumed.remove(key);
            self.snapshot.place(pod.clone(), node);
        } else if self.assumed.get(key).is_some_and(|a| a.pod.meta.uid != pod.meta.uid) {
            self.assumed.remove(key);
            self.snapshot.remove(key);
        }
    }

    fn note_node(&mut self, seen: &Observed, name: &Arc<str>) {
        let Some(node) = seen.nodes.get(name).filter(|n| n.meta.deleted.is_none()) else {
            self.snapshot.remove_node(name);
            return;
        };
        let known = self.snapshot.by_name(name).is_some();
        self.snapshot.set_node(node.clone());
        if known {
            return;
        }
        for pod in seen.pods.on_node(name).filter(|p| !p.is_finished()) {
            self.snapshot.place(pod.clone(), name);
        }
        for assumed in self.assumed.values().filter(|a| a.node == *name) {
            self.snapshot.place(assumed.pod.clone(), name);
        }
    }

    fn profile(&self, pod: &Pod) -> Option<usize> {
        let name = &pod.wishes.as_ref()?.scheduler;
        self.profiles.iter().position(|p| *p.name == **name)
    }

    /// Decides about up to `limit` pods whose turn it is.
    pub fn schedule(&mut self, seen: &Observed, now: Timestamp, limit: usize) -> Vec<(Key, Plan)> {
        self.wake_sleepers(now);
        self.snapshot.arrange();
        let mut plans = Vec::new();
        let mut later = Vec::new();
        while plans.len() < limit {
            let Some(turn) = self.turns.pop_first() else { break };
            if self.busy.contains(&turn.2) {
                later.push(turn);
                continue;
            }
            let Some(pod) = self.waiting.get(&turn.2).map(|w| w.pod.clone()) else { continue };
            let Some(plan) = self.place(seen, &pod, now) else { continue };
            self.busy.insert(turn.2.clone());
            plans.push((turn.2, plan));
        }
        self.turns.extend(later);
        plans
    }

    fn place(&mut self, seen: &Observed, pod: &Arc<Pod>, now: Timestamp) -> Option<Plan> {
        let profile = &self.profiles[self.profile(pod)?];
        let wishes = pod.wishes.as_deref()?;
        let cycle = Cycle { pod, wishes, snapshot: &self.snapshot, seen, profile };
        let mut state = CycleState::default();
        let key = &pod.meta.key;
        Some(match cycle::choose(&cycle, &mut state, &mut self.rotation) {
            Choice::Node(index) => {
                if let Some(plan) = plugins::volume_binding::pre_bind(&cycle, &state, cycle.node(index)) {
                    self.park(key, now);
                    return Some(plan);
                }
                let node = cycle.node(index).name().clone();
                self.snapshot.place(pod.clone(), &node);
                self.waiting.remove(key);
                self.assumed.insert(key.clone(), Assumed { pod: pod.clone(), node: node.clone() });
                bind(pod, &node)
            }
            Choice::Nowhere(diagnosis) => {
                let message = message(&cycle, &diagnosis);
                self.park(key, now);
                unschedulable(pod, message, now)
            }
        })
    }

    /// Takes note of how a plan went.
    pub fn finished(&mut self, key: &Key, well: bool, seen: &Observed, now: Timestamp) {
        self.busy.remove(key);
        if well {
            return;
        }
        let Some(assumed) = self.assumed.remove(key) else { return };
        self.snapshot.remove(key);
        self.note_bound(seen, key);
        self.wake_parked(now);
        let current = seen.pods.get(key).filter(|p| wants_node(p) && p.meta.uid == assumed.pod.meta.uid);
        if let Some(pod) = current {
            let waiting = Waiting { pod: pod.clone(), attempts: 1, state: State::Queued };
            self.waiting.insert(key.clone(), waiting);
            self.set(key, State::BackingOff(now + back_off(1)));
        }
    }

    /// When there is something to do without anything happening.
    pub fn again_at(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// True if a pod has its turn now.
    pub fn has_turns(&self) -> bool {
        self.turns.iter().any(|t| !self.busy.contains(&t.2))
    }

    fn note_pod(&mut self, pod: &Arc<Pod>) {
        let key = &pod.meta.key;
        if self.assumed.get(key).is_some_and(|a| a.pod.meta.uid == pod.meta.uid) {
            return;
        }
        match self.waiting.get_mut(key) {
            Some(waiting) if waiting.pod.meta.uid == pod.meta.uid => {
                let same = asks_the_same(&waiting.pod, pod);
                if !same && waiting.state == State::Queued {
                    self.turns.remove(&turn(&waiting.pod));
                }
                waiting.pod = pod.clone();
                if !same {
                    self.queue(key);
                }
            }
            _ => {
                self.forget(key);
                let waiting = Waiting { pod: pod.clone(), attempts: 0, state: State::Queued };
                self.waiting.insert(key.clone(), waiting);
                self.queue(key);
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        self.set(key, State::Queued);
        if let Some(waiting) = self.waiting.remove(key) {
            self.turns.remove(&turn(&waiting.pod));
        }
    }

    fn queue(&mut self, key: &Key) {
        self.set(key, State::Queued);
        if let Some(waiting) = self.waiting.get(key) {
            self.turns.insert(turn(&waiting.pod));
        }
    }

    fn set(&mut self, key: &Key, state: State) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        if let Some(at) = waiting.state.due() {
            self.due.remove(&(at, key.clone()));
        }
        waiting.state = state;
        if let Some(at) = state.due() {
            self.due.insert((at, key.clone()));
        }
    }

    fn park(&mut self, key: &Key, now: Timestamp) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        waiting.attempts = waiting.attempts.saturating_add(1);
        let not_before = now + back_off(waiting.attempts);
        self.set(key, State::Parked(not_before, now + RETRY));
    }

    fn wake_sleepers(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                return;
            }
            self.due.pop_first();
            self.queue(&key);
        }
    }
}

fn wants_node(pod: &Pod) -> bool {
    let free = pod.wishes.as_ref().is_some_and(|w| w.gates.is_empty());
    pod.node.is_none() && free && pod.is_active()
}

fn turn(pod: &Pod) -> Turn {
    Turn(Reverse(pod.priority), pod.meta.created, pod.meta.key.clone())
}

fn asks_the_same(old: &Pod, new: &Pod) -> bool {
    old.wishes == new.wishes
        && old.tolerations == new.tolerations
        && old.requests == new.requests
        && old.host_ports == new.host_ports
        && old.priority == new.priority
}

fn back_off(attempts: u32) -> SignedDuration {
    let seconds = BACK_OFF_SECONDS << attempts.saturating_sub(1).min(10);
    SignedDuration::from_secs(seconds.min(MAX_BACK_OFF_SECONDS))
}

/// Why a pod fits nowhere, and that nobody can be sent away for it.
fn message(cycle: &Cycle<'_>, diagnosis: &Diagnosis) -> String {
    let nodes = cycle.snapshot.len();
    let text = explain::explain(cycle, diagnosis);
    if nodes == 0 {
        return text;
    }
    let helpful = diagnosis.rejected.iter().filter(|r| !r.misfit.unresolvable).count();
    let mut preemption = explain::Reasons::default();
    preemption.add("No preemption victims found for incoming pod", helpful);
    preemption.add("Preemption is not helpful for scheduling", nodes - helpful);
    format!("{text} preemption: {}", preemption.text(nodes))
}

fn bind(pod: &Pod, node: &str) -> Plan {
    let key = &pod.meta.key;
    let report = Report {
        about: pod.meta.reference(),
        done: Some(("Scheduled", format!("Successfully assigned {}/{} to {node}", key.namespace, key.name))),
        failed: Some(("FailedScheduling", "binding rejected: {}".to_owned())),
    };
    let mut plan = Plan::default();
    plan.act_and_report(Verb::Bind { pod: pod.meta.reference(), node: node.to_owned() }, report);
    plan
}

fn unschedulable(pod: &Pod, message: String, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if pod.unschedulable.as_deref() != Some(&message) {
        plan.act(Verb::Patch {
            target: pod.meta.reference(),
            part: Part::Status,
            guard: Guard::NONE,
            change: Change::Conditions(vec![json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
            })]),
        });
    }
    plan.problems.push(Problem {
        about: pod.meta.reference(),
        warning: true,
        reason: "FailedScheduling",
        message,
    });
    plan
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::new(vec![Profile::new(proa_api::names::DEFAULT_SCHEDULER)])
    }
}
