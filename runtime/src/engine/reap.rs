//! Clears up after a sandbox that was killed: its containers die with it, its files and cgroups
//! do not.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use proa_sandbox::CONFIG_FILE;
use proa_sandbox::cgroup::Cgroup;
use proa_sandbox::protocol::SandboxConfig;

/// How long killed processes may take to be gone.
const LIMIT: Duration = Duration::from_secs(10);
/// How long they are waited for between two tries to remove their cgroup.
const PASS: Duration = Duration::from_secs(1);

/// Kills everything that is in the pod's cgroup, the sandbox included, and removes the cgroup,
/// whatever is mounted under `dir`, and `dir` itself. Nothing to do is success.
pub async fn reap(dir: &Path) -> io::Result<()> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || reap_now(&dir)).await?
}

fn reap_now(dir: &Path) -> io::Result<()> {
    if let Ok(config) = std::fs::read(dir.join(CONFIG_FILE)) {
        let config: SandboxConfig = serde_json::from_slice(&config)?;
        remove_cgroup(&config.cgroup)?;
    }
    unmount_below(dir)?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Kills every process of a cgroup and removes it with all below: that of one pod, or that of the
/// node when it goes down.
///
/// What is killed may still be on its way out, and others may put something in meanwhile: it is tried
/// again until it is gone or the time is over. The error then names what is in it.
pub fn remove_cgroup(path: &str) -> io::Result<()> {
    let cgroup = Cgroup::at(path);
    let until = Instant::now() + LIMIT;
    loop {
        cgroup.kill_all(PASS);
        match cgroup.remove() {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < until => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{error}: {}", holders(&cgroup)))),
            Ok(()) => return Ok(()),
        }
    }
}

/// Says which processes a cgroup is busy with.
fn holders(cgroup: &Cgroup) -> String {
    let named = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
        format!("process {pid} ({}, state {}) does not end", field("Name:"), field("State:"))
    };
    let all: Vec<String> = cgroup.pids().iter().map(named).collect();
    match all.is_empty() {
        true => "no process of this PID namespace is in it".to_owned(),
        false => all.join(", "),
    }
}

/// Containers have their mounts to themselves, so there is rarely anything here: an agent of
/// another version may have left it, or a volume.
fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<String> = points.filter(|point| Path::new(point).starts_with(&dir)).collect();
    // Later mounts may lie on earlier ones.
    below.reverse();
    for point in below {
        nix::mount::umount2(point.as_str(), nix::mount::MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Spaces and the like are three octal digits in the table of mounts.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.filter(|_| bytes[at] == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (text, want) in
            [("/a\\040b", "/a b"), ("/a\\134", "/a\\"), ("/plain", "/plain"), ("/x\\", "/x\\")]
        {
            assert_eq!(unescape(text), want);
        }
    }
}
