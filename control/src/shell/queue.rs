//! The queue of keys to look at: woken, busy, waiting for the index, or due at some time.
//!
//! Kept by the shell. It makes sure that a key is never worked on twice at once, and never again
//! before the index has seen what was written for it: a decision on an index older than its own
//! last write would do the same again. Namespaces take turns: one with many keys keeps no other waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proa_api::turns::RoundRobin;

use crate::store::Revision;

/// The first wait after a failure; each further one doubles it.
const BACK_OFF: SignedDuration = SignedDuration::from_millis(5);
/// No wait is longer.
const MAX_BACK_OFF: SignedDuration = SignedDuration::from_secs(30);

/// What is looked at in the turn of a namespace.
pub trait Namespaced {
    /// Which one; empty for what is in none.
    fn namespace(&self) -> &Arc<str>;
}

/// Keys to look at. Kinds are named by their index in the shell's list.
#[derive(Debug)]
pub struct Queue<K> {
    ready: BTreeSet<K>,
    /// The same in turns of their namespaces.
    turns: RoundRobin<Arc<str>, K>,
    busy: BTreeMap<K, Busy>,
    /// Per kind, what the index has to come to and who waits for it.
    waits: BTreeMap<usize, BTreeSet<(Revision, K)>>,
    timers: BTreeSet<(Timestamp, K)>,
    timer_of: BTreeMap<K, Timestamp>,
    failures: BTreeMap<K, u32>,
}

#[derive(Debug, Default)]
struct Busy {
    /// Writes that the index has not seen yet.
    waits: usize,
    /// Woken meanwhile.
    woken: bool,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Queue {
            ready: BTreeSet::new(),
            turns: RoundRobin::new(),
            busy: BTreeMap::new(),
            waits: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone + Namespaced> Queue<K> {
    /// The key has to be looked at, as soon as it can be.
    pub fn wake(&mut self, key: K) {
        match self.busy.get_mut(&key) {
            Some(busy) => busy.woken = true,
            None => {
                if self.ready.insert(key.clone()) {
                    self.turns.push(Arc::clone(key.namespace()), key);
                }
            }
        }
    }

    /// The next key that can be looked at.
    pub fn take(&mut self) -> Option<K> {
        let key = self.turns.next()?;
        self.ready.remove(&key);
        Some(key)
    }

    /// True if a key can be looked at now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A plan for the key is being executed.
    pub fn start(&mut self, key: K) {
        self.busy.insert(key, Busy::default());
    }

    /// The plan has been executed; `writes` are the kinds and revisions of what it wrote, and
    /// `progress` how far the index has come with each kind.
    pub fn finish(&mut self, key: &K, writes: &[(usize, Revision)], progress: &[Revision]) {
        let mut waits = 0;
        for (kind, revision) in writes {
            if progress.get(*kind).is_some_and(|at| at < revision)
                && self.waits.entry(*kind).or_default().insert((*revision, key.clone()))
            {
                waits += 1;
            }
        }
        if waits == 0 {
            self.release(key);
        } else if let Some(busy) = self.busy.get_mut(key) {
            busy.waits = waits;
        }
    }

    /// The index has come to this revision of a kind.
    pub fn passed(&mut self, kind: usize, revision: Revision) {
        while let Some(waits) = self.waits.get_mut(&kind) {
            if waits.first().is_none_or(|(at, _)| *at > revision) {
                return;
            }
            let Some((_, key)) = waits.pop_first() else { return };
            let Some(busy) = self.busy.get_mut(&key) else { continue };
            busy.waits = busy.waits.saturating_sub(1);
            if busy.waits == 0 {
                self.release(&key);
            }
        }
    }

    fn release(&mut self, key: &K) {
        if self.busy.remove(key).is_some_and(|busy| busy.woken) {
            self.wake(key.clone());
        }
    }

    /// The key has to be looked at again at this time, and not for an earlier reason any more.
    pub fn set_timer(&mut self, key: &K, at: Option<Timestamp>) {
        if let Some(old) = self.timer_of.remove(key) {
            self.timers.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            self.timer_of.insert(key.clone(), at);
            self.timers.insert((at, key.clone()));
        }
    }

    /// The next time at which a key is due.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Wakes the keys that are due.
    pub fn wake_due(&mut self, now: Timestamp) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.timers.pop_first() {
                self.timer_of.remove(&key);
                self.wake(key);
            }
        }
    }

