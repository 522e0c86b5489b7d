//! Long-lived tasks outlive a panic.
//!
//! A task of which the process has one, or each pod one, runs inside [`keep`]: whatever ends it before
//! its time starts it again, later each time, and is counted and told. Work that is done once and can
//! fail runs inside [`caught`], which makes a failure of a panic.
//!
//! What is counted is the process's own, like its log: the node shows it as a metric and tells of it in
//! Events ([`counts`], [`next_restart`]).

pub mod failpoint;

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause before a task is started again for the first time; doubled with each failure …
const FIRST: Duration = Duration::from_millis(250);
/// … up to this …
const LONGEST: Duration = Duration::from_secs(60);
/// … and forgotten once it has run for so long.
const FORGIVEN: Duration = Duration::from_secs(300);
/// Restarts that may wait to be told of; of more, the oldest are counted only.
const UNTOLD: usize = 64;

/// A long-lived task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// The part of Proa that it is of, as Events name it: `kubelet`, `kube-proxy`, …
    pub component: &'static str,
    /// Its own name, as the metric has it.
    pub name: &'static str,
}

/// A task has failed and is started again.
#[derive(Clone, Debug)]
pub struct Restart {
    /// Which.
    pub task: Task,
    /// What ended it.
    pub why: String,
}

/// How a task ends.
pub trait Ending {
    /// Why it ended before its time; `None` if it was done.
    fn failure(self) -> Option<String>;
}

impl Ending for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl Ending for Infallible {
    fn failure(self) -> Option<String> {
        match self {}
    }
}

impl<E: Display> Ending for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

struct Book {
    counts: BTreeMap<&'static str, u64>,
    untold: VecDeque<Restart>,
}

static BOOK: Mutex<Book> = Mutex::new(Book { counts: BTreeMap::new(), untold: VecDeque::new() });
static NEWS: Notify = Notify::const_new();

fn book() -> MutexGuard<'static, Book> {
    BOOK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a task to its end. When it panics or fails it is started again, until `shutdown`: what it has
/// in its hands by then it ends itself.
pub async fn keep<F>(task: Task, shutdown: &CancellationToken, mut start: impl FnMut() -> F)
where
    F: Future<Output: Ending>,
{
    book().counts.entry(task.name).or_default();
    let mut backoff = Backoff::default();
    loop {
        let run = caught(async { failpoint::in_reach(task.name, start()).await });
        let failure = match run.await {
            Ok(ended) => ended.failure(),
            Err(panic) => Some(panic),
        };
        let Some(why) = failure else { return };
        note(task, why);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.fail()) => {}
        }
    }
}

/// The pauses of a task that fails again and again.
#[derive(Debug, Default)]
pub struct Backoff {
    /// The last pause, and when it was over.
    last: Option<(Duration, Instant)>,
}

impl Backoff {
    /// How long a task that has failed just now is to be left alone.
    pub fn fail(&mut self) -> Duration {
        let now = Instant::now();
        let pause = match self.last {
            Some((pause, over)) if now < over + FORGIVEN => (pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some((pause, now + pause));
        pause
    }
}

/// Counts and tells a failure of a task that whoever has it starts again by itself.
pub fn note(task: Task, why: String) {
    tracing::error!(task = task.name, why, "a task has failed and is started again");
    let mut book = book();
    *book.counts.entry(task.name).or_default() += 1;
    if book.untold.len() == UNTOLD {
        book.untold.pop_front();
    }
    book.untold.push_back(Restart { task, why });
    NEWS.notify_one();
}

/// How often each task was started again, by its name.
pub fn counts() -> BTreeMap<&'static str, u64> {
    book().counts.clone()
}

/// Waits for a restart that nobody has been told of. For one who asks again and again.
pub async fn next_restart() -> Restart {
    loop {
        if let Some(restart) = book().untold.pop_front() {
            return restart;
        }
        NEWS.notified().await;
    }
}

/// Does something of which a panic is a failure, which this puts into words.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(Box::pin(work)).catch_unwind().await.map_err(|panic| words(&*panic))
}

/// The same for what waits for nothing.
pub fn caught_now<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a word"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_task_comes_back_later_each_time() {
        let task = Task { component: "test", name: "comes-back" };
        let (runs, begun) = (AtomicU32::new(0), Instant::now());
        keep(task, &CancellationToken::new(), || async {
            match runs.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("the {}", "first"),
                1 => Err("the second"),
                2 => panic!("the third"),
                _ => Ok(()),
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 4);
        assert_eq!(begun.elapsed().as_millis(), 250 + 500 + 1000);
        assert_eq!(counts()[task.name], 3);
        for why in ["panicked: the first", "the second", "panicked: the third"] {
            let mut told = next_restart().await;
            // Another test's.
            while told.task != task {
                told = next_restart().await;
            }
            assert_eq!(told.why, why);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_started_again_at_the_end() {
        let (shutdown, runs) = (CancellationToken::new(), AtomicU32::new(0));
        let task = Task { component: "test", name: "ends" };
        let kept = keep(task, &shutdown, || async {
            runs.fetch_add(1, Ordering::SeqCst);
            shutdown.cancel();
            Err::<(), _>("too late")
        });
        tokio::time::timeout(FIRST / 2, kept).await.expect("no pause");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}
