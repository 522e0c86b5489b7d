//! The shell of the controllers and the scheduler: it feeds what happens in the cluster to the
//! logic of `proa-logic`, and executes what that decides.
//!
//! Reads the registry's watches and writes through its verbs, like any client. One task folds
//! and decides; plans are executed beside it. Nothing here waits for a while to see whether more
//! comes: what has come is folded, then decided upon, and while that goes on more comes.
//!
//! - [`elect`]: whether this control plane decides at all
//! - [`feed`]: what happens, from the watches
//! - [`queue`]: which keys have to be looked at, and when they may be
//! - [`execute`]: performs plans
//! - [`record`]: writes Events
//! - [`sampler`]: what is measured of pods, for the autoscalers

mod config;
pub mod elect;
pub mod execute;
pub mod feed;
pub mod queue;
pub mod record;
pub mod sampler;
mod shell;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;
pub use config::ControllersConfig;
use elect::{Candidate, Leadership};

/// Runs the controllers and the scheduler until `shutdown`. A panic in the shell itself starts
/// it anew, with nothing remembered; a panic in a decision is caught nearer by.
pub async fn run(registry: Registry, config: ControllersConfig, shutdown: CancellationToken) {
    let Some((mut candidate, mut leadership)) = Candidate::new(&registry, &config.identity) else { return };
    while !shutdown.is_cancelled() {
        let terms = serve(&registry, &config, &mut leadership, &shutdown);
        let ended = tokio::select! {
            ended = AssertUnwindSafe(terms).catch_unwind() => ended,
            never = candidate.run() => match never {},
        };
        if ended.is_ok() {
            break;
        }
        tracing::error!("the controllers panicked and start anew");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = shutdown.cancelled() => {}
        }
    }
    candidate.resign().await;
}

/// Runs the shell in each term of this control plane, with a fresh look at everything: what another
/// one wrote in the term before must have been seen before anything is decided.
async fn serve(
    registry: &Registry,
    config: &ControllersConfig,
    leadership: &mut Leadership,
    shutdown: &CancellationToken,
) {
    loop {
        let number = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            number = leadership.won() => number,
        };
        shell::run(registry.clone(), config, leadership, number, shutdown).await;
    }
}
