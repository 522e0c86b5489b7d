//! Room on the disk that is kept for the store: a file of its own, which is given up when a commit
//! finds no space, so that what makes room again (deletions, statuses) can still be written. It is
//! made again when there is room.
//!
//! Owned by the disk. Nothing is ever read from it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Many commits of single objects.
const SIZE_BYTES: u64 = 8 << 20;
/// It is made again when there is so many times as much room.
const ROOM_FACTOR: u64 = 4;

/// The file.
pub(super) struct Ballast {
    path: PathBuf,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    /// The store has found the disk full.
    GivenUp,
    /// It could not be made.
    Missing,
}

impl Ballast {
    /// The ballast of the store in this file, made if it is not there and there is room.
    pub(super) fn of(store: &Path) -> Ballast {
        let mut ballast = Ballast { path: store.with_extension("ballast"), state: State::Missing };
        ballast.restore();
        ballast
    }

    /// True from when it was given up until it is made again.
    pub(super) fn is_given_up(&self) -> bool {
        self.state == State::GivenUp
    }

    /// Gives its room to the store. False if there is none to give.
    pub(super) fn give_up(&mut self, store: &Path) -> bool {
        if self.state != State::Held {
            return false;
        }
        self.state = State::GivenUp;
        tracing::error!(
            path = %self.path.display(),
            "the disk is full: nothing can be made before there is room again"
        );
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::error!(%error, path = %self.path.display(), "the store's reserve could not be given up");
            return false;
        }
        // Whoever has filled the disk goes on and would have it at once. Without this the store takes
        // what it gets.
        let _ = reserve(store);
        true
    }

    /// Makes it again if there is room.
    pub(super) fn restore(&mut self) {
        if self.state == State::Held {
            return;
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let room =
            statvfs(dir).is_ok_and(|found| found.f_bavail * found.f_frsize >= ROOM_FACTOR * SIZE_BYTES);
        let is_there = std::fs::metadata(&self.path).is_ok_and(|found| found.len() == SIZE_BYTES);
        if !is_there && !room {
            return;
        }
        match is_there.then_some(()).map_or_else(|| make(&self.path), Ok) {
            Ok(()) => self.state = State::Held,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "no room on the disk is kept for the store");
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }
}

/// Takes room for the store's file, behind its end too, without a change of its length.
fn reserve(store: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(store)?;
    let length = file.metadata()?.len() + SIZE_BYTES / 2;
    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 0, length)?)
}

fn make(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, SIZE_BYTES).map_err(io::Error::from) {
        // A file system that takes room only for what is written.
        Err(error) if error.kind() == ErrorKind::Unsupported => fill(&mut file),
        made => made,
    }
}

fn fill(file: &mut File) -> io::Result<()> {
    let block = [0x55; 64 << 10];
    for _ in 0..SIZE_BYTES / block.len() as u64 {
        file.write_all(&block)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn it_is_given_up_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store.redb");
        std::fs::write(&store, "store").unwrap();
        let path = dir.path().join("store.ballast");
        let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
        let mut ballast = Ballast::of(&store);
        assert!(!ballast.is_given_up() && blocks(&path) >= SIZE_BYTES);
        assert!(ballast.give_up(&store) && ballast.is_given_up() && !path.exists());
        assert!(!ballast.give_up(&store), "there is no more");
        assert_eq!(std::fs::read(&store).unwrap(), b"store", "the store has room, and is what it was");
        assert!(blocks(&store) >= SIZE_BYTES / 2);
        ballast.restore();
        assert!(!ballast.is_given_up() && blocks(&path) >= SIZE_BYTES);
    }
}
