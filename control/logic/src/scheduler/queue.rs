//! Queue: the pods that wait for a node, and whose turn it is.
//!
//! A pod that fits nowhere is parked. It wakes when something happens that may void what stood in
//! its way, by the word of the plugins that rejected it
//! ([`Points::may_fit_after`](super::framework::Points::may_fit_after)), but not before its
//! back-off is over; and after five minutes in any case. Kept by the
//! [`Scheduler`](super::Scheduler); it knows nothing of nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::framework::Event;
use super::plugin::Plugin;
use super::plugins;
use crate::world::facts::{Key, Pod};

/// A parked pod is tried again after this long even if nothing seems to have changed.
const FLUSH: SignedDuration = SignedDuration::from_mins(5);

/// How long a pod waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// After the first attempt; twice as long after each further one.
    pub initial: SignedDuration,
    /// Never longer than this.
    pub max: SignedDuration,
}

impl Default for BackOff {
    fn default() -> Self {
        BackOff { initial: SignedDuration::from_secs(1), max: SignedDuration::from_secs(10) }
    }
}

impl BackOff {
    fn after(&self, attempts: u32) -> SignedDuration {
        let factor = 1i32 << attempts.saturating_sub(1).min(20);
        self.initial.checked_mul(factor).map_or(self.max, |d| d.min(self.max))
    }
}

/// The pods that wait.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    back_off: BackOff,
    turns: BTreeSet<Turn>,
    waiting: BTreeMap<Key, Waiting>,
    /// Those that something may wake, by who rejected them.
    parked: BTreeMap<Option<Plugin>, BTreeSet<Key>>,
    /// When those that back off or are parked get a turn in any case.
    due: BTreeSet<(Timestamp, Key)>,
}

/// Who is tried first: higher priority, then older.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(Reverse<i32>, Timestamp, Key);

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<Pod>,
    attempts: u32,
    /// Not before this time after the last attempt.
    not_before: Timestamp,
    /// Who rejected it last; nobody if there was no node to reject.
    rejected_by: BTreeSet<Plugin>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has a turn.
    Queued,
    /// It gets a turn at this time.
    BackingOff(Timestamp),
    /// It waits for an event, or for this time.
    Parked(Timestamp),
}

impl Waiting {
    /// Who rejected it; `None` stands for nobody.
    fn rejecters(&self) -> Vec<Option<Plugin>> {
        match self.rejected_by.is_empty() {
            true => vec![None],
            false => self.rejected_by.iter().copied().map(Some).collect(),
        }
    }
}

