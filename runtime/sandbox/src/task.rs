//! Work that is under way: what a helper does, and a command that runs in a container.
//!
//! Data only; `requests` starts it and takes up what comes of it, `server` polls it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use crate::helper::Helper;

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
        console: Option<UnixListener>,
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
}

impl Exec {
    /// What to poll for reading.
    pub fn output_fd(&self) -> Option<i32> {
        self.pipe.as_ref().map(AsRawFd::as_raw_fd)
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
