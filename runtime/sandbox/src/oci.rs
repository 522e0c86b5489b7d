//! OCI containers through libcontainer: created, entered, removed.
//!
//! Every function here runs in a helper (libcontainer changes the process that calls it, and may
//! be called from a single-threaded one only). The processes it starts are siblings of the
//! helper, which makes them children of the sandbox: their exit codes come from `waitpid`, never
//! from libcontainer's own idea of a container's state.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::LinuxSeccomp;
use libcontainer::syscall::syscall::SyscallType;

use crate::capabilities;
use crate::cgroup::Cgroup;
use crate::devices;
use crate::diagnostics;
use crate::executor::{Confinement, Start};
use crate::helper::{Failure, OOM_SCORE};
use crate::mounts;
use crate::place::Place;
use crate::protocol::{Container, Payload};
use crate::remove::remove_tree;
use crate::rootfs::{self, Scratch};
use crate::shm::Shm;
use crate::spec;
use crate::targets;

/// What a new process reads from and writes to.
pub enum Io {
    /// Files of its own.
    Pipes {
        /// Standard input; nothing if there is none.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal, which is sent to the socket of this name in the bundle.
    Terminal(String),
}

impl Io {
    /// What of it is open.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Pipes { stdin, stdout, stderr } => {
                stdin.iter().chain([stdout, stderr]).map(AsRawFd::as_raw_fd).collect()
            }
            Self::Terminal(_) => Vec::new(),
        }
    }
}

/// Makes a container and starts its program. Gives the process id of its first process. Without memory of
/// its pod at `/dev/shm` it has the node's.
pub fn create(place: &Place<'_>, shm: Option<Shm>, io: Io) -> Result<i32, Failure> {
    // What it has made is removed by the sandbox, which does not see what is mounted here.
    prepare(place, shm).map_err(|message| Failure::new("CreateContainerError", message))?;
    let causes = diagnostics::collect();
    start(place, io).map_err(|error| {
        place.cgroup.kill_all(Duration::from_secs(1));
        let _ = place.cgroup.remove();
        let _ = fs::remove_dir_all(place.state.join(&place.container.id));
        Failure::new("RunContainerError", message(&error, causes.first()))
    })
}

fn prepare(place: &Place<'_>, shm: Option<Shm>) -> Result<(), String> {
    let scratch =
        Scratch::create(place.scratch).map_err(|e| format!("make {}: {e}", place.scratch.display()))?;
    targets::check_names(&place.container.mounts)?;
    rootfs::enter_private_namespace().map_err(|e| format!("make a mount namespace: {e}"))?;
    rootfs::mount_overlay(place.layers, &scratch, place.security.privileged)
        .map_err(|e| format!("mount the root file system: {e}"))?;
    rootfs::check_places(&scratch.root)?;
    if let (Payload::Oci { volumes, .. }, true) = (&place.container.payload, place.security.read_only_root) {
        mounts::keep_writable(&scratch.root, volumes)?;
    }
    let taken = mounts::mount_all(&scratch.root, place, shm)?;
    if !place.container.cwd.is_empty() {
        mounts::make_working_directory(&scratch.root, &place.container.cwd)?;
    }
    let spec = spec::of(place, &scratch.root, &taken);
    let config = serde_json::to_vec(&spec).map_err(|e| e.to_string())?;
    fs::write(place.bundle.join("config.json"), config).map_err(|e| e.to_string())?;
    fs::create_dir_all(place.state).map_err(|e| e.to_string())?;
    take_oom_score(place);
    Ok(())
}

/// The container's, which what is started here inherits. Below what this process has, it takes a
/// capability that an agent in a container may lack; the container then runs with this process's own
/// score, which is no reason not to run it.
fn take_oom_score(place: &Place<'_>) {
    let _ = fs::write(OOM_SCORE, place.container.resources.oom_score_adj.to_string());
}

