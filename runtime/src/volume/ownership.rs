//! Gives a volume's files to the group that a pod asks for, as the kubelet does.
//!
//! Containers may be writing to the volume meanwhile, so nothing is reached by a path that they
//! could turn into a link: directories are opened beneath the root by the kernel, and each entry
//! from its open directory. A volume may hold millions of files: a walk is done in slices, takes
//! turns with others, and remembers only where it is.
//! Source: <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/> (fsGroup).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, fchownat};
use rustix::fs::{RawDir, SeekFrom, seek};
use tokio::sync::Semaphore;

use super::beneath::{by_fd, enter};

/// What the group may do with files.
const FILE: u32 = 0o660;
/// What it may do with directories, whose new entries are the group's too.
const DIRECTORY: u32 = 0o2770;
/// Bytes of entries that are read from a directory at a time.
const BUFFER_BYTES: usize = 16 << 10;
/// After so long it is another walk's turn.
const SLICE: Duration = Duration::from_millis(250);
/// Slices at a time. Who waits for one is served in order, so that a small volume need not wait
/// for the end of a large one.
static SLICES: Semaphore = Semaphore::const_new(2);

/// Gives `root` and all below it to the group. `only_on_mismatch` leaves all as it is if the root
/// is the group's already. Dropped, it ends within a slice.
pub async fn give(root: PathBuf, group: u32, only_on_mismatch: bool) -> io::Result<()> {
    let mut walk = None;
    loop {
        let turn = SLICES.acquire().await;
        let root = root.clone();
        let slice = tokio::task::spawn_blocking(move || {
            let mut walk = match walk {
                Some(walk) => walk,
                None => Walk::begin(&root, group, only_on_mismatch)?,
            };
            Ok::<_, io::Error>((walk.go_on(SLICE)?, walk))
        });
        let (done, walked) = slice.await.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        drop(turn);
        if done {
            return Ok(());
        }
        walk = Some(walked);
    }
}

/// A walk that is under way. Between its slices it holds no more than the root open.
struct Walk {
    root: OwnedFd,
    group: u32,
    /// The directory that it has come to, below the root.
    path: PathBuf,
    /// That directory and those above it, the root first; none when all is done.
    levels: Vec<Level>,
}

/// How far a directory is done.
#[derive(Default)]
struct Level {
    /// Where to read on.
    next: u64,
    /// There is nothing left to read.
    is_read: bool,
    /// Directories in it that were given away and are still to be entered.
    pending: Vec<OsString>,
}

impl Walk {
    fn begin(root: &Path, group: u32, only_on_mismatch: bool) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
        let root = open(root, flags, Mode::empty())?;
        let meta = std::fs::metadata(by_fd(&root))?;
        let matches = meta.gid() == group && meta.mode() & DIRECTORY == DIRECTORY;
        let levels = if only_on_mismatch && matches { Vec::new() } else { vec![Level::default()] };
        Ok(Walk { root, group, path: PathBuf::new(), levels })
    }

    /// Goes on for so long, at least one step; true when all is done.
    fn go_on(&mut self, time: Duration) -> io::Result<bool> {
        let begin = Instant::now();
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.pending.pop() {
                self.path.push(name);
                self.levels.push(Level::default());
            } else if !level.is_read {
                self.read()?;
            } else {
                self.path.pop();
                self.levels.pop();
                if self.levels.is_empty() {
                    // Last, so that a walk that was cut short is done again.
                    one(&self.root, self.group)?;
                }
            }
            if begin.elapsed() >= time {
                break;
            }
        }
        Ok(self.levels.is_empty())
    }

    /// Gives some entries of the present directory away.
    fn read(&mut self) -> io::Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(dir) = enter(&self.root, &self.path, ResolveFlag::empty())? else {
            level.is_read = true;
            return Ok(());
        };
        seek(&dir, SeekFrom::Start(level.next))?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        loop {
            let Some(entry) = entries.next() else {
                level.is_read = true;
                return Ok(());
            };
            let entry = entry?;
            level.next = entry.next_entry_cookie();
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
                match openat(&dir, name, flags, Mode::empty()) {
                    Ok(file) if one(&file, self.group)? => level.pending.push(name.to_owned()),
                    // It was removed meanwhile.
                    Ok(_) | Err(Errno::ENOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if entries.is_buffer_empty() {
                return Ok(());
            }
        }
    }
}

/// Gives one file away; true if it is a directory.
fn one(file: &OwnedFd, group: u32) -> io::Result<bool> {
    fchownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?;
    let mode = nix::sys::stat::fstat(file)?.st_mode;
    let more = match mode & libc::S_IFMT {
        libc::S_IFLNK => return Ok(false),
        libc::S_IFDIR => DIRECTORY,
        _ => FILE,
    };
    std::fs::set_permissions(by_fd(file), std::fs::Permissions::from_mode(mode & 0o7777 | more))?;
    Ok(more == DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(root: &Path, group: u32, only_on_mismatch: bool) -> io::Result<usize> {
        let mut walk = Walk::begin(root, group, only_on_mismatch)?;
        let mut slices = 1;
        while !walk.go_on(Duration::ZERO)? {
            slices += 1;
        }
        Ok(slices)
    }

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
        walk(&root, group, false).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&root) & DIRECTORY, DIRECTORY);
        assert_eq!(mode(&root.join("a/b")) & DIRECTORY, DIRECTORY);
        assert_eq!(mode(&root.join("a/b/file")) & 0o7660, 0o660);
        assert_eq!(mode(&outside), 0o600, "what a link leads to is left alone");
        // What is the group's already is not walked again.
        std::fs::set_permissions(root.join("a/b/file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(walk(&root, group, true).unwrap(), 1);
        assert_eq!(mode(&root.join("a/b/file")), 0o600);
    }

    /// More entries than are read at a time, more levels than a walk has descriptors.
    #[test]
    fn wide_and_deep_volumes_are_walked_in_slices() {
        let dir = tempfile::tempdir().unwrap();
        let (wide, deep) = (dir.path().join("wide"), dir.path().join("deep"));
        let files: Vec<PathBuf> = (0..2_000).map(|n| wide.join(format!("{}/file-{n}", n % 700))).collect();
        for file in &files {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let bottom = deep.join("d/".repeat(400));
        std::fs::create_dir_all(&bottom).unwrap();
        let group = std::fs::metadata(&wide).unwrap().gid();
        assert!(walk(dir.path(), group, false).unwrap() > 2 * 700, "each step may be the last of a slice");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert!(files.iter().all(|file| mode(file) & FILE == FILE));
        assert_eq!(mode(&bottom) & DIRECTORY, DIRECTORY);
    }

    #[tokio::test]
    async fn who_stops_waiting_for_a_turn_takes_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let group = std::fs::metadata(dir.path()).unwrap().gid();
        let turns = SLICES.acquire_many(2).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(50), give(dir.path().into(), group, false));
        assert!(waits.await.is_err(), "others have all turns");
        drop(turns);
        give(dir.path().into(), group, false).await.unwrap();
    }
}
