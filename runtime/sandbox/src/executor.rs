//! The last steps of a container's process before it becomes the container's program.
//!
//! Runs inside the container, in a process that libcontainer has prepared. It finds the program
//! as a shell would, undoes what the sandbox did to itself (blocked and ignored signals), ties the
//! process's life to the sandbox's, and for a command in a running container installs the filter
//! and drops the capabilities that libcontainer leaves to the container's first process.

use std::ffi::CString;
use std::io::{self, Write};
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::oci_spec::runtime::{LinuxSeccomp, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use crate::descriptors;
use crate::helper::die_with_parent;
use crate::targets;

/// Search path of a process whose environment names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a container's program is started.
#[derive(Clone, Default)]
pub struct Start {
    /// For a command in a running container: what to give up just before it runs.
    pub confine: Option<Confinement>,
}

/// What a command in a running container gives up.
#[derive(Clone)]
pub struct Confinement {
    /// Filter of the container.
    pub seccomp: Option<LinuxSeccomp>,
    /// Capabilities of the container, as `CAP_…`.
    pub capabilities: Vec<String>,
}

impl Executor for Start {
    /// Called before the container counts as created: what cannot run is told from here.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        if self.confine.is_none() {
            let linux = spec.linux().as_ref();
            let masked = linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
            let read_only = linux.and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default();
            targets::check_mounted(masked, read_only).map_err(ExecutorValidationError::ArgValidationError)?;
        }
        find(spec).map(|_| ()).map_err(ExecutorValidationError::ArgValidationError)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let program = find(spec).map_err(ExecutorError::Other)?;
        let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        let args: Result<Vec<CString>, _> = args.into_iter().map(CString::new).collect();
        let (Ok(args), Ok(path)) = (args, CString::new(program.as_bytes())) else {
            return Err(ExecutorError::InvalidArg);
        };
        descriptors::give_back();
        if let Some(confinement) = &self.confine {
            confinement.enter().map_err(ExecutorError::Other)?;
        }
        reset_signals();
        die_with_parent();
        let Err(error) = nix::unistd::execv(&path, &args);
        // The container has started by now, so this is its output and its end.
        let _ = writeln!(io::stderr(), "exec {program}: {}", error.desc().to_lowercase());
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(255) }
    }
}

/// The file to execute, found along the container's `PATH` unless it has a slash.
fn find(spec: &Spec) -> Result<String, String> {
    let process = spec.process().as_ref().ok_or("no process to run")?;
    let args = process.args().as_deref().unwrap_or_default();
    let name = args.first().filter(|name| !name.is_empty()).ok_or("no command specified")?;
    let fail = |why: &str| Err(format!("exec: {name:?}: {why}"));
    if name.contains('/') {
        return match runnable(Path::new(name)) {
            Ok(()) => Ok(name.clone()),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => fail(&format!("stat {name}: no such file or directory")),
                io::ErrorKind::IsADirectory => fail("is a directory"),
                _ => fail("permission denied"),
            },
        };
    }
    let environment = process.env().as_deref().unwrap_or_default();
    let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let candidates = path.split(':').filter(|dir| !dir.is_empty()).map(|dir| format!("{dir}/{name}"));
    for candidate in candidates {
        if runnable(Path::new(&candidate)).is_ok() {
            return Ok(candidate);
        }
    }
    fail("executable file not found in $PATH")
}

/// Whether this process, with the user it has become, may execute a file.
fn runnable(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    nix::unistd::eaccess(path, nix::unistd::AccessFlags::X_OK).map_err(Into::into)
}

impl Confinement {
    /// The filter first: installing it wants a capability that is given up next.
    fn enter(&self) -> Result<(), String> {
        if let Some(profile) = &self.seccomp {
            libcontainer::seccomp::initialize_seccomp(profile).map_err(|e| format!("seccomp: {e}"))?;
        }
        let keep: CapsHashSet =
            self.capabilities.iter().filter_map(|name| name.parse::<Capability>().ok()).collect();
        let known = caps::read(None, CapSet::Bounding).map_err(|e| e.to_string())?;
        for capability in known.difference(&keep) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|e| e.to_string())?;
        }
        let root = nix::unistd::geteuid().is_root();
        let effective = if root { keep.clone() } else { CapsHashSet::new() };
        caps::set(None, CapSet::Effective, &effective).map_err(|e| e.to_string())?;
        caps::set(None, CapSet::Permitted, &effective).map_err(|e| e.to_string())?;
        caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(|e| e.to_string())
    }
}

/// As a program expects to find them: nothing blocked, nothing ignored.
pub fn reset_signals() {
    // By the system call, because the C library keeps two signals to itself.
    let default = [0_u64; 4];
    let none = 0_u64;
    for signal in 1..=64 {
        // SAFETY: the kernel reads an action of at most this size, all zero for the default.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0_usize, size_of::<u64>()) };
    }
    // SAFETY: the kernel reads a set of the size it is told.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0_usize, size_of::<u64>())
    };
}
