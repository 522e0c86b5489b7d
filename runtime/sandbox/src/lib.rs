//! One pod's holder: the parent of all its containers, single-threaded.
//!
//! A sandbox holds the pod's network, IPC and UTS namespaces, starts OCI containers through
//! libcontainer and Wasm containers through `proa-wasm`, reaps them, and owns their log files. It
//! reads `DIR/sandbox.json`, listens on `DIR/sandbox.sock` and answers the node agent there; when
//! the agent goes away it carries on. It knows nothing of Kubernetes objects, images or the
//! network beyond its own namespace.
//!
//! Everything that may take long or that changes the process (making a container, running a
//! command in one, deleting files) is done by a forked helper, so the loop in `server` never
//! waits for anything but events.

pub mod cgroup;
pub mod protocol;
pub mod remove;
pub mod sealed;
pub mod sysctl;
pub mod tree;

mod capabilities;
mod connection;
mod containers;
mod descriptors;
mod devices;
mod diagnostics;
mod executor;
mod helper;
mod init;
mod log;
mod mounts;
mod oci;
mod place;
mod replay;
mod requests;
mod rootfs;
mod running;
mod sandbox;
mod seccomp;
mod server;
mod sessions;
mod shm;
mod spec;
mod taps;
mod targets;
mod task;
mod terminal;
mod wasm;
mod wasm_config;
mod wasm_view;

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use protocol::SandboxConfig;

/// Name of the configuration file in the sandbox's directory.
pub const CONFIG_FILE: &str = "sandbox.json";
/// Name of the socket in the sandbox's directory.
pub const SOCKET_FILE: &str = "sandbox.sock";
/// What a sandbox prints when it can be talked to.
pub const READY: &str = "ready";

/// Runs the sandbox whose directory is `dir` until it is told to stop. Prints [`READY`] and a
/// newline on standard output when it listens, or a sentence on why it does not.
pub fn main(dir: &Path) -> ExitCode {
    match set_up(dir).and_then(|server| {
        announce()?;
        server.run()
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stdout(), "sandbox {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn set_up(dir: &Path) -> io::Result<server::Server> {
    // The kernel knows it by the descriptor that it was started from.
    let _ = nix::sys::prctl::set_name(c"proa");
    close_inherited()?;
    // What the agent forgoes is not for containers to forgo.
    let _ = nix::sys::prctl::set_thp_disable(false);
    // Should the pod's memory end, its programs go before their parent, as with the kubelet's pause
    // containers. The right to say so may be missing.
    let _ = fs::write(helper::OOM_SCORE, "-998");
    let dir = fs::canonicalize(dir)?;
    let config: SandboxConfig = serde_json::from_slice(&fs::read(dir.join(CONFIG_FILE))?)?;
    descriptors::remember(config.descriptors);
    // Not the agent's session: what is typed or killed there does not concern a pod.
    let _ = nix::unistd::setsid();
    // On shutdown everything is signalled. Containers then end by themselves and are reaped here.
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: no handler of ours is installed.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // Children of containers that lose their parent come here, not to the node's init.
    nix::sys::prctl::set_child_subreaper(true)?;

    enter_namespaces(&config)?;
    let pod = cgroup::Cgroup::at(&config.cgroup);
    pod.create().and_then(|()| pod.limit(&config.resources)).map_err(|e| told(e, "limit the pod"))?;
    pod.child("sandbox").create_and_enter().map_err(|e| told(e, "enter the pod's cgroup"))?;

    // Relative, because the address of a socket has room for 108 bytes only.
    std::env::set_current_dir(&dir)?;
    let _ = fs::remove_file(SOCKET_FILE);
    let listener = UnixListener::bind(SOCKET_FILE)?;
    listener.set_nonblocking(true)?;
    let init = match config.share_process_namespace {
        true => Some(init::start().map_err(|e| told(e, "make the pod's process namespace"))?),
        false => None,
    };
    Ok(server::Server::new(dir, config, init, listener, children))
}

/// What whoever started the node had open is nobody's in a pod. Only the standard streams are this
/// program's before it opens anything.
fn close_inherited() -> io::Result<()> {
    // SAFETY: the system call takes numbers only, and nothing here owns a descriptor yet.
    match unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } {
        0 => Ok(()),
        _ => Err(told(io::Error::last_os_error(), "close inherited descriptors")),
    }
}

fn enter_namespaces(config: &SandboxConfig) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWUTS;
    if !config.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    if !config.host_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(|e| told(e.into(), "make the pod's namespaces"))?;
    nix::unistd::sethostname(&config.hostname)?;
    let own = [
        (!config.host_network).then_some(sysctl::Namespace::Net),
        (!config.host_ipc).then_some(sysctl::Namespace::Ipc),
    ];
    let own: Vec<_> = own.into_iter().flatten().collect();
    let defaults = sysctl::NETWORK_DEFAULTS.iter().filter(|_| !config.host_network).copied();
    let asked = config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in defaults.chain(asked) {
        sysctl::set(name, value, &own).map_err(|e| told(e, &format!("set sysctl {name}")))?;
    }
    Ok(())
}

/// Tells the agent, and lets go of its pipe.
fn announce() -> io::Result<()> {
    writeln!(io::stdout(), "{READY}")?;
    io::stdout().flush()?;
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

fn told(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
