//! `proa down`: ends all pods of this node and removes what they have on the machine, without a
//! running node and without an API server. Data stays: images, volumes on disk, logs.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use serde::Deserialize;

use crate::engine::reap;
use crate::host_names::{CGROUP_OF_ALL, HostNames};
use crate::net::Network;
use crate::paths::Paths;
use crate::stop::{self, stop_sandbox};
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
    let shared = shared(&paths).map_err(about(&shared_file(&paths)))?;
    let names = HostNames::known(&paths).map_err(about(&paths.node()))?;
    if shared.is_none() && names.is_none() {
        // Nothing was started here, or in what this is a copy of.
        return Ok(());
    }
    let mut failures = end_pods(&paths).await;
    if let Some(shared) = &shared {
        failures.extend(remove_shared(&paths, shared).await);
    }
    if let Some(names) = &names {
        let removed = Network::remove_left_over(&names.bridge(), &names.table()).await;
        failures.extend(removed.err().map(|error| error.to_string()));
        failures.extend(remove_cgroup(names.cgroup()).await.err());
        remove_if_empty(CGROUP_OF_ALL);
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Gives the names of what the node of this data directory is about to have outside of it. What an
/// earlier version named otherwise is removed first: its pods are ended and will be started anew.
pub async fn settle(paths: &Paths) -> Result<HostNames, String> {
    std::fs::create_dir_all(paths.run()).map_err(about(&paths.run()))?;
    if let Some(shared) = shared(paths).map_err(about(&shared_file(paths)))? {
        tracing::warn!("ending the pods that an earlier version started: they are started anew");
        let sandboxes = futures::stream::iter(entries(&paths.sandboxes()));
        sandboxes.for_each_concurrent(AT_A_TIME, async |dir| stop::end_gently(&dir).await).await;
        let mut failures = end_pods(paths).await;
        failures.extend(remove_shared(paths, &shared).await);
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
    }
    let known = HostNames::known(paths).map_err(about(&paths.node()))?;
    if let Some(names) = known {
        return Ok(names);
    }
    // Sandboxes that are here all the same are those of the directory that this one is a copy of.
    mount::remove_tree(&paths.sandboxes()).map_err(about(&paths.sandboxes()))?;
    HostNames::choose(paths).map_err(about(&paths.node()))
}

/// Ends all pods and unmounts their volumes. Gives what failed.
async fn end_pods(paths: &Paths) -> Vec<String> {
    let mut failures = Vec::new();
    for dir in entries(&paths.sandboxes()) {
        failures.extend(stop_sandbox(&dir, None).await.err());
    }
    failures.extend(mount::unmount_below(&paths.volumes()).err().map(|error| error.to_string()));
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
    let removed = tokio::task::spawn_blocking(move || reap::remove_cgroup(&cgroup)).await;
    removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
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
