//! Turns at work of which little is done at once: passwords that are checked, names that are looked up.
//!
//! Namespaces take turns, and in each of them its clients, so that whoever asks much waits for himself
//! alone: what one namespace lets its clients ask for keeps those of no other waiting.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proa_api::turns::RoundRobin;
use tokio::sync::oneshot;

/// Requests of one client to one namespace that may wait; more are not let wait.
const WAITING: usize = 128;

/// A number of turns at the same time.
pub struct Turns {
    all: usize,
    each: usize,
    state: Mutex<State>,
}

/// Who wants a turn.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Whose Ingress it is about.
    pub namespace: String,
    pub client: IpAddr,
}

/// One turn, until it is dropped.
pub struct Turn {
    of: Arc<Turns>,
    namespace: String,
}

#[derive(Default)]
struct State {
    running: usize,
    /// The namespace that had the last turn somebody waited for.
    last: String,
    /// Those that have a turn or wait for one.
    namespaces: BTreeMap<String, Queue>,
}

#[derive(Default)]
struct Queue {
    running: usize,
    waiting: RoundRobin<IpAddr, oneshot::Sender<Turn>>,
}

impl Turns {
    /// So many at once for all together, and for each namespace.
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Turns { all, each, state: Mutex::default() })
    }

    /// A turn, unless it takes longer than `patience` or this client has too many waiting already.
    pub async fn take(self: &Arc<Self>, asker: Asker, patience: Duration) -> Option<Turn> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state();
            let queue = state.namespaces.entry(asker.namespace).or_default();
            if queue.waiting.retain(&asker.client, |sender| !sender.is_closed()) >= WAITING {
                return None;
            }
            queue.waiting.push(asker.client, sender);
        }
        self.give();
        tokio::time::timeout(patience, receiver).await.ok()?.ok()
    }

    /// Gives all turns that are free.
    fn give(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if state.running >= self.all {
                return;
            }
            let Some((namespace, sender)) = state.next(self.each) else { return };
            drop(state);
            // One that nobody waits for any more is given back by being dropped.
            let _ = sender.send(Turn { of: Arc::clone(self), namespace });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whose turn it is, which counts as taken from here on.
    fn next(&mut self, each: usize) -> Option<(String, oneshot::Sender<Turn>)> {
        loop {
            let behind = (Bound::Excluded(self.last.clone()), Bound::Unbounded);
            let in_turn = self.namespaces.range(behind).chain(self.namespaces.range(..=self.last.clone()));
            let mut ready = in_turn.filter(|(_, queue)| queue.running < each && !queue.waiting.is_empty());
            let name = ready.next()?.0.clone();
            let queue = self.namespaces.get_mut(&name)?;
            match queue.waiting.next().filter(|sender| !sender.is_closed()) {
                Some(sender) => {
                    queue.running += 1;
                    self.running += 1;
                    self.last.clone_from(&name);
                    return Some((name, sender));
                }
                // That one has left.
                None => self.forget_idle(&name),
            }
        }
    }

    fn forget_idle(&mut self, namespace: &str) {
        let queue = self.namespaces.get(namespace);
        if queue.is_some_and(|queue| queue.running == 0 && queue.waiting.is_empty()) {
            self.namespaces.remove(namespace);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.of.state();
            state.running -= 1;
            if let Some(queue) = state.namespaces.get_mut(&self.namespace) {
                queue.running -= 1;
            }
            state.forget_idle(&self.namespace);
        }
        self.of.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn asker(namespace: &str, client: u8) -> Asker {
        Asker { namespace: namespace.to_owned(), client: [192, 0, 2, client].into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_waits_for_itself_alone() {
        let turns = Turns::new(2, 1);
        let held = turns.take(asker("aaa", 1), PATIENCE).await.unwrap();
        assert!(turns.take(asker("aaa", 2), PATIENCE).await.is_none(), "it has its turn");
        let other = turns.take(asker("bbb", 1), PATIENCE).await.unwrap();
        assert!(turns.take(asker("ccc", 1), PATIENCE).await.is_none(), "all turns are taken");
        drop((held, other));
        assert!(turns.take(asker("aaa", 1), PATIENCE).await.is_some());
        let state = turns.state();
        assert_eq!(state.running, 0);
        assert!(state.namespaces.values().all(|queue| queue.running == 0));
    }

    /// Somebody who asks a hundred times is served as often as one who asks once, until that one has been.
    #[tokio::test(start_paused = true)]
    async fn who_asks_much_does_not_keep_others_waiting() {
        let turns = Turns::new(1, 1);
        let held = turns.take(asker("aaa", 1), PATIENCE).await.unwrap();
        let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
        let ask = |who: Asker| {
            let (turns, served) = (Arc::clone(&turns), served.clone());
            tokio::spawn(async move {
                let turn = turns.take(who.clone(), PATIENCE).await;
                let _ = served.send((who.namespace, who.client, turn.is_some()));
            });
        };
        for _ in 0..WAITING + 2 {
            ask(asker("aaa", 1));
        }
        ask(asker("aaa", 2));
        ask(asker("bbb", 1));
        tokio::task::yield_now().await;
        for _ in 0..2 {
            assert!(!order.recv().await.unwrap().2, "too many of one client wait");
        }
        drop(held);
        let mut first = Vec::new();
        for _ in 0..3 {
            let (namespace, client, has_turn) = order.recv().await.unwrap();
            assert!(has_turn);
            first.push((namespace, client));
        }
        assert_eq!(first[0].0, "bbb");
        assert!(first.contains(&("aaa".to_owned(), asker("", 2).client)), "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_left_has_no_turn() {
        let turns = Turns::new(1, 1);
        let held = turns.take(asker("aaa", 1), PATIENCE).await.unwrap();
        for client in 0..=255 {
            assert!(turns.take(asker("bbb", client), Duration::ZERO).await.is_none());
        }
        drop(held);
        assert!(turns.take(asker("ccc", 1), Duration::ZERO).await.is_some());
        assert_eq!(turns.state().namespaces.len(), 0);
    }
}
