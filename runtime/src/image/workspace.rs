//! Where one pull keeps what is on its way in.
//!
//! The pull's process may be ended at any moment and then removes nothing itself: the directory goes
//! with the [`Workspace`] of the process that waits for it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A directory that is removed with this value, as soon as nobody else has it [occupied](occupy).
pub(super) struct Workspace(Option<(PathBuf, Flock<File>)>);

impl Workspace {
    /// Makes one in the directory `parent`.
    pub(super) fn new(parent: &Path) -> io::Result<Workspace> {
        let dir = tempfile::Builder::new().prefix("pull-").tempdir_in(parent)?;
        let occupied = occupy(dir.path())?;
        Ok(Workspace(Some((dir.keep(), occupied))))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |(dir, _)| dir)
    }

    /// Removes it now. May wait for the disk.
    pub(super) fn remove(mut self) {
        if let Some((dir, occupied)) = self.0.take() {
            drop(occupied);
            remove(&dir);
        }
    }
}

impl Drop for Workspace {
    /// Comes here when nobody wants the pull any more; whoever that was does not wait for the disk.
    fn drop(&mut self) {
        if let Some((dir, occupied)) = self.0.take() {
            drop(occupied);
            std::thread::spawn(move || remove(&dir));
        }
    }
}

/// Says that this process is at work in a workspace, until it ends or lets go.
pub(super) fn occupy(dir: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(dir)?, FlockArg::LockShared).map_err(|(_, errno)| errno.into())
}

/// True if no process is at work in it.
pub(super) fn is_free(dir: &Path) -> bool {
    let Ok(dir) = File::open(dir) else { return true };
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).is_ok()
}

fn remove(dir: &Path) {
    // Its process has been killed, which takes a moment.
    let free = File::open(dir).map(|dir| Flock::lock(dir, FlockArg::LockExclusive));
    if let Err(error) = proa_sandbox::remove::remove_tree(dir) {
        // It is swept with all others when nobody is at work.
        tracing::warn!(path = %dir.display(), %error, "what a pull had on its way could not be removed");
    }
    drop(free);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, Instant};

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether somebody waits to lock this file (proc_locks(5)).
    fn is_waited_for(inode: u64) -> bool {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|lock| lock.contains("-> FLOCK") && lock.contains(&format!(":{inode} ")))
    }

    #[test]
    fn it_goes_when_its_process_has_ended() {
        let parent = tempfile::tempdir().unwrap();
        let count = || std::fs::read_dir(parent.path()).unwrap().count();
        let workspace = Workspace::new(parent.path()).unwrap();
        std::fs::create_dir_all(workspace.path().join("root/etc")).unwrap();
        std::fs::write(workspace.path().join("blob"), "half of it").unwrap();
        let occupied = occupy(workspace.path()).unwrap();
        assert!(!is_free(workspace.path()));
        let inode = std::fs::metadata(workspace.path()).unwrap().ino();
        drop(workspace);
        until("it waits for who is at work", || is_waited_for(inode));
        assert_eq!(count(), 1, "somebody may still write to it");
        drop(occupied);
        until("it goes", || count() == 0);
        let workspace = Workspace::new(parent.path()).unwrap();
        std::fs::write(workspace.path().join("blob"), "all of it").unwrap();
        workspace.remove();
        assert_eq!(count(), 0);
    }
}
