//! The provisioner of local paths: directories of this node as PersistentVolumes.
//!
//! Watches claims, volumes and classes; `decide` (pure) says what is to be made and removed here,
//! `directory` does it on the disk. What is made belongs to the claim that it was made for; it is
//! removed when the binder has released it and the claim is gone by the API server's own word,
//! and no pod of this node has it any more. Nothing is ever removed because it is not known.

mod decide;
mod directory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::event::Recorder;
use crate::host::Host;
use crate::observed::report;
use crate::volume::claim;
use decide::{Action, Seen, decide};

/// Pause before what did not go well is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// Removals wait for pods that are about to end; this is how often they look.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Makes and removes volumes until `shutdown`.
pub async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let mut changes = SelectAll::new();
    let client = &host.client;
    let claims = watch(Api::<PersistentVolumeClaim>::all(client.clone()), &mut changes);
    let volumes = watch(Api::<PersistentVolume>::all(client.clone()), &mut changes);
    let classes = watch(Api::<StorageClass>::all(client.clone()), &mut changes);
    let recorder = Recorder::start_as(decide::PROVISIONER, client.clone(), host.config.node_name.clone());
    let mut work = Work {
        host: Arc::clone(&host),
        recorder,
        tasks: JoinSet::new(),
        busy: BTreeSet::new(),
        told: BTreeMap::new(),
    };
    let mut again: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(()) = changes.next() => {}
            Some(done) = work.tasks.join_next(), if !work.tasks.is_empty() => {
                if let Ok((name, outcome)) = done {
                    work.busy.remove(&name);
                    again = outcome.map(|pause| tokio::time::Instant::now() + pause).or(again);
                }
            }
            () = tokio::time::sleep_until(again.unwrap_or_else(tokio::time::Instant::now)), if again.is_some() => {
                again = None;
            }
        }
        while let Some(Some(())) = futures::FutureExt::now_or_never(changes.next()) {}
        if again.is_some() {
            continue;
        }
        let (claims, volumes, classes) = (claims.state(), volumes.state(), classes.state());
        let seen = Seen { claims: &claims, volumes: &volumes, classes: &classes };
        let root = host.paths.local_volumes();
        for action in decide(&seen, &host.config.node_name, &root) {
            work.begin(action);
        }
    }
}

/// Keeps all objects of a kind; each change gives a word.
fn watch<K>(api: Api<K>, changes: &mut SelectAll<BoxStream<'static, ()>>) -> reflector::Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let stream = stream.modify(|object: &mut K| object.meta_mut().managed_fields = None);
    changes.push(reflector::reflector(writer, stream).map(|_| ()).boxed());
    store
}

/// What is under way.
struct Work {
    host: Arc<Host>,
    recorder: Recorder,
    /// Each gives the volume's name, and when to look again if it is to be tried again.
    tasks: JoinSet<(String, Option<Duration>)>,
    busy: BTreeSet<String>,
    /// What was last said of each claim that cannot be served.
    told: BTreeMap<String, String>,
}

impl Work {
    fn begin(&mut self, action: Action) {
        let name = action.volume().to_owned();
        if let Action::Refuse { claim, message } = &action {
            if self.told.get(&name) != Some(message) {
                self.told.insert(name, message.clone());
                let text = format!("failed to provision volume: {message}");
                self.recorder.report_object(&**claim, report(None, true, "ProvisioningFailed", text));
            }
            return;
        }
        if !self.busy.insert(name.clone()) {
            return;
        }
        let (host, recorder) = (Arc::clone(&self.host), self.recorder.clone());
        self.tasks.spawn(async move {
            let again = match action {
                Action::Provision { claim, volume } => provision(&host, &recorder, &claim, *volume).await,
                Action::Remove { volume } => remove(&host, &recorder, &volume).await,
                Action::LetGo { volume } => failed(let_go(&host, &volume).await),
                Action::Refuse { .. } => None,
            };
            (name, again)
        });
    }
}

fn failed(done: Result<(), String>) -> Option<Duration> {
    done.err().map(|error| {
        tracing::warn!(error, "a local path could not be brought in order");
        RETRY
    })
}

