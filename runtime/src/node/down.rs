//! `proa down`: ends all pods of this node and removes what they have on the machine, without a
//! running node and without an API server. Data stays: images, volumes on disk, logs.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use serde::Deserialize;

use crate::engine::reap;
use crate::net::Network;
use crate::node::host_names::{CGROUP_OF_ALL, HostNames};
use crate::node::paths::Paths;
use crate::node::run_dir;
use crate::pod::stop::{self, stop_sandbox};
use crate::volume::mount;

/// Pods that are ended at a time.
const AT_A_TIME: usize = 16;

/// What a node of an earlier version noted. All of them called their device `proa0` and their table
/// `proa`, and their cgroup after the node's name in the API: other nodes may have the same.
#[derive(Deserialize)]
struct Shared {
    cgroup: String,
    bridge: String,
}

/// The table of nodes that shared their names.
const SHARED_TABLE: &str = "proa";

/// Ends the node's pods and removes their sandboxes, mounts, cgroups, links and the nftables
/// table, and nothing of other nodes. Goes on after a failure; an error names all of them. Needs root.
pub async fn down(data_dir: &Path) -> Result<(), String> {
    let paths = Paths::new(data_dir);
    let (shared, names) = noted(&paths)?;
    if shared.is_none() && names.is_none() {
        // Nothing was started here; what this is a copy of may run.
        return Ok(());
    }
    let mut failures = end_pods(&paths, shared.as_ref(), names.as_ref()).await;
    if let Some(names) = &names {
        let removed = Network::remove_left_over(&names.bridge(), &names.table()).await;
        failures.extend(removed.err().map(|error| error.to_string()));
    }
    let unmounted = blocking(move || run_dir::unmount(&paths)).await;
    failures.extend(unmounted.err());
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Makes this data directory's part of the machine ready, and gives the names of what its node is about
/// to have outside of it. Pods that nobody could find any more are ended first, and will be started
/// anew: those of an earlier version, and those whose sandboxes' directories are not there.
pub async fn settle(paths: &Paths) -> Result<HostNames, String> {
    let (shared, names) = noted(paths)?;
    if !run_dir::is_mounted(paths).map_err(about(&paths.run()))? {
        if shared.is_some() || names.is_some() {
            let sandboxes = futures::stream::iter(entries(&paths.sandboxes()));
            sandboxes.for_each_concurrent(AT_A_TIME, async |dir| stop::end_gently(&dir).await).await;
            let failures = end_pods(paths, shared.as_ref(), names.as_ref()).await;
            if !failures.is_empty() {
                return Err(failures.join("; "));
            }
        }
        run_dir::mount_fresh(paths).map_err(about(&paths.run()))?;
    }
    match names {
        Some(names) => Ok(names),
        None => HostNames::choose(paths).map_err(about(&paths.node())),
    }
}

fn noted(paths: &Paths) -> Result<(Option<Shared>, Option<HostNames>), String> {
    let shared = shared(paths).map_err(about(&shared_file(paths)))?;
    let names = HostNames::known(paths).map_err(about(&paths.node()))?;
    Ok((shared, names))
}

/// Ends all pods, unmounts their volumes and removes what their containers wrote. Gives what failed.
async fn end_pods(paths: &Paths, shared: Option<&Shared>, names: Option<&HostNames>) -> Vec<String> {
    let mut failures = Vec::new();
    for dir in entries(&paths.sandboxes()) {
        failures.extend(stop_sandbox(&dir, None).await.err());
    }
    if let Some(shared) = shared {
        failures.extend(remove_shared(paths, shared).await);
    }
    if let Some(names) = names {
        failures.extend(remove_cgroup(names.cgroup()).await.err());
        remove_if_empty(CGROUP_OF_ALL);
    }
    failures.extend(mount::unmount_below(&paths.volumes()).err().map(about(&paths.volumes())));
    for dir in entries(&paths.containers()) {
        failures.extend(mount::remove_tree(&dir).err().map(about(&dir)));
    }
    failures
}

/// Removes what pods have under names that other nodes may have too, and the names' own things if
/// nobody else uses them.
async fn remove_shared(paths: &Paths, shared: &Shared) -> Vec<String> {
    let uids = pod_uids(paths);
    let mut failures = Vec::new();
    for uid in &uids {
        failures.extend(remove_cgroup(format!("{}/pod{uid}", shared.cgroup)).await.err());
    }
    for cgroup in [&shared.cgroup, CGROUP_OF_ALL] {
        remove_if_empty(cgroup);
    }
    let removed = Network::remove_shared(&shared.bridge, SHARED_TABLE, &uids).await;
    failures.extend(removed.err().map(|error| error.to_string()));
    if failures.is_empty() {
        failures.extend(std::fs::remove_file(shared_file(paths)).err().map(about(&shared_file(paths))));
    }
    failures
}

/// The pods that this data directory has anything of.
fn pod_uids(paths: &Paths) -> Vec<String> {
    let all = [paths.sandboxes(), paths.volumes(), paths.logs()].into_iter().flat_map(|dir| entries(&dir));
    let uid = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Logs are named NAMESPACE_NAME_UID.
        name.rsplit('_').next().unwrap_or_default().to_owned()
    };
    all.map(uid).collect::<BTreeSet<_>>().into_iter().collect()
}

async fn remove_cgroup(cgroup: String) -> Result<(), String> {
    blocking(move || reap::remove_cgroup(&cgroup)).await
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn shared(paths: &Paths) -> io::Result<Option<Shared>> {
    match std::fs::read(shared_file(paths)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn shared_file(paths: &Paths) -> PathBuf {
    paths.run().join("node.json")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn about(path: &Path) -> impl FnOnce(io::Error) -> String + use<> {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

/// Removes a cgroup that others may have theirs in, unless there is another.
fn remove_if_empty(cgroup: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = entries(root);
    for hierarchy in hierarchies.into_iter().chain([root.to_owned()]) {
        // The kernel refuses while there is anything in it.
        let _ = std::fs::remove_dir(hierarchy.join(cgroup.trim_start_matches('/')));
    }
}
