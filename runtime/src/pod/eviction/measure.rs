//! How much a pod has on the node's disk.
//!
//! Called by the pod's worker, for pods with limits, and for all when the disk is short. Containers
//! change their files meanwhile and may mean harm: directories are opened inside their tree by the
//! kernel (`openat2`), no link is followed, no mount entered, and both the time and the memory of a
//! walk are bounded. A walk that came to a bound gives what it has found, which may be less than there
//! is, and says so.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use nix::fcntl::ResolveFlag;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::Used;
use crate::node::paths::Paths;
use crate::volume::beneath::{by_fd, enter};

/// Bytes in one block of `st_blocks`.
const BLOCK: u64 = 512;
/// Names of directories that are still to be visited take no more memory.
const PENDING_MAX_BYTES: usize = 16 << 20;
/// Files with several names that are remembered; further ones count once for each name.
const LINKED_MAX: usize = 100_000;

/// The pause between two measurements is so many times as long as one takes, at least.
const PAUSE_SHARE: u32 = 20;

/// How a look is taken.
pub struct Look {
    /// A walk of one pod takes no longer.
    longest: Duration,
    /// Disks are busy enough with one walk at a time.
    one_at_a_time: Semaphore,
}

/// For a pod's limits.
pub static FOR_LIMITS: Look =
    Look { longest: Duration::from_secs(30), one_at_a_time: Semaphore::const_new(1) };
/// To compare all pods, which nobody may hold up: who has much is found to have much at once.
pub static FOR_NODE: Look = Look { longest: Duration::from_secs(5), one_at_a_time: Semaphore::const_new(1) };

/// What a look at a pod has found.
#[derive(Debug, Default)]
pub struct Measured {
    /// At least so much is there.
    pub used: Used,
    /// At least so many files and directories.
    pub inodes: u64,
    /// Why there may be more.
    pub problem: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// How long not to measure again after it took so long, and at least for a period.
pub fn pause(period: Duration, took: Duration) -> Duration {
    period.max(took * PAUSE_SHARE)
}

/// Measures a pod, whose containers' newest runs are given as name and attempt.
pub async fn measure(paths: &Paths, pod: &Pod, runs: &[(String, u32)], look: &'static Look) -> Measured {
    let trees = trees(paths, pod, runs);
    let given_up = CancellationToken::new();
    let _guard = given_up.clone().drop_guard();
    let Ok(_permit) = look.one_at_a_time.acquire().await else { return Measured::default() };
    let walk = tokio::task::spawn_blocking(move || sum(&trees, look.longest, &given_up));
    walk.await.unwrap_or_else(|error| Measured { problem: Some(error.to_string()), ..Measured::default() })
}

/// The same for somebody who may stop waiting: then nothing is measured any more, nor waits to be.
pub async fn measure_for(
    mut answer: oneshot::Sender<Measured>,
    paths: &Paths,
    pod: &Pod,
    runs: &[(String, u32)],
    look: &'static Look,
) {
    tokio::select! {
        measured = measure(paths, pod, runs, look) => drop(answer.send(measured)),
        () = answer.closed() => {}
    }
}

/// A directory, and whose it is.
enum Tree {
    Volume(String, PathBuf),
    Container(String, PathBuf),
}

fn trees(paths: &Paths, pod: &Pod, runs: &[(String, u32)]) -> Vec<Tree> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let on_disk = volumes.filter(|volume| {
        volume.empty_dir.as_ref().is_some_and(|source| source.medium.as_deref() != Some("Memory"))
    });
    let mut trees: Vec<Tree> =
        on_disk.map(|v| Tree::Volume(v.name.clone(), paths.volume(uid, &v.name))).collect();
    // Of the pod as a whole: what the node makes for it, and any container may write to.
    let shared = [paths.etc(uid), paths.termination_logs(uid)];
    trees.extend(shared.map(|dir| Tree::Container(String::new(), dir)));
    for (name, attempt) in runs {
        let id = format!("{name}-{attempt}");
        let logs = paths.pod_logs(pod).join(name);
        trees.extend([logs, paths.upper(uid, &id)].map(|dir| Tree::Container(name.clone(), dir)));
    }
    trees
}

fn sum(trees: &[Tree], longest: Duration, given_up: &CancellationToken) -> Measured {
    let begin = Instant::now();
    let mut measured = Measured::default();
    for tree in trees {
        let (map, name, dir) = match tree {
            Tree::Volume(name, dir) => (&mut measured.used.volumes, name, dir),
            Tree::Container(name, dir) => (&mut measured.used.containers, name, dir),
        };
        let mut walk = Walk::new(begin, longest, given_up);
        let done = walk.all(dir);
        *map.entry(name.clone()).or_default() += walk.bytes;
        measured.inodes += walk.inodes;
        if let Err(error) = done {
            measured.problem = Some(error.to_string());
        }
    }
    measured.took = begin.elapsed();
    measured
}

