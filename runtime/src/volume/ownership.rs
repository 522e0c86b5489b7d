//! Gives a volume's files to the group that a pod asks for, as the kubelet does.
//!
//! Containers may be writing to the volume meanwhile, so nothing is reached by a path that they
//! could turn into a link: each step goes from an open directory to an entry of it.
//! Source: <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/> (fsGroup).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, fchownat};

/// Directories deeper than this are refused.
const DEEPEST: usize = 256;
/// What the group may do with files.
const FILE: u32 = 0o660;
/// What it may do with directories, whose new entries are the group's too.
const DIRECTORY: u32 = 0o2770;

/// Gives `root` and all below it to the group. `only_on_mismatch` leaves all as it is if the root
/// is the group's already.
pub fn give(root: &Path, group: u32, only_on_mismatch: bool) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    let root = open(root, flags, Mode::empty())?;
    let meta = std::fs::metadata(by_fd(&root))?;
    if only_on_mismatch && meta.gid() == group && meta.mode() & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    below(&root, group, 0)?;
    // Last, so that a walk that was cut short is done again.
    one(&root, group)
}

fn below(dir: &OwnedFd, group: u32, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("directories are nested more than {DEEPEST} deep")));
    }
    for entry in std::fs::read_dir(by_fd(dir))? {
        let entry = match enter(dir, &entry?.file_name()) {
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entry => entry?,
        };
        if std::fs::metadata(by_fd(&entry))?.is_dir() && !is_link(&entry)? {
            below(&entry, group, depth + 1)?;
        }
        one(&entry, group)?;
    }
    Ok(())
}

/// Opens an entry of a directory, a link as itself.
fn enter(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

fn one(file: &OwnedFd, group: u32) -> io::Result<()> {
    fchownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?;
    if is_link(file)? {
        return Ok(());
    }
    let path = by_fd(file);
    let meta = std::fs::metadata(&path)?;
    let more = if meta.is_dir() { DIRECTORY } else { FILE };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(meta.mode() & 0o7777 | more))
}

fn is_link(file: &OwnedFd) -> io::Result<bool> {
    let stat = nix::sys::stat::fstat(file)?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// A name of the open file that no container can change.
fn by_fd(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_and_no_links_are_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        std::fs::write(&outside, "x").unwrap();
        std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("a/dir-link")).unwrap();
        // The group of this process: anybody may give files to that.
        let group = std::fs::metadata(&root).unwrap().gid();
        give(&root, group, false).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&root) & DIRECTORY, DIRECTORY);
        assert_eq!(mode(&root.join("a/b")) & DIRECTORY, DIRECTORY);
        assert_eq!(mode(&root.join("a/b/file")) & 0o7660, 0o660);
        assert_eq!(mode(&outside), 0o600, "what a link leads to is left alone");
        // What is the group's already is not walked again.
        std::fs::set_permissions(root.join("a/b/file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        give(&root, group, true).unwrap();
        assert_eq!(mode(&root.join("a/b/file")), 0o600);
    }
}
