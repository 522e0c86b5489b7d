//! Where those who wait to compile are let in, one at a time: by turns of whom they work for, so that
//! somebody with many modules holds up another by one of them, not by all.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proa_api::turns::RoundRobin;
use tokio::sync::oneshot;

/// One lane.
pub struct Lane(Mutex<State>);

struct State {
    busy: bool,
    /// By their owners.
    waiting: RoundRobin<String, oneshot::Sender<Slot>>,
}

/// Held by whoever is in the lane.
pub struct Slot(&'static Lane);

impl Lane {
    /// An empty one.
    pub const fn new() -> Self {
        Self(Mutex::new(State { busy: false, waiting: RoundRobin::new() }))
    }

    /// Waits for a turn of this owner's. Whoever stops waiting gives up the place.
    pub async fn enter(&'static self, owner: &str) -> Slot {
        let (sender, turn) = oneshot::channel();
        self.state().waiting.push(owner.to_owned(), sender);
        self.let_in();
        turn.await.expect("a lane lets in all who wait")
    }

    /// Lets in the next one, if nobody is in it.
    fn let_in(&'static self) {
        let next = {
            let mut state = self.state();
            if state.busy {
                return;
            }
            let next = state.waiting.find(|next| !next.is_closed());
            state.busy = next.is_some();
            next
        };
        if let Some(next) = next {
            // Whoever has gone in this moment gives the slot back by not taking it.
            let _ = next.send(Slot(self));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().busy = false;
        self.0.let_in();
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
