//! What the sandbox knows of one container, and how its output and its end are taken in.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use rustix::process::WaitStatus;

use crate::cgroup::Cgroup;
use crate::log::{Log, Partial, Stream};
use crate::protocol::{Container, ContainerState, Exit};
use crate::replay;
use crate::taps::Taps;
use crate::wasm_config::Report;

/// Most bytes taken from one stream before the others get their turn.
const TURN: usize = 16 << 10;
/// Most bytes taken from a container that has ended, whose descendants may write on for ever.
const LAST_WORDS: usize = 1 << 20;

/// One container.
pub struct Entry {
    /// What the agent is told.
    pub state: ContainerState,
    /// What it was made from.
    pub container: Container,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Removed with it.
    pub directories: Vec<PathBuf>,
    /// Who waits for it to have started, and until when.
    pub starting: Option<(u64, Instant)>,
    /// The writing end of its standard input, if that is open and has not been given away.
    pub stdin: Option<OwnedFd>,
    /// Who is attached.
    pub taps: Taps,
    /// Somebody has been attached to this run.
    pub heard: bool,
    terminal: Option<OwnedFd>,
    log: Option<Log>,
    streams: Vec<Pipe>,
    report: Option<(OwnedFd, Vec<u8>)>,
    end: Option<(String, String)>,
}

struct Pipe {
    stream: Stream,
    fd: std::fs::File,
    partial: Partial,
    ended: bool,
}

impl Entry {
    /// A container that is being made.
    pub fn new(container: Container, cgroup: Cgroup, directories: Vec<PathBuf>, log: Log) -> Self {
        let state = ContainerState { id: container.id.clone(), pid: 0, started_at_ms: 0, exit: None };
        Self {
            state,
            container,
            cgroup,
            directories,
            starting: None,
            stdin: None,
            taps: Taps::default(),
            heard: false,
            terminal: None,
            log: Some(log),
            streams: Vec::new(),
            report: None,
            end: None,
        }
    }

    /// Whether the agent may know of it: it runs, or it has ended.
    pub fn visible(&self) -> bool {
        self.state.started_at_ms != 0
    }

    /// Whether its first process runs.
    pub fn running(&self) -> bool {
        self.state.pid != 0 && self.state.exit.is_none()
    }

    /// Its program runs from now on.
    pub fn started(&mut self, pid: i32) {
        self.state.pid = pid;
        self.state.started_at_ms = Timestamp::now().as_millisecond();
    }

    /// It could be made but not started, as containerd reports it.
    pub fn failed_to_start(&mut self, message: &str) {
        self.started(0);
        self.close();
        self.state.exit = Some(Exit {
            code: 128,
            signal: 0,
            reason: "StartError".to_owned(),
            message: message.to_owned(),
            finished_at_ms: self.state.started_at_ms,
        });
    }

    /// Reads one of its streams into the log from now on.
    pub fn add_stream(&mut self, stream: Stream, fd: OwnedFd) {
        let _ = fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        self.streams.push(Pipe { stream, fd: fd.into(), partial: Partial::default(), ended: false });
    }

    /// Its terminal: read into the log from now on, written to by who is attached.
    pub fn add_terminal(&mut self, fd: OwnedFd) {
        self.terminal = fd.try_clone().ok();
        self.add_stream(Stream::Stdout, fd);
    }

    /// Another descriptor of its terminal.
    pub fn terminal(&self) -> Option<OwnedFd> {
        self.terminal.as_ref()?.try_clone().ok()
    }

    /// What a stream has said so far, if it is for who attaches now: the first, in the run's first
    /// minute.
    pub fn replay(&self, stream: Stream, now: Timestamp) -> Vec<u8> {
        let age_ms = now.as_millisecond().saturating_sub(self.state.started_at_ms);
        if self.heard || age_ms > replay::YOUNG_MS {
            return Vec::new();
        }
        // Without its log the container is heard from now on, which is better than not at all.
        let mut said = replay::written(Path::new(&self.container.log_path), stream).unwrap_or_default();
        let open = self.streams.iter().filter(|pipe| pipe.stream == stream);
        open.for_each(|pipe| said.extend_from_slice(pipe.partial.bytes()));
        said
    }

