//! The pipe on which this process tells its parent what an exit code cannot.

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};

use crate::config::Report;

/// Writes [`Report`]s, or nothing where nobody listens.
pub struct Reporter(Option<File>);

impl Reporter {
    /// Takes over the descriptor that the parent left open.
    ///
    /// # Safety
    /// Nobody else has it or takes it, and it is open.
    pub unsafe fn new(fd: Option<RawFd>) -> Self {
        Self(fd.filter(|fd| *fd > 2).map(|fd| {
            // The guest starts no programs, but a descriptor that outlives its use hides mistakes.
            // SAFETY: fcntl on a number touches no memory.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            // SAFETY: the caller says that it is nobody else's.
            unsafe { File::from_raw_fd(fd) }
        }))
    }

    /// The guest is about to run, or accepts connections.
    pub fn ready(&mut self) {
        self.write(&Report::Ready);
    }

    /// Why the process is about to end.
    pub fn end(&mut self, reason: &str, message: &str) {
        // A pipe takes this much at once; a backtrace may be longer than anyone reads.
        let message = message.chars().take(2048).collect();
        self.write(&Report::End { reason: reason.to_owned(), message });
    }

    /// A parent that has gone is no reason to stop.
    fn write(&mut self, report: &Report) {
        let (Some(pipe), Ok(mut line)) = (self.0.as_mut(), serde_json::to_vec(report)) else { return };
        line.push(b'\n');
        let _ = pipe.write_all(&line);
    }
}
