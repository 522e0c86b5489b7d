//! One connection of the node agent: lines of JSON in, lines of JSON out, never waiting.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;

use crate::protocol::Request;

/// A request longer than this is not one.
const MAX_REQUEST: usize = 8 << 20;
/// An agent that lets so much pile up is stuck: it may connect again.
const MAX_UNREAD: usize = 4 << 20;

/// A connection and what is on its way in and out.
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A request is being worked on: the next waits, so that replies come in order.
    pub busy: bool,
    /// It wants to hear of every change.
    pub watching: bool,
    closed: bool,
}

impl Connection {
    /// Takes over an accepted stream.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            busy: false,
            watching: false,
            closed: false,
        })
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFd<'_> {
        let write = if self.output.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        PollFd::new(self.stream.as_fd(), PollFlags::POLLIN | write)
    }

    /// Whether it is over.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Reads what has arrived.
    pub fn receive(&mut self) {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return self.closed = true,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.closed = true,
            }
            if self.input.len() > MAX_REQUEST {
                return self.closed = true;
            }
        }
    }

    /// The next request, if a whole one has arrived and none is being worked on. `Err` is a line
    /// that is none.
    pub fn next(&mut self) -> Option<Result<Request, String>> {
        if self.busy || self.watching {
            return None;
        }
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Some(serde_json::from_slice(&line).map_err(|e| e.to_string()))
    }

    /// Sends one message.
    pub fn send(&mut self, message: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        self.output.append(&mut line);
        self.flush();
        if self.output.len() > MAX_UNREAD {
            self.closed = true;
        }
    }

    /// Sends one message with descriptors. For a connection that has nothing else on its way out.
    pub fn send_with(&mut self, message: &impl Serialize, descriptors: &[OwnedFd]) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        let fds: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(&line)],
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(n) if self.output.is_empty() => {
                self.output = line.split_off(n);
                self.flush();
            }
            _ => self.closed = true,
        }
    }

    /// Writes what can be written.
    pub fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.output = Vec::new();
                    return self.closed = true;
                }
            }
        }
        self.output = Vec::new();
    }
}
