//! Opening what lies in a directory that containers change meanwhile and may mean harm with: the
//! kernel resolves each path beneath the directory, so that no link leads out of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Opens what the path names, without any use of it. Links that stay below the root are followed.
pub fn locate(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    Ok(openat2(root, path, how)?)
}

/// Opens a directory for reading, following no link; `None` if it is not there any more. An empty
/// path is the root. One that is longer than the kernel takes is an error, as it is for the kubelet.
pub fn enter(root: impl AsFd, path: &Path, more: ResolveFlag) -> io::Result<Option<OwnedFd>> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | more;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match openat2(root, path, OpenHow::new().flags(flags).resolve(resolve)) {
        Ok(open) => Ok(Some(open)),
        // Something else stands in its place, or it is being moved.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV | Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name of the open file that no container can change.
pub fn by_fd(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}