    /// The key's last plan went well.
    pub fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// The key's last plan failed: it is due again after a back-off.
    pub fn failed(&mut self, key: &K, now: Timestamp) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = BACK_OFF.checked_mul(1 << (*failures).min(16)).unwrap_or(MAX_BACK_OFF).min(MAX_BACK_OFF);
        *failures = failures.saturating_add(1);
        let at = now + wait;
        let at = self.timer_of.get(key).map_or(at, |timer| at.min(*timer));
        self.set_timer(key, Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Namespace and name.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Named(Arc<str>, &'static str);

    impl Namespaced for Named {
        fn namespace(&self) -> &Arc<str> {
            &self.0
        }
    }

    fn named(namespace: &str, name: &'static str) -> Named {
        Named(namespace.into(), name)
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_busy_key_waits_until_the_index_has_passed_its_writes() {
        let mut queue = Queue::default();
        queue.wake(named("n", "a"));
        assert_eq!(queue.take(), Some(named("n", "a")));
        queue.start(named("n", "a"));
        queue.wake(named("n", "a"));
        assert_eq!(queue.take(), None);
        queue.finish(&named("n", "a"), &[(0, 5), (0, 7), (1, 6)], &[5, 5]);
        queue.passed(0, 9);
        assert_eq!(queue.take(), None);
        queue.passed(1, 6);
        assert_eq!(queue.take(), Some(named("n", "a")));
        queue.start(named("n", "a"));
        queue.finish(&named("n", "a"), &[(0, 9)], &[9, 6]);
        assert_eq!(queue.take(), None, "nobody woke it");
        queue.wake(named("n", "a"));
        assert_eq!(queue.take(), Some(named("n", "a")));
    }

    #[test]
    fn a_namespace_with_many_keys_keeps_no_other_waiting() {
        let mut queue = Queue::default();
        for (namespace, name) in [("aaa", "1"), ("aaa", "2"), ("aaa", "3"), ("bbb", "1"), ("", "1")] {
            queue.wake(named(namespace, name));
            queue.wake(named(namespace, name));
        }
        let order = |queue: &mut Queue<Named>| -> Vec<String> {
            std::iter::from_fn(|| queue.take())
                .take(3)
                .map(|Named(of, name)| format!("{of}/{name}"))
                .collect()
        };
        assert_eq!(order(&mut queue), ["/1", "aaa/1", "bbb/1"]);
        queue.wake(named("bbb", "2"));
        assert_eq!(order(&mut queue), ["aaa/2", "bbb/2", "aaa/3"]);
        assert!(!queue.is_ready());
    }

    #[test]
    fn failures_back_off_and_timers_fire_once() {
        let mut queue = Queue::default();
        queue.failed(&named("n", "a"), at(0));
        assert_eq!(queue.next_timer(), Some(at(5)));
        queue.wake_due(at(4));
        assert!(!queue.is_ready());
        queue.wake_due(at(5));
        assert_eq!(queue.take(), Some(named("n", "a")));
        queue.failed(&named("n", "a"), at(5));
        assert_eq!(queue.next_timer(), Some(at(15)));
        queue.succeeded(&named("n", "a"));
        queue.set_timer(&named("n", "a"), None);
        assert_eq!(queue.next_timer(), None);
        for _ in 0..100 {
            queue.failed(&named("n", "b"), at(0));
            queue.set_timer(&named("n", "b"), None);
        }
        queue.failed(&named("n", "b"), at(0));
        assert_eq!(queue.next_timer(), Some(at(30_000)));
    }
}
