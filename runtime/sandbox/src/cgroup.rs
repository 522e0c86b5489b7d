//! Control groups, of version 1 and 2: made, limited, listed, killed and removed by path.
//!
//! A path such as `/proa/k7f2/pod1` stands for one directory under each version 1 controller, or
//! for one directory of version 2. Used by the sandbox for itself and for Wasm containers, and by
//! the node agent for clearing up after a sandbox that was killed. The cgroups of OCI containers
//! are made by libcontainer under the same paths.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::protocol::Resources;

/// Where controllers are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Version 1 controllers that a Wasm container and the sandbox are put under. `systemd` and
/// `unified` limit nothing: leaving the agent's cgroup there keeps a service manager that stops
/// the agent from stopping pods with it.
const JOINED: [&str; 7] = ["memory", "cpu", "cpuacct", "pids", "devices", "systemd", "unified"];

/// Length of the period that a CPU quota is for, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Which interface the machine offers for limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller; also "hybrid", with an empty version 2 beside them.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Looks at what is mounted.
pub fn version() -> Version {
    match statfs(ROOT) {
        Ok(stat) if stat.filesystem_type() == CGROUP2_SUPER_MAGIC => Version::V2,
        _ => Version::V1,
    }
}

/// One cgroup, by its path.
#[derive(Clone, Debug)]
pub struct Cgroup {
    version: Version,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, which need not exist.
    pub fn at(path: &str) -> Self {
        Self { version: version(), path: PathBuf::from(path.trim_start_matches('/')) }
    }

    /// The cgroup `name` inside this one.
    pub fn child(&self, name: &str) -> Self {
        Self { version: self.version, path: self.path.join(name) }
    }

    /// The path as libcontainer takes it.
    pub fn path(&self) -> String {
        format!("/{}", self.path.display())
    }

    /// The version this cgroup is of.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its directory under a version 1 controller; under version 2 there is only one.
    pub fn directory(&self, controller: &str) -> PathBuf {
        match self.version {
            Version::V1 => Path::new(ROOT).join(controller).join(&self.path),
            Version::V2 => Path::new(ROOT).join(&self.path),
        }
    }

