//! Requests that take time: starting and removing containers, and running commands in them.
//!
//! Each is one helper at a time, with a time limit. What a helper has done is taken up here when
//! it says so.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use rustix::process::WaitStatus;

use crate::containers::{Entry, codes};
use crate::helper::{Failure, Helper, Outcome};
use crate::log::{Log, Stream};
use crate::oci::{self, Io};
use crate::place::Place;
use crate::protocol::{Container, ID_MAX, Payload, Reply};
use crate::sandbox::{LIMIT, Sandbox, failed};
use crate::shm::Shm;
use crate::task::{Exec, Purpose, Task};
use crate::terminal::Console;
use crate::wasm::{self, Program};

/// Where the terminal of a container's first process arrives.
const CONSOLE_FILE: &str = "console.sock";

impl Sandbox {
    /// Makes and starts a container.
    pub(crate) fn start(&mut self, connection: u64, container: Container) {
        let id = container.id.clone();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
        if id.is_empty() || !id.chars().all(plain) || id.starts_with('.') || id == "sandbox" {
            return self
                .reply(connection, &failed("CreateContainerError", format!("{id:?} is no container id")));
        }
        if self.containers.iter().any(|entry| entry.state.id == id) {
            return self.reply(
                connection,
                &failed("CreateContainerError", format!("container {id} already exists")),
            );
        }
        if let Some(unusable) = container.payload.ids().into_iter().find(|id| *id > ID_MAX) {
            let message = format!("{unusable} is no user or group id");
            return self.reply(connection, &failed("CreateContainerError", message));
        }
        let log = match Log::open(&container.log_path, container.log_max_bytes, container.log_max_files) {
            Ok(log) => log,
            Err(error) => {
                let message = format!("open log {}: {error}", container.log_path);
                return self.reply(connection, &failed("CreateContainerError", message));
            }
        };
        // Who is killed is given all the processors there are, and with it the pod.
        let _ = self.pod.limit(&self.config.resources);
        let result = match &container.payload {
            Payload::Oci { .. } => self.start_oci(connection, container, log),
            Payload::Wasm { .. } => self.start_wasm(connection, container, log),
        };
        if let Err(failure) = result {
            self.containers.retain(|entry| entry.state.id != id || entry.visible());
            self.reply(connection, &failed(failure.reason, failure.message));
        }
    }