struct Walk<'a> {
    bytes: u64,
    inodes: u64,
    longest: Duration,
    deadline: Instant,
    given_up: &'a CancellationToken,
    /// Relative to the root.
    pending: Vec<PathBuf>,
    pending_bytes: usize,
    /// Files with several names that have been counted, by inode.
    linked: HashSet<u64>,
}

impl<'a> Walk<'a> {
    fn new(begin: Instant, longest: Duration, given_up: &'a CancellationToken) -> Self {
        Walk {
            bytes: 0,
            inodes: 0,
            longest,
            deadline: begin + longest,
            given_up,
            pending: Vec::new(),
            pending_bytes: 0,
            linked: HashSet::new(),
        }
    }

    /// Counts a directory and all in it. One that is not there holds nothing.
    fn all(&mut self, root: &Path) -> io::Result<()> {
        let root = match File::open(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            root => root?,
        };
        let meta = root.metadata()?;
        self.bytes += meta.blocks() * BLOCK;
        self.inodes += 1;
        self.pending.push(PathBuf::new());
        let mut problem = Ok(());
        while let Some(dir) = self.pending.pop() {
            self.pending_bytes = self.pending_bytes.saturating_sub(dir.as_os_str().len());
            let done = match enter(&root, &dir, ResolveFlag::RESOLVE_NO_XDEV) {
                Ok(Some(open)) => self.one(&open, &dir, meta.dev()),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            // The rest is counted all the same: what is found may be too much already.
            problem = problem.and(done);
            if self.given_up.is_cancelled() {
                return Ok(());
            }
            if Instant::now() > self.deadline {
                return Err(io::Error::other(format!("it takes longer than {} s", self.longest.as_secs())));
            }
        }
        problem
    }

    fn one(&mut self, open: &OwnedFd, dir: &Path, device: u64) -> io::Result<()> {
        for entry in fs::read_dir(by_fd(open))? {
            let entry = entry?;
            let meta = match entry.metadata() {
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            if meta.dev() != device || !meta.is_dir() && self.was_counted(&meta) {
                continue;
            }
            self.bytes += meta.blocks() * BLOCK;
            self.inodes += 1;
            if meta.is_dir() {
                let inner = dir.join(entry.file_name());
                self.pending_bytes += inner.as_os_str().len();
                if self.pending_bytes > PENDING_MAX_BYTES {
                    return Err(io::Error::other("there are too many directories"));
                }
                self.pending.push(inner);
            }
            if Instant::now() > self.deadline || self.given_up.is_cancelled() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn was_counted(&mut self, meta: &fs::Metadata) -> bool {
        let is_new = || meta.nlink() < 2 || self.linked.len() >= LINKED_MAX;
        !is_new() && !self.linked.insert(meta.ino())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn measured(root: &Path) -> (u64, Result<(), String>) {
        let given_up = CancellationToken::new();
        let mut walk = Walk::new(Instant::now(), FOR_LIMITS.longest, &given_up);
        let done = walk.all(root).map_err(|error| error.to_string());
        (walk.bytes, done)
    }

    #[test]
    fn what_is_there_counts_once_and_nothing_outside_does() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        assert_eq!(measured(&root), (0, Ok(())), "no directory, no bytes");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        let block = vec![1u8; 1 << 20];
        fs::write(outside.join("file"), &block).unwrap();
        fs::write(root.join("a/b/file"), &block).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("a/link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("a/loop")).unwrap();
        // A hole takes no room.
        File::create(root.join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let (bytes, done) = measured(&root);
        assert_eq!(done, Ok(()));
        assert!((1 << 20..1 << 20 | 64 << 10).contains(&bytes), "{bytes}");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_measured() {
        static LOOK: Look = Look { longest: Duration::from_secs(5), one_at_a_time: Semaphore::const_new(1) };
        let _walk_of_another = LOOK.one_at_a_time.acquire().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (paths, pod) = (Paths::new(dir.path()), Pod::default());
        let (answer, answered) = oneshot::channel();
        let mut measuring = Box::pin(measure_for(answer, &paths, &pod, &[], &LOOK));
        assert!(measuring.as_mut().now_or_never().is_none(), "it waits for its turn");
        drop(answered);
        assert!(measuring.as_mut().now_or_never().is_some(), "nobody waits for it");
    }

    #[test]
    fn a_walk_ends_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let given_up = CancellationToken::new();
        let longest = FOR_LIMITS.longest;
        let mut walk = Walk::new(Instant::now() - longest - Duration::from_secs(1), longest, &given_up);
        assert_eq!(walk.all(dir.path()).unwrap_err().to_string(), "it takes longer than 30 s");
        // Deeper than any path may be long.
        let mut at = File::open(dir.path()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..25 {
            nix::sys::stat::mkdirat(&at, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
            at = enter(&at, Path::new(&name), ResolveFlag::empty()).unwrap().unwrap().into();
        }
        let (bytes, done) = measured(dir.path());
        assert!(done.unwrap_err().contains("File name too long") && bytes > 0);
    }
}
