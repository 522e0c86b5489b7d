//! Removes directories with what containers have left in them.
//!
//! The standard library descends by recursion and holds a directory open for each step: a container
//! that nests deep enough would end the process that removes its files, with its stack or its
//! descriptors. Here a directory that is not empty is moved up to the root, so that nothing is ever
//! deeper than two steps and no more than two directories are open. No link is followed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes a directory and all in it; of a link, the link. Not an error if it is not there. Nothing
/// may be mounted in it, and nobody may be writing to it.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let root = match open(path, directory(), Mode::empty()) {
        Ok(root) => root,
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => return fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0;
    while clear(&root, &mut |name| flatten(&root, name, &mut moved))? > 0 {}
    fs::remove_dir(path)
}

/// Removes what is in a directory, and has `full` done with each directory in it that is not empty.
/// Gives how many of these there were.
fn clear(dir: &OwnedFd, full: &mut dyn FnMut(&OsStr) -> io::Result<()>) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_dir = entry.file_type()?.is_dir();
        let how = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        match unlinkat(dir, name.as_os_str(), how) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if is_dir => {
                full(&name)?;
                count += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}

/// Removes a directory of the root, whose own directories come to lie beside it.
fn flatten(root: &OwnedFd, name: &OsStr, moved: &mut u64) -> io::Result<()> {
    let dir = openat(root, name, directory(), Mode::empty())?;
    clear(&dir, &mut |inner| {
        loop {
            let beside = format!(".moved-{moved}");
            *moved += 1;
            match renameat(&dir, inner, root, beside.as_str()) {
                // The container has used that name, and not for an empty directory.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                done => return Ok(done?),
            }
        }
    })?;
    Ok(unlinkat(root, name, UnlinkatFlags::RemoveDir)?)
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn all_goes_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        remove_tree(&root).unwrap();
        for path in ["root/a/b/c", "root/.moved-0/x", "root/e", "outside/kept"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(root.join("a/b/file"), "x").unwrap();
        fs::write(root.join(".moved-1"), "x").unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        symlink("..", root.join("a/b/up")).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists() && outside.join("kept").is_dir());
        symlink(&outside, &root).unwrap();
        remove_tree(&root).unwrap();
        assert!(root.symlink_metadata().is_err() && outside.join("kept").is_dir());
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut at = open(&root, directory(), Mode::empty()).unwrap();
        for _ in 0..3_000 {
            mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = openat(&at, "d", directory(), Mode::empty()).unwrap();
        }
        let small = std::thread::Builder::new().stack_size(64 << 10);
        let removed = small.spawn({
            let root = root.clone();
            move || remove_tree(&root)
        });
        removed.unwrap().join().unwrap().unwrap();
        assert!(!root.exists());
    }
}