    fn start_oci(&mut self, connection: u64, container: Container, log: Log) -> Result<(), Failure> {
        let Payload::Oci { layers, scratch, security, .. } = container.payload.clone() else { return Ok(()) };
        let create_error = |error: std::io::Error| Failure::new("CreateContainerError", error);
        let scratch = Path::new(&scratch).to_path_buf();
        let state = self.dir.join("state");
        let cgroup = self.pod.child(&container.id);
        let bundle = self.bundle(&container.id);
        let directories = vec![scratch.clone(), bundle.clone(), state.join(&container.id)];
        let mut entry = Entry::new(container.clone(), cgroup.clone(), directories, log);
        fs::create_dir_all(&bundle).map_err(create_error)?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| create_error(e.into()));
        let (io, console) = if container.tty {
            let console = Console::open(&bundle, CONSOLE_FILE).map_err(create_error)?;
            (Io::Terminal(CONSOLE_FILE.to_owned()), Some(console))
        } else {
            let (out, stdout) = pipe()?;
            let (err, stderr) = pipe()?;
            entry.add_stream(Stream::Stdout, out);
            entry.add_stream(Stream::Stderr, err);
            let stdin = if container.stdin { Some(pipe()?) } else { None };
            let stdin = stdin.map(|(stdin, end)| {
                entry.stdin = Some(end);
                stdin
            });
            (Io::Pipes { stdin, stdout, stderr }, None)
        };
        let (hostname, init) = (self.config.hostname.clone(), self.init);
        let id = container.id.clone();
        let shm = if security.host_ipc { None } else { Some(self.shm().map_err(create_error)?) };
        let mut kept = io.descriptors();
        kept.extend(shm.as_ref().map(Shm::descriptor));
        let helper = Helper::start(LIMIT, &kept, move || {
            let place = Place {
                container: &container,
                layers: &layers,
                scratch: &scratch,
                bundle: &bundle,
                security: &security,
                cgroup: &cgroup,
                hostname: &hostname,
                init,
                state: &state,
            };
            oci::create(&place, shm, io)
        })
        .map_err(create_error)?;
        self.containers.push(entry);
        self.add_task(helper, connection, Purpose::Create { id, console });
        Ok(())
    }

    fn start_wasm(&mut self, connection: u64, container: Container, log: Log) -> Result<(), Failure> {
        let Payload::Wasm {
            compiled,
            shape,
            port,
            grace_period_seconds,
            user,
            requests,
            seccomp_unconfined,
            drop_capabilities,
        } = &container.payload
        else {
            return Ok(());
        };
        if container.tty {
            return Err(Failure::new("CreateContainerError", "a Wasm container cannot have a terminal"));
        }
        let program = Program {
            programs: &self.config.programs,
            init: self.init,
            compiled,
            shape: *shape,
            port: *port,
            grace_period_seconds: *grace_period_seconds,
            user: user.as_ref(),
            requests,
            seccomp_unconfined: *seccomp_unconfined,
            drop_capabilities,
        };
        let cgroup = self.pod.child(&container.id);
        let scratch = self.dir.join("wasm").join(&container.id);
        let spawned = wasm::spawn(&container, &program, &cgroup, &self.config.hostname, &scratch)
            .inspect_err(|_| drop(fs::remove_dir_all(&scratch)))?;
        let mut entry = Entry::new(container, cgroup, vec![scratch], log);
        entry.stdin = spawned.stdin;
        entry.add_stream(Stream::Stdout, spawned.stdout);
        entry.add_stream(Stream::Stderr, spawned.stderr);
        entry.add_report(spawned.report);
        entry.started(spawned.pid);
        entry.starting = Some((connection, Instant::now() + LIMIT));
        self.containers.push(entry);
        self.announce(self.containers.len() - 1);
        Ok(())
    }

    /// Forgets a container that has ended, and removes what it left.
    pub(crate) fn remove(&mut self, connection: u64, id: &str) {
        let Some(index) = self.find(connection, id) else { return };
        let entry = &self.containers[index];
        if entry.state.exit.is_none() {
            let message = format!("container {id} has not ended");
            return self.reply(connection, &failed("KillContainerError", message));
        }
        let (cgroup, directories) = (entry.cgroup.clone(), entry.directories.clone());
        match Helper::start(LIMIT, &[], move || oci::remove(&cgroup, &directories)) {
            Ok(helper) => self.add_task(helper, connection, Purpose::Remove { id: id.to_owned() }),
            Err(error) => self.reply(connection, &failed("KillContainerError", error)),
        }
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&mut self, connection: u64, id: &str, args: Vec<String>, timeout_ms: u64) {
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
        let place_cgroup = cgroup.clone();
        let (hostname, init, state) = (self.config.hostname.clone(), self.init, self.dir.join("state"));
        let (program, bundle) = (args.join(" "), self.bundle(id));
        let pipes = pipe2(OFlag::O_CLOEXEC).and_then(|(read, write)| {
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok((read, write))
        });
        let started = pipes.map_err(std::io::Error::from).and_then(|(read, write)| {
            let io = Io::Pipes { stdin: None, stdout: write.try_clone()?, stderr: write };
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
            Ok((read, helper))
        });
        match started {
            Err(error) => self.reply(connection, &failed("ExecError", error)),
            Ok((read, helper)) => {
                let deadline = (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms));
                let pipe = Some(File::from(read));
                let exec = Exec { deadline, pipe, ..Exec::new(connection, program, place_cgroup) };
                self.add_exec(helper, exec);
            }
        }
    }

    /// A helper has said how it went.
    pub(crate) fn task_done(&mut self, id: u64) {
        let Some(Task { helper, connection, purpose }) = self.remove_task(id) else { return };
        let outcome = helper.outcome();
        match purpose {
            Purpose::Create { id, console } => self.created(connection, &id, console, outcome),
            Purpose::Remove { id } => match outcome {
                Outcome::Done { .. } => {
                    self.containers.retain(|entry| entry.state.id != id);
                    self.reply(connection, &Reply::Done);
                }
                Outcome::Failed { reason, message } => self.reply(connection, &failed(&reason, message)),
            },
            Purpose::Exec { id } => match outcome {
                Outcome::Done { pid } => self.exec_started(id, pid),
                Outcome::Failed { reason, message } => {
                    self.execs.remove(&id);
                    self.reply(connection, &failed(&reason, message));
                }
            },
        }
        if self.tasks.is_empty() {
            self.ended_early.clear();
        }
    }

    fn created(&mut self, connection: u64, id: &str, console: Option<Console>, outcome: Outcome) {
        let Some(index) = self.containers.iter().position(|entry| entry.state.id == id) else { return };
        match outcome {
            Outcome::Done { pid } => {
                if let Some(terminal) = console.and_then(|console| console.receive()) {
                    self.containers[index].add_terminal(terminal);
                }
                self.containers[index].started(pid);
                self.announce(index);
                self.reply(connection, &Reply::Done);
                if let Some(status) = self.ended_early.remove(&pid) {
                    self.child_ended(pid, status);
                }
            }
            Outcome::Failed { reason, message } => {
                if reason == "RunContainerError" {
                    self.containers[index].failed_to_start(&message);
                    self.announce(index);
                } else {
                    let entry = self.containers.remove(index);
                    // A helper that was killed may have left some of it.
                    entry.cgroup.kill_all(Duration::from_millis(200));
                    let _ = oci::remove(&entry.cgroup, &entry.directories);
                }
                self.reply(connection, &failed(&reason, message));
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

    fn exec_started(&mut self, id: u64, pid: i32) {
        if let Some(exec) = self.execs.get_mut(&id) {
            exec.pid = pid;
        }
        self.hand_over(id);
        if let Some(status) = self.ended_early.remove(&pid) {
            self.exec_ended(pid, status);
        }
    }

    /// Takes in what a command has written.
    pub(crate) fn exec_output(&mut self, id: u64) {
        if let Some(exec) = self.execs.get_mut(&id) {
            exec.read();
        }
    }

    /// Answers for a command that has ended. What it left running keeps its pipe to itself. Gives
    /// whether the child was a command.
    pub(crate) fn exec_ended(&mut self, pid: i32, status: WaitStatus) -> bool {
        let Some(id) = self.execs.iter().find(|(_, exec)| exec.pid == pid && pid != 0).map(|(id, _)| *id)
        else {
            return false;
        };
        let Some(mut exec) = self.execs.remove(&id) else { return false };
        exec.read();
        let reply = if exec.expired {
            failed("DeadlineExceeded", format!("command {:?} timed out", exec.program))
        } else {
            let output = String::from_utf8_lossy(&exec.output).into_owned();
            Reply::Executed { exit_code: codes(status).0, output }
        };
        self.reply(exec.connection, &reply);
        true
    }

    /// Kills helpers that have taken too long. Their results then say so.
    pub(crate) fn expire_tasks(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.helper.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(task) = self.remove_task(id) else { continue };
            task.helper.kill();
            let reason = match &task.purpose {
                Purpose::Create { .. } => "CreateContainerError",
                Purpose::Remove { .. } => "KillContainerError",
                Purpose::Exec { .. } => "ExecError",
            };
            match task.purpose {
                Purpose::Create { id, .. } => {
                    let outcome = Outcome::Failed {
                        reason: reason.to_owned(),
                        message: "context deadline exceeded".to_owned(),
                    };
                    self.created(task.connection, &id, None, outcome);
                    continue;
                }
                Purpose::Exec { id } => drop(self.execs.remove(&id)),
                Purpose::Remove { .. } => {}
            }
            self.reply(task.connection, &failed(reason, "context deadline exceeded"));
        }
    }

    /// Kills commands that have taken too long; their end is then reported as that.
    pub(crate) fn expire_execs(&mut self, now: Instant) {
        for exec in self.execs.values_mut().filter(|exec| exec.pid != 0) {
            if exec.deadline.is_some_and(|at| at <= now) {
                exec.deadline = None;
                exec.expired = true;
                exec.signal(Signal::SIGKILL);
            }
        }
    }
}
