//! The sandbox's loop: waits for the agent, for its children and for containers' output, and acts
//! on each.
//!
//! Everything that can wake the sandbox is a variant of `Source`. The loop never waits for
//! anything else: what takes time is done by helpers (`requests`), and a request that needs one keeps
//! its connection busy until it is answered.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use rustix::process::{WaitOptions, wait};

use crate::cgroup;
use crate::connection::Connection;
use crate::oci;
use crate::protocol::{Reply, Request, SandboxConfig};
use crate::sandbox::{Sandbox, failed};
use crate::sessions::Wanted;

/// How long killed containers may take to be gone before the sandbox ends without them.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long those who are attached may take to read what their container has written.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);

/// Everything that can wake the sandbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Somebody connects.
    Listener,
    /// A child has ended.
    Children,
    /// A connection can be read or written.
    Connection(u64),
    /// A container has written something.
    Container(usize),
    /// A helper has done its work.
    Task(u64),
    /// A command has written something.
    Exec(u64),
}

/// The sandbox, listening.
pub struct Server {
    sandbox: Sandbox,
    listener: UnixListener,
    children: SignalFd,
    stopping: Option<Stopping>,
}

/// The sandbox was told to stop.
struct Stopping {
    /// Who is told when it has.
    connection: u64,
    /// Until when the killed are waited for.
    killed_until: Instant,
    /// Until when the listeners are.
    heard_until: Instant,
}

impl Server {
    /// A sandbox without containers.
    pub fn new(
        dir: PathBuf,
        config: SandboxConfig,
        init: Option<i32>,
        listener: UnixListener,
        children: SignalFd,
    ) -> Self {
        Self { sandbox: Sandbox::new(dir, config, init), listener, children, stopping: None }
    }

