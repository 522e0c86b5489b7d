//! Commands and containers that somebody talks to: their streams are handed to the node agent, so
//! that what is typed and written does not come through here.
//!
//! Called by `server` for requests, and when an agent's connection ends.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::pipe2;

use crate::helper::{Failure, Helper};
use crate::log;
use crate::oci::{self, Io};
use crate::place::Place;
use crate::protocol::{Payload, Reply, Stream};
use crate::sandbox::{LIMIT, Sandbox, failed};
use crate::task::{Exec, Session};
use crate::terminal::Console;

/// Between a command's SIGHUP, when whoever started it has gone, and its SIGKILL.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);

/// Which streams are wanted.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal instead.
    pub tty: bool,
}

impl Sandbox {
    /// Starts a command in a container for somebody.
    pub(crate) fn command(&mut self, connection: u64, id: &str, args: Vec<String>, wanted: Wanted) {
        let Some(index) = self.find(connection, id) else { return };
        let entry = &self.containers[index];
        let Payload::Oci { layers, scratch, security, .. } = entry.container.payload.clone() else {
            let message = "a Wasm container holds no programs that could be run in it";
            return self.reply(connection, &failed("ExecNotSupported", message));
        };
        if !entry.running() {
            let message = format!("container {id} is not running");
            return self.reply(connection, &failed("ContainerNotRunning", message));
        }
        let (container, cgroup) = (entry.container.clone(), entry.cgroup.clone());
        let (hostname, init, state) = (self.config.hostname.clone(), self.init, self.dir.join("state"));
        let exec = Exec::new(connection, args.join(" "), cgroup.clone());
        let console = format!("console-{}.sock", self.next_id());
        let bundle = self.bundle(id);
        let started = ends(wanted, &bundle.clone(), &console).and_then(|(session, io)| {
            let helper = Helper::start(LIMIT, &io.descriptors(), move || {
                let place = Place {
                    container: &container,
                    layers: &layers,
                    scratch: Path::new(&scratch),
                    bundle: &bundle,
                    security: &security,
                    cgroup: &cgroup,
                    hostname: &hostname,
                    init,
                    state: &state,
                };
                oci::exec(&place, &args, io)
            })?;
            Ok((session, helper))
        });
        match started {
            Err(error) => self.reply(connection, &failed("ExecError", error)),
            Ok((session, helper)) => {
                self.add_exec(helper, Exec { attended: true, session: Some(session), ..exec })
            }
        }
    }

    /// A command runs: gives its streams to whoever asked for it.
    pub(crate) fn hand_over(&mut self, id: u64) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        let (connection, Some(mut session)) = (exec.connection, exec.session.take()) else { return };
        if let Some(terminal) = session.console.take().and_then(|console| console.receive()) {
            session.streams.push((Stream::Terminal, terminal));
        }
        if self.connected(connection) {
            let (streams, descriptors): (Vec<_>, Vec<_>) = session.streams.into_iter().unzip();
            self.reply_with(connection, &Reply::Streams { streams }, &descriptors);
        } else {
            self.hang_up(connection);
        }
    }

    /// Whoever was at the other end of a connection has gone: so must the commands that they
    /// started for themselves. One that is still being started is met in `hand_over`.
    pub(crate) fn hang_up(&mut self, connection: u64) {
        for exec in self.execs.values_mut() {
            let theirs = exec.connection == connection && exec.attended;
            if theirs && exec.session.is_none() && exec.pid != 0 {
                exec.signal(Signal::SIGHUP);
                // One that is stopped would not see it.
                exec.signal(Signal::SIGCONT);
                exec.deadline = Some(Instant::now() + HANG_UP_GRACE);
            }
        }
        for entry in &mut self.containers {
            entry.taps.leave(connection);
        }
    }

    /// Joins the streams of a container. Of one that has ended, what it has written is left.
    pub(crate) fn attach(&mut self, connection: u64, id: &str, wanted: Wanted) {
        let Some(index) = self.find(connection, id) else { return };
        let ended = self.containers[index].state.exit.is_some();
        if !self.containers[index].running() && !ended {
            let message = format!("container {id} is not running");
            return self.reply(connection, &failed("ContainerNotRunning", message));
        }
        match self.join(connection, index, wanted) {
            Err(failure) => {
                self.containers[index].taps.leave(connection);
                self.reply(connection, &failed(failure.reason, failure.message));
            }
            Ok(found) => {
                let (streams, descriptors): (Vec<_>, Vec<_>) = found.into_iter().unzip();
                self.reply_with(connection, &Reply::Streams { streams }, &descriptors);
                if ended {
                    for connection in self.containers[index].release() {
                        self.reply(connection, &Reply::Done);
                    }
                }
            }
        }
    }

    fn join(
        &mut self,
        connection: u64,
        index: usize,
        wanted: Wanted,
    ) -> Result<Vec<(Stream, OwnedFd)>, Failure> {
        let entry = &mut self.containers[index];
        let (tty, once) = (entry.container.tty, entry.container.stdin_once);
        let mut found = Vec::new();
        if let Some(terminal) = entry.terminal() {
            found.push((Stream::Keyboard, terminal));
        }
        if wanted.stdin {
            // Given away, it ends when the first who is attached ends it.
            let copied = |stdin: &OwnedFd| stdin.try_clone().ok();
            let stdin = if once { entry.stdin.take() } else { entry.stdin.as_ref().and_then(copied) };
            found.extend(stdin.map(|stdin| (Stream::Stdin, stdin)));
        }
        let outputs = [
            (wanted.stdout, Stream::Stdout, log::Stream::Stdout),
            (wanted.stderr && !tty, Stream::Stderr, log::Stream::Stderr),
        ];
        let now = Timestamp::now();
        for (_, stream, source) in outputs.into_iter().filter(|(wanted, _, _)| *wanted) {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)
                .map_err(|e| Failure::new("AttachError", format!("make a pipe: {e}")))?;
            let said = entry.replay(source, now);
            entry.taps.add(connection, source, write, said);
            found.push((stream, read));
        }
        entry.heard |= wanted.stdout;
        entry.taps.join(connection);
        Ok(found)
    }

    /// Makes a socket in the pod's network namespace, which this process is in.
    pub(crate) fn socket(&mut self, connection: u64, v6: bool) {
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match socket(family, SockType::Stream, flags, None) {
            Err(error) => self.reply(connection, &failed("SocketError", error.desc())),
            Ok(socket) => {
                self.reply_with(connection, &Reply::Streams { streams: vec![Stream::Socket] }, &[socket]);
                self.finish(connection);
            }
        }
    }
}

/// The two ends of the streams of a new command.
fn ends(wanted: Wanted, bundle: &Path, console: &str) -> std::io::Result<(Session, Io)> {
    let mut session = Session::default();
    if wanted.tty {
        session.console = Some(Console::open(bundle, console)?);
        return Ok((session, Io::Terminal(console.to_owned())));
    }
    let stdin = if wanted.stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        session.streams.push((Stream::Stdin, write));
        Some(read)
    } else {
        None
    };
    let mut output = |wanted: bool, stream: Stream| -> std::io::Result<OwnedFd> {
        if !wanted {
            return Ok(std::fs::OpenOptions::new().write(true).open("/dev/null")?.into());
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        session.streams.push((stream, read));
        Ok(write)
    };
    let stdout = output(wanted.stdout, Stream::Stdout)?;
    let stderr = output(wanted.stderr, Stream::Stderr)?;
    Ok((session, Io::Pipes { stdin, stdout, stderr }))
}
