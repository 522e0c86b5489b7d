//! Clones of mounts, which are nowhere until somebody attaches them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

/// A mount of a directory or file, with what is mounted in it if `recursive`. It is private
/// (mount_namespaces(7)): what is mounted on the node later is not in it, and what is unmounted from it
/// is not from the node.
pub fn of(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let more = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let tree = open_tree(CWD, source, flags | more)?;
    set(&tree, MountAttrFlags::empty(), libc::MS_PRIVATE, recursive)?;
    Ok(tree)
}

/// Sets attributes and propagation of a mount, and of all in it if that is wanted.
pub(crate) fn set(
    tree: &OwnedFd,
    attributes: MountAttrFlags,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: attributes.bits().into(), attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads a structure of the size it is told, and an empty path.
    let done = unsafe {
        let size = size_of_val(&attributes);
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
