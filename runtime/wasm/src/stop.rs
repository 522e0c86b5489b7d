//! SIGTERM, and what comes of it: a grace period for servers, an interrupt for commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use wasmtime::{AsContextMut, Engine, Store, UpdateDeadline};

use crate::config::RunConfig;

/// Taken off the grace period, so that a server ends before the node kills the process and the exit
/// code can tell the two apart.
const EARLY: Duration = Duration::from_millis(500);

/// Listens for SIGTERM from now on.
pub fn requested() -> std::io::Result<Signal> {
    signal(SignalKind::terminate())
}

/// How long a server may go on after SIGTERM.
pub fn grace(config: &RunConfig) -> Duration {
    Duration::from_secs(config.grace_period_seconds).saturating_sub(EARLY)
}

/// Interrupts the guests of one engine.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Makes the guest of `store` end when [`Interrupt::now`] is called, even in a loop.
    pub fn arm<T: 'static>(&self, store: &mut Store<T>) {
        let flag = self.0.clone();
        store.as_context_mut().set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            Ok(if flag.load(Ordering::Relaxed) {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Yield(1)
            })
        });
    }

    /// Interrupts. Guests notice within a loop iteration.
    pub fn now(&self, engine: &Engine) {
        self.0.store(true, Ordering::Relaxed);
        engine.increment_epoch();
    }
}
