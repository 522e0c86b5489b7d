//! Where those who wait to compile are let in, one at a time: by turns of whom they work for, so that
//! somebody with many modules holds up another by one of them, not by all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// One lane.
pub struct Lane(Mutex<State>);

struct State {
    busy: bool,
    /// In the order in which they came, for each of their owners.
    waiting: BTreeMap<String, VecDeque<oneshot::Sender<Slot>>>,
    /// Whose turn was last.
    last: String,
}

/// Held by whoever is in the lane.
pub struct Slot(&'static Lane);

impl Lane {
    /// An empty one.
    pub const fn new() -> Self {
        Self(Mutex::new(State { busy: false, waiting: BTreeMap::new(), last: String::new() }))
    }

    /// Waits for a turn of this owner's. Whoever stops waiting gives up the place.
    pub async fn enter(&'static self, owner: &str) -> Slot {
        let turn = {
            let mut state = self.state();
            if !state.busy {
                state.busy = true;
                owner.clone_into(&mut state.last);
                return Slot(self);
            }
            let (sender, turn) = oneshot::channel();
            state.waiting.entry(owner.to_owned()).or_default().push_back(sender);
            turn
        };
        turn.await.expect("a lane lets in all who wait")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next one, of the owner after the last.
    fn next(&mut self) -> Option<oneshot::Sender<Slot>> {
        let after = (std::ops::Bound::Excluded(self.last.clone()), std::ops::Bound::Unbounded);
        let owner = self.waiting.range(after).next().or_else(|| self.waiting.iter().next());
        let owner = owner.map(|(owner, _)| owner.clone())?;
        let queue = self.waiting.get_mut(&owner)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&owner);
        }
        self.last = owner;
        next
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut state = self.0.state();
                let next = state.next();
                state.busy = next.is_some();
                next
            };
            let Some(next) = next else { return };
            match next.send(Slot(self.0)) {
                Ok(()) => return,
                // Whoever waited has gone, and the next one is let in by this loop.
                Err(slot) => std::mem::forget(slot),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn owners_take_turns() {
        static LANE: Lane = Lane::new();
        let first = LANE.enter("a").now_or_never().expect("it is free");
        let mut waiting: Vec<_> = ["a", "a", "a", "b", "c"]
            .into_iter()
            .map(|owner| {
                let mut turn = Box::pin(LANE.enter(owner));
                assert!(turn.as_mut().now_or_never().is_none(), "one at a time");
                Some((owner, turn))
            })
            .collect();
        // One of them stops waiting.
        waiting[1] = None;
        let mut slot = Some(first);
        let mut order = String::new();
        for _ in 0..4 {
            drop(slot.take());
            for place in &mut waiting {
                let Some((owner, turn)) = place else { continue };
                if let Some(entered) = turn.as_mut().now_or_never() {
                    assert!(slot.is_none(), "one at a time");
                    order.push_str(owner);
                    slot = Some(entered);
                    *place = None;
                }
            }
        }
        assert_eq!(order, "bcaa");
        drop(slot);
        assert!(LANE.enter("d").now_or_never().is_some(), "it is free again");
    }
}