impl State {
    fn due(self) -> Option<Timestamp> {
        match self {
            State::Queued => None,
            State::BackingOff(at) | State::Parked(at) => Some(at),
        }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(back_off: BackOff) -> Self {
        Queue { back_off, ..Queue::default() }
    }

    /// Takes note of a pod that wants a node, or of what it has become.
    pub fn note(&mut self, pod: &Arc<Pod>, now: Timestamp) {
        let key = &pod.meta.key;
        let Some(waiting) = self.waiting.get_mut(key).filter(|w| w.pod.meta.uid == pod.meta.uid) else {
            self.forget(key);
            self.enter(pod, 0, BTreeSet::new(), now);
            self.set(key, State::Queued);
            return;
        };
        let old = std::mem::replace(&mut waiting.pod, pod.clone());
        if waiting.state == State::Queued && turn(&old) != turn(pod) {
            self.turns.remove(&turn(&old));
            self.turns.insert(turn(pod));
        }
        if !asks_the_same(&old, pod) {
            self.wake_if_touched(key, &Event::Itself { old: &old, new: pod }, now);
        }
    }

    /// The pod no longer wants a node.
    pub fn forget(&mut self, key: &Key) {
        self.set(key, State::Queued);
        if let Some(waiting) = self.waiting.remove(key) {
            self.turns.remove(&turn(&waiting.pod));
        }
    }

    /// Wakes the parked pods that may fit after this.
    pub fn wake(&mut self, event: &Event<'_>, now: Timestamp) {
        if self.parked.is_empty() {
            return;
        }
        let listening = self
            .parked
            .iter()
            .filter(|(plugin, _)| plugin.is_none_or(|p| plugins::of(p).listens.hears(event)));
        let keys: BTreeSet<&Key> = listening.flat_map(|(_, keys)| keys).collect();
        let woken: Vec<Key> = keys.into_iter().filter(|key| self.touches(key, event)).cloned().collect();
        for key in woken {
            self.rouse(&key, now);
        }
    }

    /// Gives a waiting pod a turn as soon as its back-off is over.
    pub fn rouse(&mut self, key: &Key, now: Timestamp) {
        let Some(waiting) = self.waiting.get(key).filter(|w| w.state != State::Queued) else { return };
        let not_before = waiting.not_before;
        self.set(key, if not_before <= now { State::Queued } else { State::BackingOff(not_before) });
    }

    /// Gives a turn to those whose time has come.
    pub fn wake_due(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                return;
            }
            self.set(&key, State::Queued);
        }
    }

    /// The first of those that have a turn and are not `busy`. It stays in the queue; it is to be
    /// parked or taken out.
    pub fn next(&self, busy: &BTreeSet<Key>) -> Option<Arc<Pod>> {
        let turn = self.turns.iter().find(|t| !busy.contains(&t.2))?;
        self.waiting.get(&turn.2).map(|w| w.pod.clone())
    }

    /// The pod fitted nowhere.
    pub fn park(&mut self, key: &Key, rejected_by: BTreeSet<Plugin>, now: Timestamp) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        waiting.attempts = waiting.attempts.saturating_add(1);
        waiting.not_before = now + self.back_off.after(waiting.attempts);
        let not_parked = waiting.state == State::Queued;
        assert!(not_parked, "a pod is parked when it has had its turn");
        waiting.rejected_by = rejected_by;
        self.set(key, State::Parked(now + FLUSH));
    }

    /// The pod has a node. Gives the attempts so far.
    pub fn take(&mut self, key: &Key) -> u32 {
        let attempts = self.waiting.get(key).map_or(0, |w| w.attempts);
        self.forget(key);
        attempts
    }

    /// Puts a pod back whose binding failed.
    pub fn put_back(&mut self, pod: &Arc<Pod>, attempts: u32, now: Timestamp) {
        let attempts = attempts.saturating_add(1);
        self.enter(pod, attempts, BTreeSet::new(), now);
        let not_before = now + self.back_off.after(attempts);
        if let Some(waiting) = self.waiting.get_mut(&pod.meta.key) {
            waiting.not_before = not_before;
        }
        self.set(&pod.meta.key, State::BackingOff(not_before));
    }

    /// When there is something to do without anything happening.
    pub fn again_at(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// True if a pod has its turn now.
    pub fn has_turns(&self, busy: &BTreeSet<Key>) -> bool {
        self.turns.iter().any(|t| !busy.contains(&t.2))
    }

    fn enter(&mut self, pod: &Arc<Pod>, attempts: u32, rejected_by: BTreeSet<Plugin>, now: Timestamp) {
        let waiting = Waiting {
            pod: pod.clone(),
            attempts,
            not_before: now,
            rejected_by,
            state: State::BackingOff(now),
        };
        self.waiting.insert(pod.meta.key.clone(), waiting);
    }

    fn wake_if_touched(&mut self, key: &Key, event: &Event<'_>, now: Timestamp) {
        if self.touches(key, event) {
            self.rouse(key, now);
        }
    }

    fn touches(&self, key: &Key, event: &Event<'_>) -> bool {
        let Some(waiting) = self.waiting.get(key) else { return false };
        if waiting.rejected_by.is_empty() {
            return matches!(event, Event::NodeAdded(_) | Event::Itself { .. });
        }
        waiting.rejected_by.iter().any(|p| (plugins::of(*p).may_fit_after)(&waiting.pod, event))
    }

    fn set(&mut self, key: &Key, state: State) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        match waiting.state {
            State::Queued => {
                self.turns.remove(&turn(&waiting.pod));
            }
            State::Parked(_) => {
                for plugin in waiting.rejecters() {
                    if let Some(keys) = self.parked.get_mut(&plugin) {
                        keys.remove(key);
                        if keys.is_empty() {
                            self.parked.remove(&plugin);
                        }
                    }
                }
            }
            State::BackingOff(_) => {}
        }
        if let Some(at) = waiting.state.due() {
            self.due.remove(&(at, key.clone()));
        }
        waiting.state = state;
        match state {
            State::Queued => {
                self.turns.insert(turn(&waiting.pod));
            }
            State::Parked(_) => {
                for plugin in waiting.rejecters() {
                    self.parked.entry(plugin).or_default().insert(key.clone());
                }
            }
            State::BackingOff(_) => {}
        }
        if let Some(at) = state.due() {
            self.due.insert((at, key.clone()));
        }
    }
}

fn turn(pod: &Pod) -> Turn {
    Turn(Reverse(pod.priority), pod.meta.created, pod.meta.key.clone())
}

fn asks_the_same(old: &Pod, new: &Pod) -> bool {
    let wishes = |p: &Pod| p.wishes.as_ref().map(|w| (w.node_selector.clone(), w.node_affinity.clone()));
    old.requests == new.requests
        && old.tolerations == new.tolerations
        && old.host_ports == new.host_ports
        && old.priority == new.priority
        && old.labels == new.labels
        && wishes(old) == wishes(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_end() {
        let back_off = BackOff::default();
        let seconds: Vec<i64> = [1, 2, 3, 4, 5, 60].iter().map(|n| back_off.after(*n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }
}
