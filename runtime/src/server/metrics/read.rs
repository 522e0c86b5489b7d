//! Reads what is used, from `/proc` for the node and from cgroups of either version for pods.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use proa_sandbox::cgroup::{Cgroup, Version};

use crate::node::host_names::HostNames;
use crate::node::shown_pods::{Shown, ShownPods};

/// Clock ticks are hundredths of a second on every architecture that Linux runs on today.
const TICK_NANOS: u64 = 10_000_000;

/// What is used by one cgroup, or by the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Billionths of a second of CPU since the beginning.
    pub cpu_nanos: u64,
    /// All memory that is counted, caches included.
    pub memory_bytes: u64,
    /// The part of it that cannot be taken back without harm: all but caches that were not used
    /// lately.
    pub working_set_bytes: u64,
    /// Memory that no file is behind.
    pub anonymous_bytes: u64,
}

/// A container that runs.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its run.
    pub id: String,
    /// When that began.
    pub started: Option<Timestamp>,
    /// What it uses.
    pub used: Counters,
}

/// A pod with containers that run.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When the node took it on.
    pub started: Option<Timestamp>,
    /// What it uses, its sandbox included.
    pub used: Counters,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// One look at the node.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// The node's name.
    pub node_name: String,
    /// When the machine started.
    pub started: Option<Timestamp>,
    /// What all of the machine uses.
    pub node: Counters,
    /// Bytes that can still be had.
    pub available_bytes: u64,
    /// The pods.
    pub pods: Vec<Pod>,
}

/// Reads what is used now. Of a container that has just ended there is nothing to read.
pub fn sample(pods: &ShownPods) -> Sample {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, meminfo) = (text("/proc/stat"), text("/proc/meminfo"));
    let node_name = pods.node_name();
    let of = |names: &HostNames| pods.list().iter().filter_map(|shown| pod(names, shown)).collect();
    let pods = pods.host_names().map(of).unwrap_or_default();
    Sample {
        at: Timestamp::now(),
        started: boot_time(&stat),
        node: node(&stat, &meminfo),
        available_bytes: kilobytes(&meminfo, "MemAvailable:"),
        node_name,
        pods,
    }
}

fn pod(names: &HostNames, shown: &Shown) -> Option<Pod> {
    let meta = &shown.pod.metadata;
    let uid = meta.uid.clone()?;
    let path = names.pod_cgroup(&uid);
    let statuses = [&shown.status.container_statuses, &shown.status.init_container_statuses];
    let containers: Vec<Container> = statuses
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|status| {
            let running = status.state.as_ref()?.running.as_ref()?;
            let id = status.container_id.as_deref()?.rsplit('/').next()?;
            Some(Container {
                name: status.name.clone(),
                id: id.to_owned(),
                started: running.started_at.as_ref().map(|t| t.0),
                used: cgroup(&Cgroup::at(&format!("{path}/{id}")))?,
            })
        })
        .collect();
    let used = cgroup(&Cgroup::at(&path)).filter(|_| !containers.is_empty())?;
    Some(Pod {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid,
        started: shown.status.start_time.as_ref().map(|t| t.0),
        used,
        containers,
    })
}

fn cgroup(cgroup: &Cgroup) -> Option<Counters> {
    let read =
        |controller: &str, file: &str| fs::read_to_string(cgroup.directory(controller).join(file)).ok();
    match cgroup.version() {
        Version::V1 => {
            let cpu = read("cpuacct", "cpuacct.usage")?.trim().parse().ok()?;
            let memory = read("memory", "memory.usage_in_bytes")?.trim().parse().ok()?;
            let stat = read("memory", "memory.stat")?;
            Some(counters(cpu, memory, member(&stat, "total_inactive_file"), member(&stat, "total_rss")))
        }
        Version::V2 => {
            let cpu = member(&read("", "cpu.stat")?, "usage_usec") * 1000;
            let memory = read("", "memory.current")?.trim().parse().ok()?;
            let stat = read("", "memory.stat")?;
            Some(counters(cpu, memory, member(&stat, "inactive_file"), member(&stat, "anon")))
        }
    }
}

fn counters(cpu_nanos: u64, memory_bytes: u64, inactive_file: u64, anonymous_bytes: u64) -> Counters {
    let working_set_bytes = memory_bytes.saturating_sub(inactive_file);
    Counters { cpu_nanos, memory_bytes, working_set_bytes, anonymous_bytes }
}

/// The machine as a whole. Its own cgroup counts CPU more finely than `/proc/stat`, where there is
/// one to read.
fn node(stat: &str, meminfo: &str) -> Counters {
    let kilobytes = |key: &str| kilobytes(meminfo, key);
    let used = kilobytes("MemTotal:").saturating_sub(kilobytes("MemFree:"));
    let root = Path::new("/sys/fs/cgroup");
    let finely = || {
        let v1 = fs::read_to_string(root.join("cpuacct/cpuacct.usage")).ok();
        let v1 = v1.and_then(|nanos| nanos.trim().parse().ok());
        v1.or_else(|| Some(member(&fs::read_to_string(root.join("cpu.stat")).ok()?, "usage_usec") * 1000))
    };
    let cpu = finely().unwrap_or_else(|| busy_ticks(stat) * TICK_NANOS);
    counters(cpu, used, kilobytes("Inactive(file):"), kilobytes("AnonPages:"))
}

/// The number after a word at the beginning of a line.
fn member(text: &str, name: &str) -> u64 {
    let line = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    line.filter(|(key, _)| *key == name).find_map(|(_, n)| n.trim().parse().ok()).unwrap_or(0)
}

fn kilobytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// All ticks of the `cpu` line but those in which there was nothing to do.
fn busy_ticks(stat: &str) -> u64 {
    const IDLE: usize = 3;
    const IO_WAIT: usize = 4;
    // Guests' ticks, which come after these, are counted in `user` too.
    const FIELDS: usize = 8;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks = line.split_whitespace().take(FIELDS).map(|n| n.parse::<u64>().unwrap_or(0));
    ticks.enumerate().filter(|(i, _)| !matches!(*i, IDLE | IO_WAIT)).map(|(_, n)| n).sum()
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = i64::try_from(member(stat, "btime")).ok().filter(|seconds| *seconds > 0)?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel() {
        let stat = "cpu  100 5 20 7000 30 1 2 3 9 9\ncpu0 1 2 3\nbtime 1700000000\n";
        assert_eq!(busy_ticks(stat), 131);
        assert_eq!(boot_time(stat).unwrap().as_second(), 1_700_000_000);
        let meminfo = "MemTotal:  1000 kB\nMemFree: 300 kB\nAnonPages:  64 kB\nInactive(file):   200 kB\n";
        let node = node("", meminfo);
        assert_eq!((node.memory_bytes, node.working_set_bytes), (700 << 10, 500 << 10));
        assert_eq!(node.anonymous_bytes, 64 << 10);
        assert_eq!(member("usage_usec 12\nuser_usec 3\n", "usage_usec"), 12);
        assert_eq!(counters(1, 10, 20, 0).working_set_bytes, 0);
    }
}
