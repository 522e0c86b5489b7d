//! Scheduler: gives each pod a node.
//!
//! The shell tells it what has changed ([`Scheduler::apply`]), asks for decisions
//! ([`Scheduler::schedule`]) and says how each went ([`Scheduler::finished`]). Between a decision
//! and the moment it is seen in [`Observed`], the pod is assumed to be on its node, so that the
//! room is not given away twice.
//!
//! Pods wait in a [`queue`]. Each is placed in a [`cycle`] by [`plugins`] that look at a
//! [`snapshot`], under the settings of a [`profile`]; where it fits nowhere, [`preemption`] may
//! make room. [`configuration`] reads the settings, [`outcome`] writes what comes of it.

pub mod args;
pub mod plugin;
pub mod profile;

pub mod domains;
pub mod framework;
pub mod members;
pub mod node_info;
pub mod nominated;
pub mod plugins;
pub mod snapshot;

pub mod configuration;
pub mod cycle;
pub mod explain;
mod outcome;
mod preemption;
pub mod queue;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::world::facts::{Fact, Key, Node, Object, Pod};
use crate::world::observed::{Change, Observed};
use crate::world::plan::Plan;

use cycle::{Choice, Rotation};
use framework::{Cycle, Event, PreBind};
use nominated::Nominated;
use plugins::CycleState;
use preemption::Preemption;
use queue::Queue;
use settings::Settings;
use snapshot::Snapshot;

/// Who an Event says it comes from.
pub const COMPONENT: &str = "default-scheduler";

/// What a pod needs before it is bound, such as a volume, is waited for so long.
const PRE_BIND: SignedDuration = SignedDuration::from_mins(10);

/// Other kinds that plugins look at.
const OTHER_KINDS: [(&str, &str); 6] = [
    ("storage.k8s.io/v1", "CSINode"),
    ("storage.k8s.io/v1", "CSIStorageCapacity"),
    ("v1", "Namespace"),
    ("v1", "PersistentVolume"),
    ("v1", "PersistentVolumeClaim"),
    ("storage.k8s.io/v1", "StorageClass"),
];

/// The pods that wait for a node, those on their way to one, and the nodes.
#[derive(Clone, Debug)]
pub struct Scheduler {
    settings: Settings,
    snapshot: Snapshot,
    nominated: Nominated,
    rotation: Rotation,
    queue: Queue,
    assumed: BTreeMap<Key, Assumed>,
    /// Assumed pods that are not bound before something else is done.
    pending: BTreeSet<Key>,
    /// Those of them for whom it may have been done.
    advancing: BTreeSet<Key>,
    /// Pods whose last decision is still being executed.
    busy: BTreeSet<Key>,
}

#[derive(Clone, Debug)]
struct Assumed {
    pod: Arc<Pod>,
    node: Arc<str>,
    attempts: u32,
    since: Timestamp,
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::new(Settings::default())
    }
}

