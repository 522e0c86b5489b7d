//! A forked copy of the sandbox that does one piece of work and says how it went.
//!
//! The sandbox has one thread, so the copy may do anything, libcontainer included. It is killed
//! when it takes too long, and what it changes in itself dies with it. Of what the sandbox has open it
//! keeps only what its work is about: it goes into containers, where others may get at what it has.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};

use crate::descriptors;

/// Where a process says how soon it is to go when memory ends.
pub const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What a helper has to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It went well; the process it started, if it was to start one.
    Done {
        /// Process id, or 0.
        pid: i32,
    },
    /// It did not.
    Failed {
        /// As in `Reply::Failed`.
        reason: String,
        /// For people.
        message: String,
    },
}

/// A piece of work that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// As in `Reply::Failed`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(reason: &'static str, message: impl ToString) -> Self {
        Self { reason, message: message.to_string() }
    }
}

/// A helper at work.
pub struct Helper {
    /// Its process id.
    pub pid: i32,
    /// Becomes readable when it has ended.
    pub result: OwnedFd,
    /// When it has taken too long.
    pub deadline: Instant,
}

impl Helper {
    /// Forks a helper for `work`, which gives the process id of what it started, or 0, and keeps these
    /// descriptors open.
    pub fn start(
        limit: Duration,
        kept: &[RawFd],
        work: impl FnOnce() -> Result<i32, Failure>,
    ) -> io::Result<Self> {
        let (result, report) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: this process has one thread, so its copy is whole.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                Ok(Self { pid: child.as_raw(), result, deadline: Instant::now() + limit })
            }
            ForkResult::Child => {
                drop(result);
                die_with_parent();
                let work = || {
                    let kept: Vec<RawFd> = kept.iter().copied().chain([report.as_raw_fd()]).collect();
                    let closed = descriptors::close_all_but(&kept);
                    closed.map_err(|error| Failure::new("CreateContainerError", error))?;
                    work()
                };
                let outcome = match std::panic::catch_unwind(AssertUnwindSafe(work)) {
                    Ok(Ok(pid)) => Outcome::Done { pid },
                    Ok(Err(failure)) => {
                        Outcome::Failed { reason: failure.reason.to_owned(), message: failure.message }
                    }
                    Err(_) => Outcome::Failed {
                        reason: "CreateContainerError".to_owned(),
                        message: "the helper panicked".to_owned(),
                    },
                };
                let bytes = serde_json::to_vec(&outcome).unwrap_or_default();
                let _ = std::fs::File::from(report).write_all(&bytes);
                // Nothing of the sandbox's own is to be run or flushed on the way out.
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// What it said. Call when `result` is readable: a helper writes once, then ends.
    pub fn outcome(self) -> Outcome {
        let mut bytes = Vec::new();
        let read = std::fs::File::from(self.result).read_to_end(&mut bytes);
        read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_else(|| Outcome::Failed {
            reason: "CreateContainerError".to_owned(),
            message: "the helper was killed".to_owned(),
        })
    }

    /// Ends it.
    pub fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// For polling.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.result.as_fd()
    }
}

/// Has the kernel kill this process when its parent ends. Lost when credentials change.
pub fn die_with_parent() {
    // It refuses only what is no signal.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}
