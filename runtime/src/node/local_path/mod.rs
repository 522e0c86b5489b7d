//! Local paths: directories of this node that are PersistentVolumes.
//!
//! The control plane makes and deletes the volumes; it writes into this node's Node which directories
//! it wants made and removed, and the node writes there what has become of it. `decide` (pure) says
//! what is left to be done, `directory` does it on the disk. A directory that a pod of this node has
//! is not removed.

mod decide;
mod directory;

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use proa_api::local_path::{ANNOTATION_OUTCOMES, Order, Outcome, Outcomes, write};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::node::host::Host;
use crate::node::paths::Paths;
use crate::volume::claim;
use decide::{Seen, failed};

/// Pause before what did not go well is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// Removals wait for pods that are about to end; this is how often they look.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Carries out orders until `shutdown`.
pub async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let api = Api::<Node>::all(host.client.clone());
    let own = watcher::Config::default().fields(&format!("metadata.name={}", host.config.node_name));
    let mut changes = watcher(api, own).default_backoff().applied_objects().boxed();
    let mut node = None;
    let mut again: Option<Duration> = None;
    loop {
        let pause = tokio::time::sleep(again.unwrap_or_default());
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(change) = changes.next() => node = change.ok().or(node),
            () = pause, if again.is_some() => {}
        }
        // What has come meanwhile is the newer word.
        while let Some(Some(Ok(newer))) = changes.next().now_or_never() {
            node = Some(newer);
        }
        let Some(found) = &node else { continue };
        again = match work(&host, &Seen::of(found)).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "what has become of local paths could not be told");
                Some(RETRY)
            }
        };
    }
}

/// Does what is to be done and tells it; gives when to look again though nothing changes.
async fn work(host: &Host, seen: &Seen) -> Result<Option<Duration>, kube::Error> {
    let mut done = Outcomes::new();
    let mut again = None;
    for (volume, order) in seen.open() {
        let (paths, name) = (host.paths.clone(), volume.to_owned());
        let outcome = tokio::task::spawn_blocking(move || carry_out(&paths, &name, order)).await;
        let outcome = outcome.unwrap_or_else(|panic| Some(failed(panic)));
        let pause = match &outcome {
            Some(Outcome::Failed(error)) => {
                tracing::warn!(volume, error, "a local path could not be brought in order");
                Some(RETRY)
            }
            Some(_) => None,
            None => Some(LOOK_AGAIN),
        };
        again = [again, pause].into_iter().flatten().min();
        done.extend(outcome.map(|outcome| (volume.to_owned(), outcome)));
    }
    let after = seen.after(done);
    if after != seen.outcomes {
        let patch = json!({"metadata": {"annotations": {ANNOTATION_OUTCOMES: write(&after)}}});
        let api = Api::<Node>::all(host.client.clone());
        api.patch(&host.config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(again)
}

/// `None` if it cannot be done yet.
fn carry_out(paths: &Paths, volume: &str, order: Order) -> Option<Outcome> {
    let root = paths.local_volumes();
    let outcome = match order {
        Order::Make => directory::make(&root, volume)
            .map(|()| Outcome::Made(root.join(volume).to_string_lossy().into_owned())),
        Order::Remove => match claim::in_use(paths, volume) {
            Ok(true) => return None,
            Ok(false) => directory::remove(&root, volume).map(|()| Outcome::Removed),
            Err(error) => Err(error),
        },
    };
    Some(outcome.unwrap_or_else(failed))
}