impl Scheduler {
    /// A scheduler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Scheduler {
            queue: Queue::new(settings.back_off),
            settings,
            snapshot: Snapshot::default(),
            nominated: Nominated::default(),
            rotation: Rotation::default(),
            assumed: BTreeMap::new(),
            pending: BTreeSet::new(),
            advancing: BTreeSet::new(),
            busy: BTreeSet::new(),
        }
    }

    /// The same scheduler as if it had just been started, with everything there is.
    pub fn restart(&self, seen: &Observed, now: Timestamp) -> Self {
        let mut fresh = Scheduler::new(self.settings.clone());
        for node in seen.nodes.keys() {
            fresh.note_node(seen, node);
        }
        for pod in seen.pods.unbound() {
            fresh.note_pod(seen, None, pod, now);
        }
        fresh
    }

    /// Takes note of a change that has just been folded into `seen`.
    pub fn apply(&mut self, seen: &Observed, change: &Change, now: Timestamp) {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        match (old.map(|o| &o.fact), new.map(|o| &o.fact)) {
            (old, Some(Fact::Pod(pod))) => {
                let old = old.and_then(|fact| if let Fact::Pod(old) = fact { Some(&**old) } else { None });
                self.note_pod(seen, old, pod, now);
            }
            (Some(Fact::Pod(pod)), _) => self.note_pod_gone(&pod.meta.key, now),
            (old, Some(Fact::Node(node))) => {
                self.note_node(seen, &node.meta.key.name);
                match old {
                    Some(Fact::Node(old)) if !takes_others(old, node) => {}
                    Some(Fact::Node(old)) => self.queue.wake(&Event::NodeChanged { old, new: node }, now),
                    _ => self.queue.wake(&Event::NodeAdded(node), now),
                }
            }
            (Some(Fact::Node(node)), _) => self.note_node(seen, &node.meta.key.name),
            _ => self.note_other(new.or(old), now),
        }
    }

    /// Decides about up to `limit` pods whose turn it is.
    pub fn schedule(&mut self, seen: &Observed, now: Timestamp, limit: usize) -> Vec<(Key, Plan)> {
        self.queue.wake_due(now);
        self.snapshot.arrange();
        let mut plans = self.advance_pending(seen, now);
        while plans.len() < limit {
            let Some(pod) = self.queue.next(&self.busy) else { break };
            let key = pod.meta.key.clone();
            let plan = self.place(seen, &pod, now);
            if !plan.is_empty() {
                self.busy.insert(key.clone());
                plans.push((key, plan));
            }
        }
        plans
    }

    /// Takes note of how a plan went.
    pub fn finished(&mut self, key: &Key, well: bool, seen: &Observed, now: Timestamp) {
        self.busy.remove(key);
        if well {
            return;
        }
        if self.assumed.contains_key(key) {
            self.give_up(key, seen, now);
        } else {
            self.queue.rouse(key, now);
        }
    }

    /// When there is something to do without anything happening.
    pub fn again_at(&self) -> Option<Timestamp> {
        let pending = self.pending.iter().filter_map(|key| self.assumed.get(key));
        let pending = pending.map(|a| a.since + PRE_BIND).min();
        [self.queue.again_at(), pending].into_iter().flatten().min()
    }

    /// True if a pod has its turn now.
    pub fn has_turns(&self) -> bool {
        self.queue.has_turns(&self.busy) || self.advancing.iter().any(|key| !self.busy.contains(key))
    }

    fn note_pod(&mut self, seen: &Observed, old: Option<&Pod>, pod: &Arc<Pod>, now: Timestamp) {
        // What is kept shares its labels with its like.
        let pod = seen.pods.get(&pod.meta.key).unwrap_or(pod);
        let key = &pod.meta.key;
        let before = self.snapshot.pod(key).cloned();
        self.note_bound(pod);
        let after = self.snapshot.pod(key).cloned();
        match (&before, &after) {
            (Some(old), Some(new)) if !matters_the_same(old, new) => {
                self.queue.wake(&Event::PodChanged { old, new }, now);
            }
            (None, Some(new)) => self.queue.wake(&Event::PodPlaced(new), now),
            (Some(old), None) => self.queue.wake(&Event::PodGone(old), now),
            _ => {}
        }
        if wants_node(pod) && self.settings.profile(pod).is_some() {
            if !self.assumed.contains_key(key) {
                self.queue.note(pod, now);
                self.nominated.note(old, pod);
            }
        } else {
            self.queue.forget(key);
            self.nominated.remove(key);
        }
    }

    fn note_pod_gone(&mut self, key: &Key, now: Timestamp) {
        self.assumed.remove(key);
        self.not_pending(key);
        self.queue.forget(key);
        self.nominated.remove(key);
        if let Some(gone) = self.snapshot.remove(key) {
            self.queue.wake(&Event::PodGone(&gone), now);
        }
    }

    fn not_pending(&mut self, key: &Key) {
        self.pending.remove(key);
        self.advancing.remove(key);
    }

    /// Places a pod where it is seen to be, or else assumed.
    fn note_bound(&mut self, pod: &Arc<Pod>) {
        let key = &pod.meta.key;
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
        if !self.assumed.contains_key(key) {
            self.not_pending(key);
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

    fn note_other(&mut self, object: Option<&Object>, now: Timestamp) {
        let Some(meta) = object.map(|o| &o.meta) else { return };
        if OTHER_KINDS.contains(&(&*meta.kind.api_version, &*meta.kind.kind)) {
            self.queue.wake(&Event::Other { kind: &meta.kind.kind, key: &meta.key }, now);
            self.advancing.extend(self.pending.iter().cloned());
        }
    }

    /// Places one pod.
    fn place(&mut self, seen: &Observed, pod: &Arc<Pod>, now: Timestamp) -> Plan {
        let key = &pod.meta.key;
        let (Some(profile), Some(wishes)) = (self.settings.profile(pod), pod.wishes.as_deref()) else {
            self.queue.forget(key);
            return Plan::default();
        };
        let cycle =
            Cycle { pod, wishes, snapshot: &self.snapshot, nominated: &self.nominated, seen, profile };
        let mut state = CycleState::default();
        match cycle::choose(&cycle, &mut state, &mut self.rotation) {
            Choice::Node(index) => {
                let node = cycle.node(index);
                let (name, pre_bind) = (node.name().clone(), cycle::pre_bind(&cycle, &state, node));
                self.assume(pod, name, pre_bind, now)
            }
            Choice::Nowhere(diagnosis) => {
                let text = explain::explain(&cycle, &diagnosis);
                let offset = self.rotation.offset();
                let preemption = (profile.preempts && !cycle.snapshot.is_empty())
                    .then(|| preemption::preempt(&cycle, &state, &diagnosis, offset, now));
                let rejected_by: BTreeSet<_> = diagnosis.plugins().collect();
                self.queue.park(key, rejected_by, now);
                self.make_room(pod, text, preemption, now)
            }
        }
    }

    /// Assumes that a pod is on a node, and sees to it that it will be.
    fn assume(&mut self, pod: &Arc<Pod>, node: Arc<str>, pre_bind: PreBind, now: Timestamp) -> Plan {
        let key = &pod.meta.key;
        let attempts = self.queue.take(key);
        self.nominated.remove(key);
        let plan = match pre_bind {
            PreBind::Ready => outcome::bind(pod, &node),
            PreBind::Wait(plan) => {
                self.pending.insert(key.clone());
                plan
            }
            PreBind::Refuse => {
                self.queue.put_back(pod, attempts, now);
                return Plan::default();
            }
        };
        self.snapshot.place(pod.clone(), &node);
        self.queue.wake(&Event::PodPlaced(pod), now);
        self.assumed.insert(key.clone(), Assumed { pod: pod.clone(), node, attempts, since: now });
        plan
    }

    /// What an assumed pod still needs before it is bound.
    fn needs(&self, seen: &Observed, assumed: &Assumed) -> PreBind {
        let current = seen.pods.get(&assumed.pod.meta.key).filter(|p| p.meta.uid == assumed.pod.meta.uid);
        let pod = current.unwrap_or(&assumed.pod);
        let (Some(profile), Some(wishes)) = (self.settings.profile(pod), pod.wishes.as_deref()) else {
            return PreBind::Refuse;
        };
        let Some(node) = self.snapshot.by_name(&assumed.node) else { return PreBind::Refuse };
        let (snapshot, nominated) = (&self.snapshot, &self.nominated);
        cycle::pre_bind_again(&Cycle { pod, wishes, snapshot, nominated, seen, profile }, node)
    }

    /// Binds those that have what they needed.
    fn advance_pending(&mut self, seen: &Observed, now: Timestamp) -> Vec<(Key, Plan)> {
        let late = |a: &Assumed| a.since + PRE_BIND <= now;
        let free: Vec<Key> = self.pending.iter().filter(|key| !self.busy.contains(*key)).cloned().collect();
        let mut plans = Vec::new();
        for key in free {
            let Some(assumed) = self.assumed.get(&key).cloned() else { continue };
            if !self.advancing.remove(&key) && !late(&assumed) {
                continue;
            }
            match self.needs(seen, &assumed) {
                PreBind::Ready => {
                    self.not_pending(&key);
                    self.busy.insert(key.clone());
                    plans.push((key, outcome::bind(&assumed.pod, &assumed.node)));
                }
                PreBind::Wait(plan) if !late(&assumed) => {
                    if !plan.is_empty() {
                        self.busy.insert(key.clone());
                        plans.push((key, plan));
                    }
                }
                PreBind::Wait(_) | PreBind::Refuse => self.give_up(&key, seen, now),
            }
        }
        plans
    }

    /// The pod is not on the node that it was assumed to be on after all.
    fn give_up(&mut self, key: &Key, seen: &Observed, now: Timestamp) {
        let Some(assumed) = self.assumed.remove(key) else { return };
        self.not_pending(key);
        if let Some(gone) = self.snapshot.remove(key) {
            self.queue.wake(&Event::PodGone(&gone), now);
        }
        let Some(pod) = seen.pods.get(key) else { return };
        self.note_bound(pod);
        if wants_node(pod) && pod.meta.uid == assumed.pod.meta.uid {
            self.queue.put_back(pod, assumed.attempts, now);
            self.nominated.note(None, pod);
        }
    }

    /// Says why the pod has no node, and sends away whom preemption names.
    fn make_room(
        &mut self,
        pod: &Arc<Pod>,
        text: String,
        preemption: Option<Preemption>,
        now: Timestamp,
    ) -> Plan {
        let key = &pod.meta.key;
        let shown = pod.wishes.as_ref().and_then(|w| w.nominated.clone());
        match preemption {
            None => outcome::unschedulable(pod, text, now),
            Some(Preemption::Wait(why)) => {
                outcome::unschedulable(pod, format!("{text} preemption: {why}"), now)
            }
            Some(Preemption::Nothing(why)) => {
                self.nominated.remove(key);
                let mut plan = outcome::unschedulable(pod, format!("{text} preemption: {why}"), now);
                if shown.is_some() {
                    outcome::nominate(&mut plan, pod, None);
                }
                plan
            }
            Some(Preemption::Victims { node, victims }) => {
                let mut plan = outcome::unschedulable(pod, text, now);
                if shown.as_ref() != Some(&node) {
                    outcome::nominate(&mut plan, pod, Some(&node));
                }
                outcome::evict(&mut plan, &victims, pod, &node, now);
                // Whoever matters less has to look for another place.
                let nominated = self.nominated.on(&node).into_iter().flat_map(|pods| pods.values());
                let lesser: Vec<Arc<Pod>> =
                    nominated.filter(|p| p.priority < pod.priority).cloned().collect();
                for other in lesser {
                    self.nominated.remove(&other.meta.key);
                    outcome::nominate(&mut plan, &other, None);
                    self.queue.rouse(&other.meta.key, now);
                }
                self.nominated.set(pod.clone(), node);
                plan
            }
        }
    }
}

fn wants_node(pod: &Pod) -> bool {
    let free = pod.wishes.as_ref().is_some_and(|w| w.gates.is_empty());
    pod.node.is_none() && free && pod.is_active()
}

/// True if the change of a pod on a node is nothing to others.
fn matters_the_same(old: &Pod, new: &Pod) -> bool {
    old.labels == new.labels
        && old.requests == new.requests
        && old.meta.deleted.is_some() == new.meta.deleted.is_some()
}

/// True if the node may take pods that it did not take before.
fn takes_others(old: &Node, new: &Node) -> bool {
    old.allocatable != new.allocatable
        || old.taints != new.taints
        || old.labels != new.labels
        || old.unschedulable != new.unschedulable
}