async fn provision(
    host: &Host,
    recorder: &Recorder,
    claim: &PersistentVolumeClaim,
    volume: PersistentVolume,
) -> Option<Duration> {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let (namespace, name) = (text(&claim.metadata.namespace), text(&claim.metadata.name));
    let volume_name = text(&volume.metadata.name);
    let say =
        |warning, reason, message| recorder.report_object(claim, report(None, warning, reason, message));
    say(
        false,
        "Provisioning",
        format!("External provisioner is provisioning volume for claim \"{namespace}/{name}\""),
    );
    let made = directory::make(&host.paths.local_volumes(), &volume_name).map_err(|error| error.to_string());
    let made = match made {
        Err(error) => Err(error),
        Ok(()) => {
            let api = Api::<PersistentVolume>::all(host.client.clone());
            match api.create(&PostParams::default(), &volume).await {
                Ok(_) => Ok(()),
                // It was made before, and the watch has not told yet.
                Err(kube::Error::Api(status)) if status.code == 409 => return None,
                Err(error) => Err(error.to_string()),
            }
        }
    };
    match made {
        Ok(()) => {
            say(false, "ProvisioningSucceeded", format!("Successfully provisioned volume {volume_name}"));
            None
        }
        Err(error) => {
            let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.clone()).unwrap_or_default();
            let message = format!("failed to provision volume with StorageClass \"{class}\": {error}");
            say(true, "ProvisioningFailed", message);
            Some(RETRY)
        }
    }
}

async fn remove(host: &Host, recorder: &Recorder, seen: &PersistentVolume) -> Option<Duration> {
    let name = seen.metadata.name.as_deref().unwrap_or_default();
    match remove_confirmed(host, name).await {
        Ok(true) => None,
        Ok(false) => Some(LOOK_AGAIN),
        Err(error) => {
            recorder.report_object(seen, report(None, true, "VolumeFailedDelete", error));
            Some(RETRY)
        }
    }
}

/// Removes a volume with all that is in it, if that is right by the API server's own word: what a
/// watch tells may be behind, and data does not come back. False if it is to be tried again.
async fn remove_confirmed(host: &Host, name: &str) -> Result<bool, String> {
    let text = |error: kube::Error| error.to_string();
    let volumes = Api::<PersistentVolume>::all(host.client.clone());
    let Some(volume) = volumes.get_opt(name).await.map_err(text)? else { return Ok(true) };
    if !decide::is_removable(&volume) {
        return Ok(true);
    }
    if let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
        let claims = Api::<PersistentVolumeClaim>::namespaced(
            host.client.clone(),
            reference.namespace.as_deref().unwrap_or_default(),
        );
        let claim = claims.get_opt(reference.name.as_deref().unwrap_or_default()).await.map_err(text)?;
        if claim.is_some_and(|claim| decide::is_of(&volume, &claim)) {
            return Ok(true);
        }
    }
    if claim::in_use(&host.paths, name).map_err(|error| error.to_string())? {
        return Ok(false);
    }
    let root = host.paths.local_volumes();
    let owned = name.to_owned();
    let removed = tokio::task::spawn_blocking(move || directory::remove(&root, &owned)).await;
    removed.map_err(|error| error.to_string())?.map_err(|error| format!("remove the directory: {error}"))?;
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: volume.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match volumes.delete(name, &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(true),
        Err(error) => return Err(error.to_string()),
    }
    let_go(host, &volume).await.map(|()| true)
}

/// Takes the provisioner's hand off a volume.
async fn let_go(host: &Host, volume: &PersistentVolume) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let volumes = Api::<PersistentVolume>::all(host.client.clone());
    let Some(current) = volumes.get_opt(name).await.map_err(|error| error.to_string())? else {
        return Ok(());
    };
    if current.metadata.uid != volume.metadata.uid {
        return Ok(());
    }
    let mut finalizers = current.metadata.finalizers.unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != decide::FINALIZER);
    let patch = json!({"metadata": {
        "uid": current.metadata.uid,
        "resourceVersion": current.metadata.resource_version,
        "finalizers": finalizers,
    }});
    match volumes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
