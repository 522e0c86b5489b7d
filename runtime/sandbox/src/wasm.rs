//! Wasm containers: a `proa-wasm` process each, in the pod's namespaces and a cgroup of its own.
//!
//! The program is the small static one if it lies beside this one, because it starts faster, and
//! this one in its `wasm` role otherwise. Both take the same configuration and give the same exit
//! codes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::pipe2;

use crate::capabilities::canonical;
use crate::cgroup::Cgroup;
use crate::descriptors;
use crate::devices;
use crate::executor::reset_signals;
use crate::helper::{Failure, OOM_SCORE, die_with_parent};
use crate::protocol::{Container, RequestLimits, User, WasmShape};
use crate::wasm_config::RunConfig;
use crate::wasm_view::view;

/// What runs, as the payload of the container says.
pub struct Program<'a> {
    /// The directory of this program.
    pub programs: &'a Path,
    /// The first process of the process namespace that it shares with the pod's others.
    pub init: Option<i32>,
    /// The compiled file.
    pub compiled: &'a str,
    /// How it is run.
    pub shape: WasmShape,
    /// The port of an HTTP component.
    pub port: u16,
    /// Seconds between SIGTERM and the forced end of an HTTP component.
    pub grace_period_seconds: u64,
    /// Whom it runs as, if not as root.
    pub user: Option<&'a User>,
    /// What requests to an HTTP component may take.
    pub requests: &'a RequestLimits,
    /// Without a filter of system calls.
    pub seccomp_unconfined: bool,
    /// Capabilities that it shall not have as root either.
    pub drop_capabilities: &'a [String],
}

/// A Wasm container's process.
pub struct Spawned {
    /// Its process id.
    pub pid: i32,
    /// The writing end of its standard input, if it has one.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// What it has to say beside its exit code.
    pub report: OwnedFd,
}

/// Starts it. `scratch` is a directory of the container's own, made if it needs one.
pub fn spawn(
    container: &Container,
    program: &Program<'_>,
    cgroup: &Cgroup,
    hostname: &str,
    scratch: &Path,
) -> Result<Spawned, Failure> {
    let view = view(&container.mounts, scratch).map_err(|e| Failure::new("CreateContainerError", e))?;
    let mut env = container.env.clone();
    if !env.iter().any(|(name, _)| name == "HOSTNAME") {
        env.insert(0, ("HOSTNAME".to_owned(), hostname.to_owned()));
    }
    let (report, report_end) = inherited_pipe().map_err(|e| create_error("make a pipe", &e))?;
    let config = RunConfig {
        compiled: program.compiled.to_owned(),
        shape: program.shape,
        args: container.args.clone(),
        env,
        cwd: container.cwd.clone(),
        preopens: view.preopens,
        files: view.files,
        memory_bytes: container.resources.memory_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        port: program.port,
        grace_period_seconds: program.grace_period_seconds,
        user: program.user.cloned(),
        requests: program.requests.clone(),
        seccomp_unconfined: program.seccomp_unconfined,
        drop_capabilities: program.drop_capabilities.iter().map(|name| canonical(name)).collect(),
        report_fd: Some(report_end.as_raw_fd()),
    };
    let config = memory_file(&config).map_err(|e| create_error("write the configuration", &e))?;
    // A volume may hold device nodes, made by a container beside it.
    let limited = cgroup
        .create()
        .and_then(|()| cgroup.limit(&container.resources))
        .and_then(|()| devices::restrict(cgroup));
    if container.resources.memory_bytes.is_some() {
        cgroup.end_as_one();
    }
    let members: io::Result<Vec<File>> = limited.and_then(|()| {
        cgroup.member_files().iter().map(|file| OpenOptions::new().write(true).open(file)).collect()
    });
    let members = members.map_err(|e| create_error("set the container's limits", &e))?;

    let mut command = command(program.programs);
    if container.stdin {
        command.stdin(Stdio::piped());
    }
    command.arg(format!("/proc/self/fd/{}", config.as_raw_fd()));
    let kept = [config, report_end];
    let oom_score_adj = container.resources.oom_score_adj.to_string();
    // SAFETY: between fork and exec there is one thread, as before, and nothing is held.
    unsafe { command.pre_exec(move || enter(&members, &oom_score_adj, &kept)) };
    let spawned = match program.init {
        Some(init) => in_process_namespace(init, || command.spawn()),
        None => command.spawn(),
    };
    let mut child = spawned.map_err(|e| {
        let _ = cgroup.remove();
        Failure::new("RunContainerError", format!("start {}: {e}", command.get_program().display()))
    })?;
    let stdin = child.stdin.take().map(OwnedFd::from);
    let (stdout, stderr) = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(Failure::new("RunContainerError", "the process has no output"));
    };
    Ok(Spawned { pid: child.id().cast_signed(), stdin, stdout, stderr, report })
}

/// Starts a process in the process namespace of `init`.
fn in_process_namespace<T>(init: i32, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = File::open("/proc/self/ns/pid")?;
    setns(File::open(format!("/proc/{init}/ns/pid"))?, CloneFlags::CLONE_NEWPID)?;
    let started = start();
    // What this process itself is in has not changed.
    setns(own, CloneFlags::CLONE_NEWPID)?;
    started
}

/// The steps of the new process before it becomes another program.
fn enter(members: &[File], oom_score_adj: &str, kept: &[OwnedFd; 2]) -> io::Result<()> {
    let _ = nix::unistd::setsid();
    for mut file in members {
        file.write_all(b"0")?;
    }
    // Lowering it takes a capability that may be missing, and is no reason not to run.
    let _ = fs::write(OOM_SCORE, oom_score_adj);
    reset_signals();
    die_with_parent();
    descriptors::give_back();
    close_all_but(kept)
}

/// Nothing else that is open here, whoever opened it, reaches the new program.
fn close_all_but(kept: &[OwnedFd; 2]) -> io::Result<()> {
    // SAFETY: the system call takes numbers only.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in kept {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

fn command(programs: &Path) -> Command {
    let mut command = match static_program(programs) {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new("/proc/self/exe");
            command.arg("wasm");
            command
        }
    };
    command
        .env_clear()
        // Huge pages would cost every process megabytes that it does not use.
        .env("MIMALLOC_ALLOW_THP", "0")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The static program, where it lies beside this one. Looked up each time, because an upgrade
/// replaces both.
fn static_program(programs: &Path) -> Option<PathBuf> {
    let path = programs.join("proa-wasm");
    path.is_file().then_some(path)
}

/// A file without a name, which the new process inherits. Unlike an argument it may hold secrets.
fn memory_file(config: &RunConfig) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("config.json", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(config)?)?;
    Ok(file.into())
}

/// A pipe whose writing end the new process inherits.
fn inherited_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    fcntl(&write, FcntlArg::F_SETFD(FdFlag::empty()))?;
    fcntl(&write, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((read, write))
}

fn create_error(what: &str, error: &io::Error) -> Failure {
    Failure::new("CreateContainerError", format!("{what}: {error}"))
}
