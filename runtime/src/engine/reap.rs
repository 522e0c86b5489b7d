//! Clears up after a sandbox that was killed: its containers die with it, its files and cgroups
//! do not.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use proa_sandbox::CONFIG_FILE;
use proa_sandbox::cgroup::Cgroup;
use proa_sandbox::protocol::SandboxConfig;

use crate::volume::mount;

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
    // Containers have their mounts to themselves, so there is rarely anything to unmount.
    mount::remove_tree(dir)
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
