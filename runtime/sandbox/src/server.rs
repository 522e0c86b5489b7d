//! The sandbox's loop: waits for the agent, for its children and for containers' output, and acts
//! on each.
//!
//! Everything that can wake the sandbox is a variant of `Source`. The loop never waits for
//! anything else: what takes time is done by helpers (`requests`), and a request that needs one keeps
//! its connection busy until it is answered.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cgroup::{self, Cgroup};
use crate::connection::Connection;
use crate::containers::Entry;
use crate::oci;
use crate::protocol::{Event, Reply, Request, SandboxConfig};
use crate::sessions::Wanted;
use crate::task::{Exec, Task};

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

/// The sandbox.
pub struct Server {
    pub(crate) dir: PathBuf,
    pub(crate) config: SandboxConfig,
    /// The first process of the process namespace that all containers share, if they do.
    pub(crate) init: Option<i32>,
    pub(crate) pod: Cgroup,
    /// In the order they were started.
    pub(crate) containers: Vec<Entry>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    pub(crate) execs: BTreeMap<u64, Exec>,
    /// Children that ended before their helper could say what they are.
    pub(crate) unclaimed: BTreeMap<i32, WaitStatus>,
    listener: UnixListener,
    children: SignalFd,
    connections: BTreeMap<u64, Connection>,
    counter: u64,
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
        let pod = Cgroup::at(&config.cgroup);
        Self {
            dir,
            config,
            init,
            pod,
            containers: Vec::new(),
            tasks: BTreeMap::new(),
            execs: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            listener,
            children,
            connections: BTreeMap::new(),
            counter: 0,
            stopping: None,
        }
    }

    /// Serves until it is told to stop.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Children => self.reap(),
                    Source::Connection(id) => self.converse(id),
                    Source::Container(index) => self.listen(index),
                    Source::Task(id) => self.task_done(id),
                    Source::Exec(id) => self.exec_output(id),
                }
            }
            self.expire(Instant::now());
            self.answer();
            if self.stopped() {
                return Ok(());
            }
        }
    }

    /// Waits for something to happen, or for the nearest deadline.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut wanted = vec![
            (self.listener.as_raw_fd(), libc::POLLIN, Source::Listener),
            (self.children.as_raw_fd(), libc::POLLIN, Source::Children),
        ];
        for (id, connection) in &self.connections {
            let (fd, events) = connection.interest();
            wanted.push((fd, events, Source::Connection(*id)));
        }
        for (index, entry) in self.containers.iter().enumerate() {
            wanted.extend(entry.descriptors().map(|(fd, events)| (fd, events, Source::Container(index))));
        }
        wanted
            .extend(self.tasks.iter().map(|(id, task)| (task.helper.fd(), libc::POLLIN, Source::Task(*id))));
        for (id, exec) in &self.execs {
            wanted.extend(exec.output_fd().map(|fd| (fd, libc::POLLIN, Source::Exec(*id))));
        }
        let mut polled: Vec<libc::pollfd> = wanted
            .iter()
            .map(|(fd, events, _)| libc::pollfd { fd: *fd, events: *events, revents: 0 })
            .collect();
        // SAFETY: the array is as long as it is said to be, and lives through the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, self.timeout()) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        }
        let mut sources: Vec<Source> = polled
            .iter()
            .zip(&wanted)
            .filter(|(fd, _)| fd.revents != 0)
            .map(|(_, (_, _, source))| *source)
            .collect();
        // One container may have several descriptors; it is read as a whole.
        sources.dedup();
        Ok(sources)
    }

    /// Milliseconds to the nearest deadline, or -1.
    fn timeout(&self) -> i32 {
        let tasks = self.tasks.values().map(|task| task.helper.deadline);
        let execs = self.execs.values().filter_map(|exec| exec.deadline);
        let starting = self.containers.iter().filter_map(|entry| entry.starting.map(|(_, at)| at));
        let stopping = self.stopping.as_ref().map(|stopping| {
            // Past the first of the two only the other can be waited for.
            let now = Instant::now();
            if stopping.heard_until > now { stopping.heard_until } else { stopping.killed_until }
        });
        let nearest = tasks.chain(execs).chain(starting).chain(stopping).min();
        nearest.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
            i32::try_from(left).unwrap_or(i32::MAX)
        })
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Ok(connection) = Connection::new(stream) {
                let id = self.next_id();
                self.connections.insert(id, connection);
            }
        }
    }

    fn converse(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.flush();
            connection.receive();
        }
    }

    /// Acts on every request that has arrived, one at a time for each connection.
    fn answer(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            while let Some(request) = self.connections.get_mut(&id).and_then(Connection::next) {
                match request {
                    Ok(request) => self.act(id, request),
                    Err(message) => self.reply(id, &failed("InvalidRequest", message)),
                }
            }
            if self.connections.get(&id).is_some_and(Connection::closed) {
                self.connections.remove(&id);
                self.hang_up(id);
            }
        }
    }

    fn act(&mut self, connection: u64, request: Request) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.busy = true;
        }
        if self.stopping.is_some() {
            return self.reply(connection, &failed("KillContainerError", "the sandbox is stopping"));
        }
        match request {
            Request::Start(container) => self.start(connection, *container),
            Request::Signal { id, signal, all } => self.signal(connection, &id, signal, all),
            Request::Remove { id } => self.remove(connection, &id),
            Request::Exec { id, args, timeout_ms } => self.exec(connection, &id, args, timeout_ms),
            Request::Command { id, args, stdin, stdout, stderr, tty } => {
                self.command(connection, &id, args, Wanted { stdin, stdout, stderr, tty });
            }
            Request::Attach { id, stdin, stdout, stderr } => {
                self.attach(connection, &id, Wanted { stdin, stdout, stderr, tty: false });
            }
            Request::Socket { v6 } => self.socket(connection, v6),
            Request::List => {
                let known = self.containers.iter().filter(|entry| entry.visible());
                let containers = known.map(|entry| entry.state.clone()).collect();
                self.reply(connection, &Reply::Containers { containers });
            }
            Request::Watch => {
                if let Some(watcher) = self.connections.get_mut(&connection) {
                    watcher.watching = true;
                    for entry in self.containers.iter().filter(|entry| entry.visible()) {
                        watcher.send(&Event::Container(entry.state.clone()));
                    }
                }
            }
            Request::Stop => self.stop(connection),
        }
    }

    fn signal(&mut self, connection: u64, id: &str, number: i32, all: bool) {
        let Some(index) = self.find(connection, id) else { return };
        let entry = &self.containers[index];
        let reply = match Signal::try_from(number) {
            Err(_) => failed("InvalidRequest", format!("{number} is not a signal")),
            Ok(_) if !entry.running() => {
                failed("ContainerNotRunning", format!("container {id} is not running"))
            }
            Ok(signal) if all => {
                entry.cgroup.signal(signal);
                Reply::Done
            }
            Ok(signal) => match kill(Pid::from_raw(entry.state.pid), signal) {
                // It has ended, and will be reaped next.
                Ok(()) | Err(nix::Error::ESRCH) => Reply::Done,
                Err(error) => failed("KillContainerError", error),
            },
        };
        self.reply(connection, &reply);
    }

    /// Takes in what a container has written, and answers whoever waits for it to be ready.
    fn listen(&mut self, index: usize) {
        // What was removed since the poll shifts the others; reading one too many does no harm.
        let Some(entry) = self.containers.get_mut(index) else { return };
        if entry.read()
            && let Some((connection, _)) = entry.starting.take()
        {
            self.reply(connection, &Reply::Done);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))) => {
                    (pid.as_raw(), status)
                }
                Err(nix::Error::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if !self.child_ended(pid, status) && !self.tasks.is_empty() {
                self.unclaimed.insert(pid, status);
            }
        }
    }

    /// Gives whether anything was known of the child.
    pub(crate) fn child_ended(&mut self, pid: i32, status: WaitStatus) -> bool {
        if let Some(index) = self.containers.iter().position(|entry| entry.state.pid == pid) {
            self.containers[index].ended(status);
            // One that ended before it was ready did start: its exit says the rest.
            if let Some((connection, _)) = self.containers[index].starting.take() {
                self.reply(connection, &Reply::Done);
            }
            for connection in self.containers[index].release() {
                self.reply(connection, &Reply::Done);
            }
            self.announce(index);
            return true;
        }
        self.exec_ended(pid, status)
    }

    /// Deals with everything that has taken too long.
    fn expire(&mut self, now: Instant) {
        self.expire_tasks(now);
        self.expire_execs(now);
        for index in 0..self.containers.len() {
            if let Some((connection, at)) = self.containers[index].starting
                && at <= now
            {
                self.containers[index].starting = None;
                self.containers[index].cgroup.signal(Signal::SIGKILL);
                self.reply(connection, &failed("RunContainerError", "context deadline exceeded"));
            }
        }
    }

    fn stop(&mut self, connection: u64) {
        let now = Instant::now();
        self.stopping =
            Some(Stopping { connection, killed_until: now + STOP_LIMIT, heard_until: now + LISTEN_LIMIT });
        for task in self.tasks.values() {
            task.helper.kill();
        }
        for entry in &self.containers {
            entry.cgroup.signal(Signal::SIGKILL);
        }
    }

    /// Whether the sandbox was told to stop and has nothing left to wait for. Then everything is
    /// removed and the agent told.
    fn stopped(&mut self) -> bool {
        let Some(&Stopping { connection, killed_until, heard_until }) = self.stopping.as_ref() else {
            return false;
        };
        let alive =
            self.containers.iter().any(Entry::running) || !self.tasks.is_empty() || !self.execs.is_empty();
        let listened_to = self.containers.iter().any(|entry| entry.taps.pending());
        let now = Instant::now();
        if (alive && now < killed_until) || (listened_to && now < heard_until) {
            return false;
        }
        let mut result = Ok(0);
        for entry in &self.containers {
            result = result.and(oci::remove(&entry.cgroup, &entry.directories));
        }
        cgroup::leave();
        result = result.and(oci::remove(&self.pod, std::slice::from_ref(&self.dir)));
        let reply = match result {
            Ok(_) => Reply::Done,
            Err(failure) => failed(failure.reason, failure.message),
        };
        self.reply(connection, &reply);
        true
    }

    /// Tells everyone who watches how a container is now.
    pub(crate) fn announce(&mut self, index: usize) {
        let event = Event::Container(self.containers[index].state.clone());
        for connection in self.connections.values_mut().filter(|connection| connection.watching) {
            connection.send(&event);
        }
    }

    /// Answers a request, and lets its connection go on to the next.
    pub(crate) fn reply(&mut self, connection: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.busy = false;
            connection.send(reply);
        }
    }

    /// Answers with descriptors. The request goes on, so its connection stays busy.
    pub(crate) fn reply_with(&mut self, connection: u64, reply: &Reply, descriptors: &[OwnedFd]) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.send_with(reply, descriptors);
        }
    }

    /// A request has been answered in another way: its connection goes on to the next.
    pub(crate) fn finish(&mut self, connection: u64) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.busy = false;
        }
    }

    /// Whether anybody is there for an answer.
    pub(crate) fn connected(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    /// The container with this id; if there is none, the request is answered so.
    pub(crate) fn find(&mut self, connection: u64, id: &str) -> Option<usize> {
        let index = self.containers.iter().position(|entry| entry.state.id == id);
        if index.is_none() {
            self.reply(connection, &failed("ContainerNotFound", format!("container {id} not found")));
        }
        index
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

/// A refusal.
pub(crate) fn failed(reason: &str, message: impl ToString) -> Reply {
    Reply::Failed { reason: reason.to_owned(), message: message.to_string() }
}
