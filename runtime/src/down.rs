//! `proa down`: ends all pods of this node and removes what they have on the machine, without a
//! running node and without an API server. Data stays: images, volumes on disk, logs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::reap;
use crate::host::node_cgroup;
use crate::net::Network;
use crate::paths::Paths;
use crate::stop::stop_sandbox;
use crate::volume::mount;

/// What the node has outside the data directory; a file in it tells.
#[derive(Serialize, Deserialize)]
struct Outside {
    /// The cgroup of all its pods.
    cgroup: String,
    /// Its network device.
    bridge: String,
}

/// Ends the node's pods and removes their sandboxes, mounts, cgroups, links and the nftables
/// table. Goes on after a failure; an error names all of them. Needs root.
pub async fn down(data_dir: &Path) -> Result<(), String> {
    let paths = Paths::new(data_dir);
    let mut failures: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(paths.sandboxes()).into_iter().flatten().flatten() {
        failures.extend(stop_sandbox(&entry.path(), None).await.err());
    }
    failures.extend(mount::unmount_below(&paths.volumes()).err().map(|error| error.to_string()));
    if let Some(outside) = outside(&paths) {
        failures
            .extend(Network::remove_left_over(&outside.bridge).await.err().map(|error| error.to_string()));
        let cgroup = outside.cgroup.clone();
        let removed = tokio::task::spawn_blocking(move || reap::remove_cgroup(&cgroup)).await;
        match removed {
            Ok(Err(error)) => failures.push(error.to_string()),
            Err(error) => failures.push(error.to_string()),
            Ok(Ok(())) => remove_empty_parent(&outside.cgroup),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Notes what the node is about to have outside the data directory.
pub fn note(paths: &Paths, node_name: &str, bridge: &str) -> std::io::Result<()> {
    let outside = Outside { cgroup: node_cgroup(node_name), bridge: bridge.to_owned() };
    std::fs::write(file(paths), serde_json::to_vec(&outside)?)
}

fn outside(paths: &Paths) -> Option<Outside> {
    serde_json::from_slice(&std::fs::read(file(paths)).ok()?).ok()
}

fn file(paths: &Paths) -> std::path::PathBuf {
    paths.run().join("node.json")
}

/// Removes the cgroup that holds those of all nodes of this machine, unless there is another.
fn remove_empty_parent(cgroup: &str) {
    let Some(parent) = Path::new(cgroup).parent().and_then(|p| p.strip_prefix("/").ok()) else { return };
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        // The kernel refuses while there is anything in it.
        let _ = std::fs::remove_dir(hierarchy.join(parent));
    }
}
