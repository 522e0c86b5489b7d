//! This program as pods get to see it: where nobody can write to it.
//!
//! For a moment a container's process is still the program that starts it, and an image can ask for
//! that to be run again (`#!/proc/self/exe`). Who holds such a process open could, once it has ended,
//! write to the file it came from: the node's own. Sandboxes are therefore started from a view of the
//! program that is read-only to everyone and shares its memory with the file, or, where the kernel
//! makes no such view, from a sealed copy in memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use crate::rootfs;

/// What to execute instead of `/proc/self/exe`, for as long as this process runs.
pub fn program() -> io::Result<PathBuf> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    let program = match PROGRAM.get() {
        Some(program) => program,
        None => {
            let made = view().or_else(|_| copy())?;
            PROGRAM.get_or_init(|| made)
        }
    };
    Ok(PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd())))
}

/// Where the file lies that this program came from. Asked of the program itself, not of a sandbox,
/// which cannot tell.
pub fn directory() -> PathBuf {
    // After an upgrade the kernel adds a note to the old file's name, not to its directory's.
    let this = std::env::current_exe().unwrap_or_default();
    this.parent().map(Path::to_owned).unwrap_or_default()
}

/// The program in an overlay of its directory that has nothing to write to and is mounted nowhere.
fn view() -> io::Result<OwnedFd> {
    let this = std::env::current_exe()?;
    let name = this.file_name().ok_or(io::ErrorKind::NotFound)?;
    // An overlay without an upper layer has two lower ones at least; this one is always there.
    let layers = [File::open(directory())?.into(), File::open("/sys")?.into()];
    let view = rootfs::detached_overlay(&layers)?;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(&view, name, flags, Mode::empty())?)
}

fn copy() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut copy = File::from(memfd_create("proa", flags)?);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    // A file that is open for writing cannot be run.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    /// Runs it, and asks for it to be written to.
    fn check(program: OwnedFd) {
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let out = Command::new(&path).arg("--list").output().unwrap();
        assert!(out.status.success() && out.stdout.ends_with(b"benchmarks\n"), "{out:?}");
        let file = File::options().write(true).open(&path);
        let error = file.and_then(|file| file.write_at(b"x", 0)).unwrap_err();
        let wanted = [libc::EROFS, libc::EPERM, libc::ETXTBSY];
        assert!(error.raw_os_error().is_some_and(|code| wanted.contains(&code)), "{error}");
    }

    #[test]
    fn nobody_writes_to_the_program() {
        check(copy().unwrap());
        if nix::unistd::geteuid().is_root() {
            check(view().unwrap());
        }
    }
}
