//! Who is next, of many who wait and some of whom ask more than others.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// What waits, by whom it is for: they take turns, and each is served in the order of asking.
#[derive(Debug)]
pub struct RoundRobin<K, T> {
    /// No queue is left empty.
    waiting: BTreeMap<K, VecDeque<T>>,
    /// Whose turn was last.
    last: Option<K>,
}

impl<K, T> Default for RoundRobin<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, T> RoundRobin<K, T> {
    /// Nobody waits.
    pub const fn new() -> Self {
        RoundRobin { waiting: BTreeMap::new(), last: None }
    }

    /// True if nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<K: Clone + Ord, T> RoundRobin<K, T> {
    /// Lets something wait behind what is waiting for the same one.
    pub fn push(&mut self, whose: K, what: T) {
        self.waiting.entry(whose).or_default().push_back(what);
    }

    /// Leaves out what nobody waits for any more. Gives how many are left for this one.
    pub fn retain(&mut self, whose: &K, is_wanted: impl FnMut(&T) -> bool) -> usize {
        let Some(queue) = self.waiting.get_mut(whose) else { return 0 };
        queue.retain(is_wanted);
        let left = queue.len();
        if left == 0 {
            self.waiting.remove(whose);
        }
        left
    }
}

impl<K: Clone + Ord, T> Iterator for RoundRobin<K, T> {
    type Item = T;

    /// What is next.
    fn next(&mut self) -> Option<T> {
        let behind = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let (whose, _) = self.waiting.range((behind, Bound::Unbounded)).chain(&self.waiting).next()?;
        let whose = whose.clone();
        let queue = self.waiting.get_mut(&whose)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&whose);
        }
        self.last = Some(whose);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_turn_before_anybody_has_another() {
        let mut waiting = RoundRobin::new();
        for (whose, what) in [("a", 1), ("a", 2), ("b", 3), ("a", 4), ("c", 5), ("b", 6)] {
            waiting.push(whose, what);
        }
        assert_eq!(waiting.retain(&"a", |what| *what != 2), 2);
        assert_eq!(waiting.retain(&"d", |_| true), 0);
        let mut order: Vec<_> = waiting.by_ref().take(3).collect();
        waiting.push("a", 7);
        order.extend(waiting.by_ref());
        assert_eq!(order, [1, 3, 5, 4, 6, 7]);
        waiting.push("b", 8);
        assert_eq!(waiting.retain(&"b", |_| false), 0);
        assert!(waiting.is_empty() && waiting.next().is_none());
    }
}
