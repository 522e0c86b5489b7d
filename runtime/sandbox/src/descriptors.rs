//! What is open, and the soft limit of open files. The node raises its own, and the sandbox, which serves many streams,
//! inherits that; a container begins with what the node began with.

use std::io;
use std::os::fd::RawFd;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

static OF_CONTAINERS: OnceLock<u64> = OnceLock::new();

/// What containers are to begin with. Called once, at the start.
pub fn remember(soft: Option<u64>) {
    if let Some(soft) = soft {
        OF_CONTAINERS.get_or_init(|| soft);
    }
}

/// Gives this process that limit: the last thing before it becomes a container's, as more may be open by
/// then. Allocates nothing.
pub fn give_back() {
    let Some(soft) = OF_CONTAINERS.get() else { return };
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // It refuses only what is above the hard limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, (*soft).min(hard), hard);
    }
}

/// Closes all but the standard streams and these. What owned another must not be dropped any more.
pub fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        // SAFETY: the system call takes numbers only.
        if fd > first && unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0_u32) } != 0 {
            return Err(io::Error::last_os_error());
        }
        first = first.max(fd.saturating_add(1));
    }
    Ok(())
}
