//! Scheduler: gives each pod a node.
//!
//! The shell tells it which pods have changed and whether there may be more room
//! ([`Scheduler::note`]), asks for decisions ([`Scheduler::schedule`]) and says how each went
//! ([`Scheduler::finished`]). Between a decision and the moment it is seen in [`Observed`], the
//! pod is assumed to be on its node, so that the room is not given away twice.

pub(crate) mod filter;
mod score;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::controllers::facts::{Key, Node, Pod};
use crate::controllers::observed::Observed;
use crate::controllers::plan::{Change, Guard, Plan, Problem, Report, Verb};
use crate::controllers::pods::Load;
use crate::kinds::Part;

pub use filter::{Misfit, fits};

/// Who an Event says it comes from.
pub const COMPONENT: &str = "default-scheduler";

/// A pod that fitted nowhere is tried again after this long even if nothing seems to have
/// changed.
const RETRY: SignedDuration = SignedDuration::from_mins(5);
const BACK_OFF_SECONDS: i64 = 1;
const MAX_BACK_OFF_SECONDS: i64 = 10;

/// The pods that wait for a node, and those on their way to one.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
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
    /// Takes note of pods that have changed, and of `room` that may have become free.
    pub fn note(&mut self, seen: &Observed, pods: &BTreeSet<Key>, room: bool, now: Timestamp) {
        for key in pods {
            match seen.pods.get(key).filter(|p| wants_node(p)) {
                Some(pod) => self.note_pod(pod),
                None => self.forget(key),
            }
        }
        if room {
            let parked: Vec<(Key, Timestamp)> = self
                .waiting
                .iter()
                .filter_map(|(key, w)| match w.state {
                    State::Parked(not_before, _) => Some((key.clone(), not_before)),
                    _ => None,
                })
                .collect();
            for (key, not_before) in parked {
                if not_before <= now {
                    self.queue(&key)
                } else {
                    self.set(&key, State::BackingOff(not_before))
                }
            }
        }
    }

    /// Decides about up to `limit` pods whose turn it is.
    pub fn schedule(&mut self, seen: &Observed, now: Timestamp, limit: usize) -> Vec<(Key, Plan)> {
        self.wake_sleepers(now);
        self.settle(seen);
        if self.turns.is_empty() {
            return Vec::new();
        }
        let mut loads = self.loads(seen);
        let mut plans = Vec::new();
        let mut later = Vec::new();
        while plans.len() < limit {
            let Some(turn) = self.turns.pop_first() else { break };
            if self.busy.contains(&turn.2) {
                later.push(turn);
                continue;
            }
            let Some(pod) = self.waiting.get(&turn.2).map(|w| w.pod.clone()) else { continue };
            let plan = match choose(&pod, seen, &loads) {
                Ok(node) => {
                    let load = loads.entry(node.clone()).or_default();
                    load.add(&pod.requests, &pod.host_ports);
                    self.waiting.remove(&turn.2);
                    self.assumed.insert(turn.2.clone(), Assumed { pod: pod.clone(), node: node.clone() });
                    bind(&pod, &node)
                }
                Err(message) => {
                    self.park(&turn.2, now);
                    unschedulable(&pod, message, now)
                }
            };
            self.busy.insert(turn.2.clone());
            plans.push((turn.2, plan));
        }
        self.turns.extend(later);
        plans
    }

    /// Takes note of how a plan went.
    pub fn finished(&mut self, key: &Key, well: bool, seen: &Observed, now: Timestamp) {
        self.busy.remove(key);
        if well {
            return;
        }
        let Some(assumed) = self.assumed.remove(key) else { return };
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

    /// What has been seen need not be assumed.
    fn settle(&mut self, seen: &Observed) {
        let busy = &self.busy;
        self.assumed.retain(|key, assumed| match seen.pods.get(key) {
            Some(pod) if pod.meta.uid == assumed.pod.meta.uid => pod.node.is_none() && !pod.is_finished(),
            _ => busy.contains(key),
        });
    }

    /// What each node carries, with what is assumed of it.
    fn loads(&self, seen: &Observed) -> BTreeMap<Arc<str>, Load> {
        let mut loads = BTreeMap::new();
        for name in seen.nodes.keys() {
            let load = seen.pods.load(name).map(|l| Load { pods: BTreeSet::new(), ..l.clone() });
            loads.insert(name.clone(), load.unwrap_or_default());
        }
        for assumed in self.assumed.values() {
            let load: &mut Load = loads.entry(assumed.node.clone()).or_default();
            load.add(&assumed.pod.requests, &assumed.pod.host_ports);
        }
        loads
    }
}

fn wants_node(pod: &Pod) -> bool {
    let schedulable = pod.wishes.as_ref().is_some_and(|w| w.schedulable);
    pod.node.is_none() && schedulable && pod.is_active()
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

/// The best node for a pod, or the text that says why there is none.
fn choose(pod: &Pod, seen: &Observed, loads: &BTreeMap<Arc<str>, Load>) -> Result<Arc<str>, String> {
    let empty = Load::default();
    let mut candidates: Vec<(&Node, &Load)> = Vec::new();
    let mut misfits = Vec::new();
    for (name, node) in seen.nodes.iter().filter(|(_, n)| n.meta.deleted.is_none()) {
        let load = loads.get(name).unwrap_or(&empty);
        match fits(pod, node, load) {
            Ok(()) => candidates.push((node, load)),
            Err(misfit) => misfits.push(misfit),
        }
    }
    match score::best(pod, &candidates) {
        Some(index) => Ok(candidates[index].0.meta.key.name.clone()),
        None => Err(explain(&misfits)),
    }
}

/// `0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: …`
fn explain(misfits: &[Misfit]) -> String {
    if misfits.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let total = misfits.len();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in misfits.iter().flat_map(|m| &m.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut preemption: BTreeMap<&str, usize> = BTreeMap::new();
    for misfit in misfits {
        let reason = if misfit.by_others {
            "No preemption victims found for incoming pod"
        } else {
            "Preemption is not helpful for scheduling"
        };
        *preemption.entry(reason).or_default() += 1;
    }
    let list = |counts: BTreeMap<&str, usize>| {
        let mut texts: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        texts.sort();
        texts.join(", ")
    };
    format!(
        "0/{total} nodes are available: {}. preemption: 0/{total} nodes are available: {}.",
        list(counts),
        list(preemption)
    )
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
