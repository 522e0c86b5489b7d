//! Lets guests that share a thread take turns.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::Engine;

/// How often guests that are running give way to each other.
const TICK: Duration = Duration::from_millis(10);

/// An epoch each [`TICK`] while any instance is at work, and no wake-up at all while none is.
pub struct Ticker {
    running: AtomicUsize,
    engines: Mutex<Vec<Engine>>,
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts one, for no engine yet.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            running: AtomicUsize::new(0),
            engines: Mutex::default(),
            thread: OnceLock::new(),
        });
        let seen = ticker.clone();
        let handle = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            loop {
                if seen.running.load(Ordering::Acquire) == 0 {
                    std::thread::park();
                } else {
                    std::thread::sleep(TICK);
                    let engines = seen.engines.lock().unwrap_or_else(PoisonError::into_inner);
                    engines.iter().for_each(Engine::increment_epoch);
                }
            }
        })?;
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    /// Counts for this engine's guests too.
    pub fn add(&self, engine: &Engine) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine.clone());
    }
}

/// One instance at work.
pub struct Running(Arc<Ticker>);

impl Running {
    /// Counts until it is dropped.
    pub fn new(ticker: &Arc<Ticker>) -> Self {
        if ticker.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = ticker.thread.get()
        {
            thread.unpark();
        }
        Self(ticker.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
