//! The shell of the controllers and the scheduler: it feeds what happens in the cluster to the
//! logic of `proa-logic`, and executes what that decides.
//!
//! Reads the registry's watches and writes through its verbs, like any client. One thread folds
//! and decides; plans are executed beside it. Nothing here waits for a while to see whether more
//! comes: what has come is folded, then decided upon, and while that goes on more comes.
//!
//! - `cycle`: folds, decides, and has executed
//! - [`elect`]: whether this control plane decides at all
//! - [`feed`]: what happens, from the watches
//! - [`queue`]: which keys have to be looked at, and when they may be
//! - [`execute`]: has plans performed
//! - [`perform`]: performs the verbs of plans
//! - [`record`]: writes Events
//! - [`sampler`]: what is measured of pods, for the autoscalers

mod config;
mod cycle;
pub mod elect;
pub mod execute;
pub mod feed;
pub mod perform;
pub mod queue;
pub mod record;
pub mod sampler;
#[cfg(test)]
mod tests;

use proa_supervise::{Task, caught, keep};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;
use config::COMPONENT;
pub use config::ShellConfig;
use elect::{Candidate, Leadership};

/// Runs the controllers and the scheduler until `shutdown`. A panic in the shell itself starts
/// it anew, with nothing remembered; a panic in a decision is caught nearer by.
pub async fn run(registry: Registry, config: ShellConfig, shutdown: CancellationToken) {
    let Some((candidate, leadership)) = Candidate::new(&registry, &config.identity) else { return };
    let candidate = Mutex::new(candidate);
    let task = |name| Task { component: COMPONENT, name };
    let stand = || async { candidate.lock().await.run().await };
    let decide =
        || on_its_thread(serve(registry.clone(), config.clone(), leadership.clone(), shutdown.clone()));
    tokio::select! {
        () = keep(task("controllers"), &shutdown, decide) => {}
        () = keep(task("election"), &shutdown, stand) => {}
    }
    candidate.lock().await.resign().await;
}

/// Does work of which each step may take its time, so that no request waits for one of the threads that
/// answer requests. Timers and tasks that it starts are theirs.
async fn on_its_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
    let (mut sender, receiver) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("controllers".to_owned());
    let started = thread.spawn(move || {
        let done = runtime.block_on(async {
            tokio::select! {
                done = caught(work) => Some(done),
                // Nobody wants it any more.
                () = sender.closed() => None,
            }
        });
        done.map(|done| sender.send(done))
    });
    started.map_err(|error| format!("no thread: {error}"))?;
    receiver.await.unwrap_or_else(|_| Err("the thread is gone".to_owned()))
}

/// Runs the shell in each term of this control plane, with a fresh look at everything: what another
/// one wrote in the term before must have been seen before anything is decided.
async fn serve(
    registry: Registry,
    config: ShellConfig,
    mut leadership: Leadership,
    shutdown: CancellationToken,
) {
    loop {
        let number = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            number = leadership.won() => number,
        };
        cycle::run(registry.clone(), &config, &leadership, number, &shutdown).await;
    }
}
