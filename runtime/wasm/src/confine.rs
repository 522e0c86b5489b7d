//! What this process takes from itself before a guest runs: the node's files, every privilege that no
//! WASI call leads to, and the system calls likewise.
//!
//! Called before any thread exists. Wasm itself is the wall around a guest; this is a second one,
//! in case the first has a hole.

use std::io;

use anyhow::Context;

use crate::config::{RunConfig, User};
use crate::{root, seccomp};

/// Capabilities that root keeps unless they are dropped, with their numbers: of those that containers have
/// by default the ones that a WASI call leads to. Where it has them there is nothing but the container's
/// own volumes.
const KEPT: [(&str, u32); 3] = [
    // As root of a container it writes to files of other users, and sets their times.
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_NET_BIND_SERVICE", 10),
];

/// Enters the pod's view of files and drops privileges. Gives the settings as they are from there.
pub fn enter(config: &RunConfig) -> anyhow::Result<RunConfig> {
    let preopens = root::enter(config).context("show the pod's files")?;
    drop_privileges(config.user.as_ref(), &kept(config)).context("drop privileges")?;
    // Last, because what comes before needs calls that the filter refuses.
    if !config.seccomp_unconfined {
        seccomp::install()?;
    }
    Ok(RunConfig { preopens, files: Vec::new(), ..config.clone() })
}

/// What is left to the container's user, by number.
fn kept(config: &RunConfig) -> Vec<u32> {
    if config.user.as_ref().is_some_and(|user| user.uid != 0) {
        return Vec::new();
    }
    let is_dropped =
        |name: &str| config.drop_capabilities.iter().any(|drop| drop == name || drop == "CAP_ALL");
    KEPT.iter().filter(|(name, _)| !is_dropped(name)).map(|(_, number)| *number).collect()
}

fn drop_privileges(user: Option<&User>, kept: &[u32]) -> io::Result<()> {
    // SAFETY: geteuid and prctl with these options take and give numbers only.
    unsafe {
        if libc::geteuid() == 0 {
            for capability in 0..64 {
                // Above the last capability that the kernel knows, this fails with EINVAL.
                if !kept.contains(&capability) && libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0
                {
                    break;
                }
            }
            if let Some(user) = user {
                become_user(user)?;
            }
            set_capabilities(kept)?;
        }
        // What is opened through `/proc` of a process, such as its root, is what it may see itself.
        // Containers that share the node's process ids (`hostPID`) shall not get at it.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}

fn become_user(user: &User) -> io::Result<()> {
    // SAFETY: the kernel reads as many groups as it is told; all else are numbers.
    unsafe {
        check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
        check(libc::setgid(user.gid))?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setuid(user.uid))?;
        // Forgotten by the kernel when the user changes.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))
    }
}

/// `capset(2)`, which the C library does not wrap: version 3 has two words per set.
fn set_capabilities(kept: &[u32]) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut current = [Sets::default(); 2];
    // SAFETY: the kernel fills the two elements that version 3 stands for.
    if unsafe { libc::syscall(libc::SYS_capget, &header, current.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Only what is there can be kept.
    let kept = kept.iter().fold(0, |bits, capability| bits | 1 << capability) & current[0].permitted;
    let sets = [Sets { effective: kept, permitted: kept, inheritable: 0 }, Sets::default()];
    // SAFETY: the kernel reads the two elements that version 3 stands for.
    if unsafe { libc::syscall(libc::SYS_capset, &header, sets.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
