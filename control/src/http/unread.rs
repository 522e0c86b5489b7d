//! Answers over HTTP/2 of which nothing is read: they are given up, and what is kept of them goes.
//!
//! The kernel gives up a client that takes nothing at all. Over HTTP/2 one can take everything but
//! what a stream has for it, whose window is its own (RFC 9113, section 5.2): hyper and h2 then wait
//! for ever. So each answer is run beside a look at when something of it was last taken.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// A client that takes nothing of its answer for so long is dropped, and the answer with it.
pub const UNREAD_LIMIT: Duration = Duration::from_secs(60);

tokio::task_local! {
    static ANSWER: Arc<Unread>;
}

/// What one answer has given to be sent.
#[derive(Debug)]
pub struct Unread {
    state: Mutex<State>,
    /// Told when all of it has left.
    left: Notify,
}

#[derive(Debug)]
struct State {
    /// What has been given and not left.
    pieces: usize,
    /// When something was last asked for, or left.
    since: Instant,
}

impl Unread {
    fn new() -> Arc<Unread> {
        let state = State { pieces: 0, since: Instant::now() };
        Arc::new(Unread { state: Mutex::new(state), left: Notify::new() })
    }

    /// That of the answer which this task makes; none over HTTP/1.1, where the kernel sees it.
    pub fn current() -> Option<Arc<Unread>> {
        ANSWER.try_with(Arc::clone).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more piece is there to be sent.
    pub fn given(&self) {
        self.state().pieces += 1;
    }

    /// A part of a piece has been asked for: the client has taken what was before it.
    pub fn taken(&self) {
        self.state().since = Instant::now();
    }

    /// Nothing of a piece is there any more.
    pub fn left(&self) {
        let mut state = self.state();
        state.pieces -= 1;
        state.since = Instant::now();
        if state.pieces == 0 {
            self.left.notify_one();
        }
    }

    /// When it has taken too long, if nothing more is taken; none if there is nothing to be taken.
    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        (state.pieces > 0).then(|| state.since + UNREAD_LIMIT)
    }
}

/// Runs the answers of one HTTP/2 connection.
#[derive(Clone, Default)]
pub struct Answers {
    /// Cancelled when the connection must end.
    pub unread: CancellationToken,
}

impl<F> Executor<F> for Answers
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, answer: F) {
        let connection = self.unread.clone();
        tokio::spawn(async move {
            let unread = Unread::new();
            if !while_read(answer, &unread).await {
                // Dropped before its end, its stream is reset.
                return tracing::debug!("an answer was not read");
            }
            // What is handed over to its end cannot be taken back from one stream.
            while let Some(deadline) = unread.deadline() {
                let left = timeout_at(deadline, unread.left.notified()).await;
                if left.is_err() && unread.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                    return connection.cancel();
                }
            }
        });
    }
}

/// Runs an answer to its end. False if too little of it was read.
async fn while_read(answer: impl Future, unread: &Arc<Unread>) -> bool {
    let mut answer = pin!(ANSWER.scope(unread.clone(), answer));
    // Begins to run only when something waits to be taken.
    let mut timer = pin!(sleep(UNREAD_LIMIT));
    std::future::poll_fn(|cx| {
        if answer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        while let Some(deadline) = unread.deadline() {
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(false);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}
