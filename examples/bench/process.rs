//! What the kernel tells about processes (proc(5)).

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// Resources that a process has used so far.
#[derive(Clone, Copy, Default)]
pub struct Used {
    /// Seconds of CPU.
    pub cpu: f64,
    /// Bytes that went to disks.
    pub written: f64,
}

/// What a process and those that descend from it have used.
pub fn used(pid: u32) -> Result<Used> {
    let mut total = Used::default();
    for pid in family(pid)? {
        // One that has just ended counts with its parent.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // Own time and that of children that have ended: utime, stime, cutime, cstime.
        let ticks: f64 = fields(&stat).skip(11).take(4).filter_map(|f| f.parse::<f64>().ok()).sum();
        total.cpu += ticks / ticks_per_second();
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        total.written += written.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(total)
}

/// Resident memory of one process, in bytes.
pub fn resident(pid: u32) -> Result<f64> {
    kibibytes(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:").context("no VmRSS")
}

/// Memory of one process with its share of what it shares, in bytes.
pub fn proportional(pid: u32) -> Result<f64> {
    kibibytes(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:").context("no Pss")
}

/// Every process whose arguments `matches`.
pub fn with_arguments(matches: impl Fn(&[&str]) -> bool) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for pid in all()? {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let arguments: Vec<&str> = line.split_terminator('\0').collect();
        if matches(&arguments) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A process and all that descend from it.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all()? {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = fields(&stat).nth(1).and_then(|f| f.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut family, mut next) = (vec![pid], 0);
    while let Some(pid) = family.get(next) {
        family.extend(children.get(pid).into_iter().flatten().copied().collect::<Vec<_>>());
        next += 1;
    }
    Ok(family)
}

fn all() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
    Ok(entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything: the state is the first.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

fn kibibytes(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf only reads a number.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}
