//! Work that is under way: what a helper does, and a command that runs in a container.
//!
//! Data only; `requests` starts it and takes up what comes of it, `server` polls it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

use crate::cgroup::Cgroup;
use crate::helper::Helper;
use crate::protocol::Stream;
use crate::terminal::Console;

/// Most bytes of a command's output that are kept.
const MAX_OUTPUT: usize = 16 << 10;

/// A helper, and what for.
pub struct Task {
    /// The process.
    pub helper: Helper,
    /// Who asked for it.
    pub connection: u64,
    /// What for.
    pub purpose: Purpose,
}

/// What a helper does.
pub enum Purpose {
    /// Makes and starts a container.
    Create {
        /// The container's id.
        id: String,
        /// Where its terminal will arrive.
        console: Option<Console>,
    },
    /// Removes what a container left.
    Remove {
        /// The container's id.
        id: String,
    },
    /// Starts a command in a container.
    Exec {
        /// The command's number.
        id: u64,
    },
}

/// A command in a container.
pub struct Exec {
    /// When it is killed.
    pub deadline: Option<Instant>,
    /// Who asked for it.
    pub connection: u64,
    /// What runs, for messages.
    pub program: String,
    /// Its process id, or 0 while it is being started.
    pub pid: i32,
    /// Where its output comes from, until that ends.
    pub pipe: Option<File>,
    /// What it has written.
    pub output: Vec<u8>,
    /// It was killed because its time was up.
    pub expired: bool,
    /// The cgroup of its container.
    pub cgroup: Cgroup,
    /// Somebody is there for it: it ends when they go.
    pub attended: bool,
    /// What whoever asked for it will get, once it runs.
    pub session: Option<Session>,
}

/// The streams of a command that somebody is there for.
#[derive(Default)]
pub struct Session {
    /// Ends of pipes.
    pub streams: Vec<(Stream, OwnedFd)>,
    /// Where its terminal will arrive.
    pub console: Option<Console>,
}

impl Exec {
    /// A command that is about to be started.
    pub fn new(connection: u64, program: String, cgroup: Cgroup) -> Self {
        Self {
            deadline: None,
            connection,
            program,
            pid: 0,
            pipe: None,
            output: Vec::new(),
            expired: false,
            cgroup,
            attended: false,
            session: None,
        }
    }

    /// Sends a signal to it and to what it has started: it leads a session of its own, which they
    /// are in. Those that have left the session are meant to stay.
    pub fn signal(&self, signal: Signal) {
        let leader = Pid::from_raw(self.pid);
        for pid in self.cgroup.pids().into_iter().map(Pid::from_raw) {
            if getsid(Some(pid)) == Ok(leader) {
                let _ = kill(pid, signal);
            }
        }
        let _ = kill(leader, signal);
    }

    /// What to poll for reading.
    pub fn output_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes in what it has written, without waiting for more.
    pub fn read(&mut self) {
        let Some(pipe) = self.pipe.as_mut() else { return };
        let mut buffer = [0; 4096];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return self.pipe = None,
                Ok(n) => {
                    let room = MAX_OUTPUT.saturating_sub(self.output.len());
                    self.output.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.pipe = None,
            }
        }
    }
}