    /// Makes it, with the controllers that limits need enabled on the way (version 2).
    pub fn create(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => {
                for controller in JOINED {
                    if Path::new(ROOT).join(controller).is_dir() {
                        fs::create_dir_all(self.directory(controller))?;
                    }
                }
                Ok(())
            }
            Version::V2 => {
                let mut directory = PathBuf::from(ROOT);
                for component in self.path.components() {
                    for controller in ["+memory", "+cpu", "+pids"] {
                        // Not there in every kernel; the limit that needs it says so.
                        let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
                    }
                    directory.push(component);
                    match fs::create_dir(&directory) {
                        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// What a container is shown of its cgroup where each controller is by itself, made if it is not there:
    /// controllers and directories.
    pub fn make_shown(&self) -> io::Result<Vec<(&'static str, PathBuf)>> {
        let there = ["memory", "cpu", "cpuset", "pids"]
            .into_iter()
            .filter(|controller| Path::new(ROOT).join(controller).is_dir());
        let made = there.map(|controller| {
            let directory = self.directory(controller);
            fs::create_dir_all(&directory)?;
            Ok((controller, directory))
        });
        made.collect()
    }

    /// Makes it and moves the calling process into it.
    pub fn create_and_enter(&self) -> io::Result<()> {
        self.create()?;
        for file in self.member_files() {
            fs::write(file, "0")?;
        }
        Ok(())
    }

    /// The files a process writes `0` to in order to enter.
    pub fn member_files(&self) -> Vec<PathBuf> {
        let directories = match self.version {
            Version::V1 => JOINED.iter().map(|controller| self.directory(controller)).collect(),
            Version::V2 => vec![self.directory("")],
        };
        let files = directories.into_iter().map(|directory| directory.join("cgroup.procs"));
        files.filter(|file| file.exists()).collect()
    }

    /// Sets limits.
    pub fn limit(&self, resources: &Resources) -> io::Result<()> {
        let set = |controller: &str, file: &str, value: String| {
            let path = self.directory(controller).join(file);
            fs::write(&path, &value)
                .map_err(|e| io::Error::new(e.kind(), format!("write {value} to {}: {e}", path.display())))
        };
        let pids = resources.pids.map(|n| if n < 0 { "max".to_owned() } else { n.to_string() });
        match self.version {
            Version::V1 => {
                if let Some(bytes) = resources.memory_bytes {
                    set("memory", "memory.limit_in_bytes", bytes.to_string())?;
                }
                if let Some(shares) = resources.cpu_shares {
                    set("cpu", "cpu.shares", shares.to_string())?;
                }
                if let Some(quota) = resources.cpu_quota {
                    set("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string())?;
                    set("cpu", "cpu.cfs_quota_us", quota.to_string())?;
                }
                pids.map_or(Ok(()), |pids| set("pids", "pids.max", pids))
            }
            Version::V2 => {
                if let Some(bytes) = resources.memory_bytes {
                    set("", "memory.max", if bytes < 0 { "max".to_owned() } else { bytes.to_string() })?;
                }
                if let Some(shares) = resources.cpu_shares {
                    set("", "cpu.weight", weight(shares).to_string())?;
                }
                if let Some(quota) = resources.cpu_quota {
                    let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
                    set("", "cpu.max", format!("{quota} {CPU_PERIOD}"))?;
                }
                pids.map_or(Ok(()), |pids| set("", "pids.max", pids))
            }
        }
    }

    /// Has the kernel kill it as a whole when its memory is at an end (version 2), as the kubelet asks
    /// for containers. Not for pods, whose other containers and sandbox go on.
    pub fn end_as_one(&self) {
        if self.version == Version::V2 {
            let _ = fs::write(self.directory("").join("memory.oom.group"), "1");
        }
    }

    /// How many processes of exactly this cgroup the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.version {
            Version::V1 => self.directory("memory").join("memory.oom_control"),
            Version::V2 => self.directory("").join("memory.events"),
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Every process in it and below.
    pub fn pids(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            collect_pids(&directory, &mut pids);
        }
        pids
    }

    /// Sends `signal` to every process in it and below. A process that forks may escape one pass;
    /// see [`Cgroup::kill_all`].
    pub fn signal(&self, signal: i32) {
        if signal == libc::SIGKILL {
            self.lift_quotas();
        }
        for pid in self.pids() {
            let _ = send_signal(pid, signal);
        }
    }

    /// Kills until nothing is left, or `deadline` has passed. The dead need not have been reaped.
    pub fn kill_all(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        loop {
            if self.version == Version::V2 {
                let _ = fs::write(self.directory("").join("cgroup.kill"), "1");
            }
            self.signal(libc::SIGKILL);
            if self.pids().is_empty() {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            // The kernel tells nobody when the last process of a version 1 cgroup is gone.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets what is in it and below have all the processors: dying takes time on one too, and thousands
    /// of processes with a tenth of one take minutes. What it is in may have less for all; whoever starts
    /// something in there again sets its limits again.
    fn lift_quotas(&self) {
        let outer = self.path.parent().map(|path| Self { version: self.version, path: path.to_owned() });
        for directory in outer.iter().flat_map(Self::directories) {
            lift_quota(&directory);
        }
        for directory in self.directories() {
            lift_quotas(&directory);
        }
    }

    /// Removes it and all below. Fails while there are processes in it.
    pub fn remove(&self) -> io::Result<()> {
        self.directories().iter().try_for_each(|directory| remove_tree(directory))
    }

    /// True if any controller has it.
    pub fn exists(&self) -> bool {
        !self.directories().is_empty()
    }

    /// Its directories, under whichever controllers have one.
    fn directories(&self) -> Vec<PathBuf> {
        if self.version == Version::V2 {
            return Vec::from_iter(Some(self.directory("")).filter(|directory| directory.is_dir()));
        }
        let controllers = fs::read_dir(ROOT).into_iter().flatten().flatten();
        // `cpu` is often a link to `cpu,cpuacct`: each directory once.
        let directories: BTreeSet<_> = controllers
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path().join(&self.path))
            .filter(|directory| directory.is_dir())
            .collect();
        directories.into_iter().collect()
    }
}

/// Moves the calling process to the top of every hierarchy, so that its own cgroup can go.
pub fn leave() {
    let top = Cgroup::at("/");
    for file in top.member_files() {
        let _ = fs::write(file, "0");
    }
}

/// CPU shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), as the kubelet
/// converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn collect_pids(directory: &Path, pids: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in subdirectories(directory) {
        collect_pids(&child, pids);
    }
}

/// Sends any signal to a process, also a real-time one, of which nix knows nothing.
pub fn send_signal(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// From the top, as no quota may be above that of what it is in.
fn lift_quotas(directory: &Path) {
    lift_quota(directory);
    for child in subdirectories(directory) {
        lift_quotas(&child);
    }
}

fn lift_quota(directory: &Path) {
    for (file, none) in [("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")] {
        let file = directory.join(file);
        if file.exists() {
            let _ = fs::write(file, none);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove_tree(&child)?;
    }
    // A process that has just been killed may still be on its way out.
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io::Error::new(error.kind(), format!("remove {}: {error}", directory.display())));
            }
            _ => return Ok(()),
        }
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_a_weight() {
        for (shares, want) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }

    #[test]
    fn a_path_is_under_the_root() {
        let group = Cgroup { version: Version::V2, path: "proa/n/pod1".into() }.child("web-0");
        assert_eq!(group.path(), "/proa/n/pod1/web-0");
        assert_eq!(group.directory("memory"), Path::new("/sys/fs/cgroup/proa/n/pod1/web-0"));
    }
}
