//! The first process of a process namespace that all containers of a pod share
//! (`shareProcessNamespace`): it reaps what they leave, and nothing else.
//!
//! Containers see it as process 1. It therefore holds nothing that they could get at through it: no
//! file, no root directory but an empty one, no user's and no root's rights.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, pipe2, setgroups, setresgid, setresuid};

use crate::executor::reset_signals;
use crate::helper::die_with_parent;
use crate::rootfs::enter_bare_namespace;

/// Nobody's user and group, as that of other clusters' pause containers.
const NOBODY: u32 = 65535;

/// Forks it. Gives its process id, which ends with the sandbox, once it has nothing left to lose.
pub fn start() -> io::Result<i32> {
    let (result, report) = pipe2(OFlag::O_CLOEXEC)?;
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: without a stack of its own and with nothing shared this is a fork, and there is one
    // thread.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Closing the pipe is one of the steps, and the word that all went well.
            if let Err(error) = confine() {
                let _ = File::from(report).write_all(error.to_string().as_bytes());
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(1) }
            }
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        pid => {
            drop(report);
            let mut error = String::new();
            File::from(result).read_to_string(&mut error)?;
            if !error.is_empty() {
                return Err(io::Error::other(error));
            }
            i32::try_from(pid).map_err(io::Error::other)
        }
    }
}

fn confine() -> io::Result<()> {
    reset_signals();
    // Whatever is left to it is reaped by the kernel.
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    enter_bare_namespace(flags, "size=4k,nr_inodes=1")?;
    setgroups(&[])?;
    setresgid(Gid::from_raw(NOBODY), Gid::from_raw(NOBODY), Gid::from_raw(NOBODY))?;
    setresuid(Uid::from_raw(NOBODY), Uid::from_raw(NOBODY), Uid::from_raw(NOBODY))?;
    prctl::set_name(c"pause")?;
    prctl::set_no_new_privs()?;
    // Changed credentials have undone this.
    die_with_parent();
    // SAFETY: the system call takes numbers only, and nothing here is used again.
    unsafe { libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, 0_u32) };
    Ok(())
}