    /// Serves until it is told to stop.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Children => self.reap(),
                    Source::Connection(id) => self.converse(id),
                    Source::Container(index) => self.sandbox.listen(index),
                    Source::Task(id) => self.sandbox.task_done(id),
                    Source::Exec(id) => self.sandbox.exec_output(id),
                }
            }
            self.sandbox.expire(Instant::now());
            self.answer();
            if self.stopped() {
                return Ok(());
            }
        }
    }

    /// Waits for something to happen, or for the nearest deadline.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let read = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut wanted = vec![
            (read(self.listener.as_fd()), Source::Listener),
            (read(self.children.as_fd()), Source::Children),
        ];
        for (id, connection) in &self.sandbox.connections {
            wanted.push((connection.interest(), Source::Connection(*id)));
        }
        for (index, entry) in self.sandbox.containers.iter().enumerate() {
            wanted.extend(entry.descriptors().map(|polled| (polled, Source::Container(index))));
        }
        wanted
            .extend(self.sandbox.tasks.iter().map(|(id, task)| (read(task.helper.fd()), Source::Task(*id))));
        for (id, exec) in &self.sandbox.execs {
            wanted.extend(exec.output_fd().map(|fd| (read(fd), Source::Exec(*id))));
        }
        let (mut polled, sources): (Vec<PollFd<'_>>, Vec<Source>) = wanted.into_iter().unzip();
        match poll(&mut polled, self.timeout()) {
            Err(Errno::EINTR) => return Ok(Vec::new()),
            polled => polled?,
        };
        let ready = polled.iter().zip(sources).filter(|(polled, _)| polled.any().unwrap_or(true));
        let mut sources: Vec<Source> = ready.map(|(_, source)| source).collect();
        // One container may have several descriptors; it is read as a whole.
        sources.dedup();
        Ok(sources)
    }

    /// To the nearest deadline.
    fn timeout(&self) -> PollTimeout {
        let tasks = self.sandbox.tasks.values().map(|task| task.helper.deadline);
        let execs = self.sandbox.execs.values().filter_map(|exec| exec.deadline);
        let starting = self.sandbox.containers.iter().filter_map(|entry| entry.starting.map(|(_, at)| at));
        let stopping = self.stopping.as_ref().map(|stopping| {
            // Past the first of the two only the other can be waited for.
            let now = Instant::now();
            if stopping.heard_until > now { stopping.heard_until } else { stopping.killed_until }
        });
        let nearest = tasks.chain(execs).chain(starting).chain(stopping).min();
        nearest.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        })
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Ok(connection) = Connection::new(stream) {
                let id = self.sandbox.next_id();
                self.sandbox.connections.insert(id, connection);
            }
        }
    }

    fn converse(&mut self, id: u64) {
        if let Some(connection) = self.sandbox.connections.get_mut(&id) {
            connection.flush();
            connection.receive();
        }
    }

    /// Acts on every request that has arrived, one at a time for each connection.
    fn answer(&mut self) {
        let ids: Vec<u64> = self.sandbox.connections.keys().copied().collect();
        for id in ids {
            while let Some(request) = self.sandbox.connections.get_mut(&id).and_then(Connection::next) {
                match request {
                    Ok(request) => self.act(id, request),
                    Err(message) => self.sandbox.reply(id, &failed("InvalidRequest", message)),
                }
            }
            if self.sandbox.connections.get(&id).is_some_and(Connection::closed) {
                self.sandbox.connections.remove(&id);
                self.sandbox.hang_up(id);
            }
        }
    }

    fn act(&mut self, connection: u64, request: Request) {
        if let Some(connection) = self.sandbox.connections.get_mut(&connection) {
            connection.busy = true;
        }
        if self.stopping.is_some() {
            return self.sandbox.reply(connection, &failed("KillContainerError", "the sandbox is stopping"));
        }
        match request {
            Request::Start(container) => self.sandbox.start(connection, *container),
            Request::Signal { id, signal, all } => self.sandbox.signal(connection, &id, signal, all),
            Request::Remove { id } => self.sandbox.remove(connection, &id),
            Request::Exec { id, args, timeout_ms } => self.sandbox.exec(connection, &id, args, timeout_ms),
            Request::Command { id, args, stdin, stdout, stderr, tty } => {
                self.sandbox.command(connection, &id, args, Wanted { stdin, stdout, stderr, tty });
            }
            Request::Attach { id, stdin, stdout, stderr } => {
                self.sandbox.attach(connection, &id, Wanted { stdin, stdout, stderr, tty: false });
            }
            Request::Socket { v6 } => self.sandbox.socket(connection, v6),
            Request::List => self.sandbox.list(connection),
            Request::Watch => self.sandbox.watch(connection),
            Request::Stop => self.stop(connection),
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            // Nix knows no real-time signals: a child that one ended would be lost.
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => (pid.as_raw_pid(), status),
                Err(rustix::io::Errno::INTR) => continue,
                Ok(None) | Err(_) => break,
            };
            if !self.sandbox.child_ended(pid, status) && !self.sandbox.tasks.is_empty() {
                self.sandbox.ended_early.insert(pid, status);
            }
        }
    }

    fn stop(&mut self, connection: u64) {
        let now = Instant::now();
        self.stopping =
            Some(Stopping { connection, killed_until: now + STOP_LIMIT, heard_until: now + LISTEN_LIMIT });
        self.sandbox.kill_all();
    }

    /// Whether the sandbox was told to stop and has nothing left to wait for. Then everything is
    /// removed and the agent told.
    fn stopped(&mut self) -> bool {
        let Some(&Stopping { connection, killed_until, heard_until }) = self.stopping.as_ref() else {
            return false;
        };
        let now = Instant::now();
        let (busy, listened_to) = (self.sandbox.is_busy(), self.sandbox.is_listened_to());
        if (busy && now < killed_until) || (listened_to && now < heard_until) {
            return false;
        }
        let mut result = Ok(0);
        for entry in &self.sandbox.containers {
            result = result.and(oci::remove(&entry.cgroup, &entry.directories));
        }
        cgroup::leave();
        result = result.and(oci::remove(&self.sandbox.pod, std::slice::from_ref(&self.sandbox.dir)));
        let reply = match result {
            Ok(_) => Reply::Done,
            Err(failure) => failed(failure.reason, failure.message),
        };
        self.sandbox.reply(connection, &reply);
        true
    }
}