fn start(place: &Place<'_>, io: Io) -> Result<i32, LibcontainerError> {
    let builder = builder(place, Start::default(), io)?;
    let mut container =
        builder.as_init(place.bundle).with_systemd(false).with_detach(true).as_sibling(true).build()?;
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    mounts::mount_over_devices(pid, &place.container.mounts)
        .map_err(|message| LibcontainerError::OtherIO(std::io::Error::other(message)))?;
    if !place.security.privileged {
        devices::restrict(place.cgroup).map_err(LibcontainerError::OtherIO)?;
    }
    container.start()?;
    Ok(pid)
}

/// Runs a command in a running container. Gives its process id.
pub fn exec(place: &Place<'_>, args: &[String], io: Io) -> Result<i32, Failure> {
    let failed = |message: String| Failure::new("ExecError", message);
    take_oom_score(place);
    let granted = capabilities::of(place.security, &capabilities::available());
    let seccomp = match spec::seccomp_of(place.security, &granted) {
        Some(profile) => {
            Some(serde_json::from_value::<LinuxSeccomp>(profile).map_err(|e| failed(e.to_string()))?)
        }
        None => None,
    };
    // Held until the filter is installed and the bounding set is cut, and given up then.
    let mut held = granted.clone();
    held.extend(["CAP_SYS_ADMIN", "CAP_SETPCAP"].map(str::to_owned));
    let console = match &io {
        Io::Terminal(name) => Some(place.bundle.join(name)),
        Io::Pipes { .. } => None,
    };
    let container = Container { tty: console.is_some(), ..place.container.clone() };
    let process = spec::process(args, &container, place.security, &held, place.hostname);
    let file = place.bundle.join(format!("process-{}.json", std::process::id()));
    fs::write(&file, process.to_string()).map_err(|e| failed(e.to_string()))?;
    let causes = diagnostics::collect();
    let executor = Start { confine: Some(Confinement { seccomp, capabilities: granted }) };
    let started = builder(place, executor, io).and_then(|builder| {
        builder.as_tenant().with_detach(true).with_process(Some(&file)).as_sibling(true).build()
    });
    let _ = fs::remove_file(&file);
    if let Some(console) = console {
        remove_links(&place.state.join(&place.container.id), &console);
    }
    started.map(|pid| pid.as_raw()).map_err(|error| failed(message(&error, causes.first())))
}

fn builder(place: &Place<'_>, executor: Start, io: Io) -> Result<ContainerBuilder, LibcontainerError> {
    let builder = ContainerBuilder::new(place.container.id.clone(), SyscallType::default())
        .with_root_path(place.state)?
        .validate_id()?
        .with_executor(executor);
    let (stdin, stdout, stderr) = match io {
        Io::Terminal(name) => return Ok(builder.with_console_socket(Some(place.bundle.join(name)))),
        Io::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr),
    };
    let stdin = match stdin {
        Some(stdin) => stdin,
        None => File::open("/dev/null").map_err(LibcontainerError::OtherIO)?.into(),
    };
    Ok(builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr))
}

/// The library reaches a console's socket through a link in the container's state, and leaves it.
fn remove_links(state: &Path, console: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target == console) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes what a container that has ended left behind.
pub fn remove(cgroup: &Cgroup, directories: &[PathBuf]) -> Result<i32, Failure> {
    cgroup.kill_all(Duration::from_secs(5));
    cgroup.remove().map_err(|e| Failure::new("KillContainerError", e))?;
    for directory in directories {
        remove_tree(directory)
            .map_err(|e| Failure::new("KillContainerError", format!("{}: {e}", directory.display())))?;
    }
    Ok(0)
}

/// In the words that users of the kubelet know, as far as there are any.
fn message(error: &LibcontainerError, cause: Option<String>) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    // These name the way the error came, through processes of the library.
    for way in
        ["error in executing process : ", "exec process failed with error ", "intermediate process error "]
    {
        if let Some(at) = text.rfind(way) {
            text.drain(..at + way.len());
        }
    }
    let about = match (text.find("exec: \""), cause) {
        // The program itself cannot be run, and that is all there is to say.
        (Some(at), _) => text[at..].to_owned(),
        (None, Some(cause)) if !cause.contains(&text) => format!("{text}: {cause}"),
        (None, _) => text,
    };
    format!("unable to start container process: {about}")
}