    /// It has ended: gives who is attached and waits for that.
    pub fn release(&mut self) -> Vec<u64> {
        self.taps.end()
    }

    /// Listens to what a Wasm process reports.
    pub fn add_report(&mut self, fd: OwnedFd) {
        self.report = Some((fd, Vec::new()));
    }

    /// What to poll, and for what.
    pub fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let open = self.streams.iter().filter(|pipe| !pipe.ended && !self.taps.full(pipe.stream));
        let read = open.map(|pipe| pipe.fd.as_fd()).chain(self.report.as_ref().map(|(fd, _)| fd.as_fd()));
        let written = self.taps.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
        read.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).chain(written)
    }

    /// Takes in what there is to read. Gives whether the container has just reported ready.
    pub fn read(&mut self) -> bool {
        self.taps.flush();
        self.read_streams(TURN);
        self.read_report()
    }

    fn read_streams(&mut self, limit: usize) {
        let Some(log) = self.log.as_mut() else { return };
        let mut buffer = [0; TURN];
        for pipe in self.streams.iter_mut().filter(|pipe| !pipe.ended) {
            let mut taken = 0;
            // Last words are taken as they come.
            while taken < limit && (limit > TURN || !self.taps.full(pipe.stream)) {
                match pipe.fd.read(&mut buffer) {
                    Ok(0) => pipe.ended = true,
                    Ok(n) => {
                        taken += n;
                        log.append(pipe.stream, &mut pipe.partial, &buffer[..n], Timestamp::now());
                        self.taps.copy(pipe.stream, &buffer[..n]);
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    // A terminal whose other end is closed says EIO.
                    Err(_) => pipe.ended = true,
                }
                break;
            }
            if pipe.ended {
                log.finish(pipe.stream, &mut pipe.partial, Timestamp::now());
            }
        }
    }

    fn read_report(&mut self) -> bool {
        let Some((fd, text)) = self.report.as_mut() else { return false };
        let mut buffer = [0; 4096];
        let mut ended = false;
        loop {
            match nix::unistd::read(&*fd, &mut buffer) {
                Ok(0) => break ended = true,
                Ok(n) => text.extend_from_slice(&buffer[..n]),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break,
                Err(_) => break ended = true,
            }
        }
        let mut ready = false;
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            match serde_json::from_slice(&text.drain(..=end).collect::<Vec<_>>()) {
                Ok(Report::Ready) => ready = true,
                Ok(Report::End { reason, message }) => self.end = Some((reason, message)),
                Err(_) => {}
            }
        }
        if ended {
            self.report = None;
        }
        ready
    }

    /// Its first process has ended: takes in its last words, kills what it left, and settles how
    /// it ended.
    pub fn ended(&mut self, status: WaitStatus) {
        self.cgroup.signal(libc::SIGKILL);
        self.read_streams(LAST_WORDS);
        self.read_report();
        self.close();
        let (code, signal) = codes(status);
        let (mut reason, mut message) =
            (if code == 0 { "Completed" } else { "Error" }.to_owned(), String::new());
        if let Some(end) = self.end.take() {
            (reason, message) = end;
        }
        // A program that lives on without the child it lost has not been killed.
        if code != 0 && self.cgroup.oom_kills() > 0 {
            reason = "OOMKilled".to_owned();
        }
        self.state.pid = 0;
        self.state.exit =
            Some(Exit { code, signal, reason, message, finished_at_ms: Timestamp::now().as_millisecond() });
    }

    fn close(&mut self) {
        if let Some(mut log) = self.log.take() {
            for pipe in &mut self.streams {
                log.finish(pipe.stream, &mut pipe.partial, Timestamp::now());
            }
        }
        self.streams = Vec::new();
        self.report = None;
        self.stdin = None;
        self.terminal = None;
    }
}

/// Exit code as Kubernetes shows it, and the signal behind it.
pub fn codes(status: WaitStatus) -> (i32, i32) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, 0),
        (None, Some(signal)) => (128 + signal, signal),
        (None, None) => (255, 0),
    }
}
