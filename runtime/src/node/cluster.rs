//! Whose data lies in the data directory.
//!
//! What belongs to pods that the API server does not know is removed. That is right only if it is
//! the API server that knew them: an empty store in place of one that was lost would have every
//! volume and every log removed. So the agent notes the cluster it works for, by the uid of
//! `kube-system`, and sets aside what another cluster's pods left before it starts any of its own.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use proa_api::names::NAMESPACE_SYSTEM;

use crate::node::paths::Paths;
use crate::volume::mount;

/// Pause before the API server is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// The uid that stands for the cluster, as soon as the API server can tell it.
pub async fn identity(client: &kube::Client) -> String {
    let api = Api::<Namespace>::all(client.clone());
    loop {
        match api.get_opt(NAMESPACE_SYSTEM).await {
            Ok(Some(Namespace { metadata, .. })) => return metadata.uid.unwrap_or_default(),
            // It is made when the API server starts for the first time.
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the cluster's identity is not known yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Notes that the pods of this cluster run here. Volumes and logs of another cluster's pods are set
/// aside; gives where they are now.
pub fn settle(paths: &Paths, cluster: &str) -> io::Result<Vec<PathBuf>> {
    let before = match std::fs::read_to_string(paths.cluster()) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if before == cluster {
        return Ok(Vec::new());
    }
    let mut aside = Vec::new();
    if !before.is_empty() {
        mount::unmount_below(&paths.volumes())?;
        for dir in [paths.volumes(), paths.logs()] {
            aside.extend(set_aside(&dir, &before)?);
        }
    }
    let next = paths.cluster().with_extension("new");
    std::fs::write(&next, format!("{cluster}\n"))?;
    std::fs::rename(next, paths.cluster())?;
    Ok(aside)
}

/// Renames a directory after the cluster it belongs to, and makes an empty one in its place.
fn set_aside(dir: &Path, cluster: &str) -> io::Result<Option<PathBuf>> {
    if std::fs::read_dir(dir)?.next().is_none() {
        return Ok(None);
    }
    let aside = PathBuf::from(format!("{}-of-{cluster}", dir.display()));
    std::fs::rename(dir, &aside)?;
    std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_clusters_data_is_set_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        for part in [paths.volumes(), paths.logs()] {
            std::fs::create_dir_all(part).unwrap();
        }
        assert!(settle(&paths, "a").unwrap().is_empty());
        std::fs::create_dir_all(paths.pod_volumes("u")).unwrap();
        assert!(settle(&paths, "a").unwrap().is_empty(), "the same cluster");
        assert!(paths.pod_volumes("u").exists());
        let aside = settle(&paths, "b").unwrap();
        assert_eq!(aside, [dir.path().join("volumes-of-a")], "there were no logs");
        assert!(aside[0].join("u").is_dir() && !paths.pod_volumes("u").exists() && paths.volumes().is_dir());
        assert!(settle(&paths, "b").unwrap().is_empty());
    }
}
