//! Those who are attached to a container: each gets a copy of what it writes.
//!
//! Part of a container's entry (`containers`). Nothing is lost and little is kept: while a copy
//! has not been taken, no more is read from the container. What it wrote before is `replay`'s.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::log::Stream;

/// Everyone who is attached to one container.
#[derive(Default)]
pub struct Taps {
    taps: Vec<Tap>,
    connections: Vec<u64>,
}

struct Tap {
    connection: u64,
    stream: Stream,
    pipe: File,
    pending: Vec<u8>,
}

impl Taps {
    /// Somebody is attached, and waits for the container's end.
    pub fn join(&mut self, connection: u64) {
        self.connections.push(connection);
    }

    /// Copies a stream into a pipe from now on, after what it has said already.
    pub fn add(&mut self, connection: u64, stream: Stream, pipe: OwnedFd, said: Vec<u8>) {
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        let mut tap = Tap { connection, stream, pipe: pipe.into(), pending: said };
        if tap.flush() {
            self.taps.push(tap);
        }
    }

    /// Somebody has gone.
    pub fn leave(&mut self, connection: u64) {
        self.taps.retain(|tap| tap.connection != connection);
        self.connections.retain(|other| *other != connection);
    }

    /// The container has ended: gives who waits for that. Their pipes end when they have taken
    /// what there is for them.
    pub fn end(&mut self) -> Vec<u64> {
        self.taps.retain(|tap| !tap.pending.is_empty());
        std::mem::take(&mut self.connections)
    }

    /// Whether a stream must wait for somebody.
    pub fn full(&self, stream: Stream) -> bool {
        self.taps.iter().any(|tap| tap.stream == stream && !tap.pending.is_empty())
    }

    /// Whether somebody has not taken all that there is for them.
    pub fn pending(&self) -> bool {
        self.taps.iter().any(|tap| !tap.pending.is_empty())
    }

    /// What to poll for writing.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.taps.iter().filter(|tap| !tap.pending.is_empty()).map(|tap| tap.pipe.as_fd())
    }

    /// Gives everyone a copy.
    pub fn copy(&mut self, stream: Stream, bytes: &[u8]) {
        for tap in self.taps.iter_mut().filter(|tap| tap.stream == stream) {
            tap.pending.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Writes what can be written.
    pub fn flush(&mut self) {
        self.taps.retain_mut(Tap::flush);
        if self.connections.is_empty() {
            self.taps.retain(|tap| !tap.pending.is_empty());
        }
    }
}

impl Tap {
    /// Gives whether anybody still reads.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.pipe.write(&self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.pending = Vec::new();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::unistd::pipe2;

    use super::*;

    #[test]
    fn a_reader_that_is_slow_holds_its_stream_up_and_loses_nothing() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let mut taps = Taps::default();
        taps.join(7);
        taps.add(7, Stream::Stdout, write, Vec::new());
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        taps.copy(Stream::Stderr, b"not for this one");
        assert!(!taps.full(Stream::Stdout));
        taps.copy(Stream::Stdout, &bytes);
        assert!(taps.full(Stream::Stdout) && !taps.full(Stream::Stderr));
        assert_eq!(taps.descriptors().count(), 1);
        assert_eq!(taps.end(), [7]);
        let mut found = Vec::new();
        let mut read = File::from(read);
        while taps.full(Stream::Stdout) {
            let mut buffer = [0; 4096];
            let n = read.read(&mut buffer).expect("more");
            found.extend_from_slice(&buffer[..n]);
            taps.flush();
        }
        read.read_to_end(&mut found).expect("the rest");
        assert_eq!(found, bytes);
    }

    #[test]
    fn what_was_said_before_comes_first_also_after_the_end() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let mut taps = Taps::default();
        taps.join(7);
        taps.add(7, Stream::Stdout, write, b"before ".to_vec());
        taps.copy(Stream::Stdout, b"after");
        assert_eq!(taps.end(), [7]);
        let mut found = String::new();
        File::from(read).read_to_string(&mut found).expect("text");
        assert_eq!(found, "before after");
    }

    #[test]
    fn who_has_gone_holds_nobody_up() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let mut taps = Taps::default();
        taps.join(7);
        taps.add(7, Stream::Stdout, write, Vec::new());
        taps.copy(Stream::Stdout, &[0; 100_000]);
        assert!(taps.full(Stream::Stdout));
        drop(read);
        taps.flush();
        assert!(!taps.full(Stream::Stdout));
        taps.leave(7);
        assert!(taps.end().is_empty());
    }
}
