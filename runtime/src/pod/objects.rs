//! What pods refer to by name: ConfigMaps, Secrets, tokens, Services.
//!
//! Objects are fetched when a pod needs them, so that a start sees what was applied before it.
//! Changes of objects in use are heard through one watch for each object, shared by its pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use proa_api::references::{References, pull_secrets};
use proa_supervise::{Task, keep};
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::event::COMPONENT;
use crate::image::Credentials;
use crate::pod::budget::{Budget, OBJECTS};
use crate::pod::env::Sources;
use crate::volume::claim::{self, Claims};
use crate::volume::content::{self, Fetched, TokenWanted};

/// The service account of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";

/// Follows the Services.
const SERVICES: Task = Task { component: COMPONENT, name: "services" };
/// Follows an object that volumes are made of.
const OBJECT: Task = Task { component: COMPONENT, name: "volume-objects" };

/// Pods whose objects are held at a time: each may have as many as its limit lets it.
const TURNS: usize = 4;
/// Objects of one pod that are asked for at a time.
const AT_A_TIME: usize = 16;
/// Longest that a pod's objects are waited for in its turn.
const LONGEST: Duration = Duration::from_secs(60);

/// Fetches and watches objects.
#[derive(Clone)]
pub struct Objects {
    client: kube::Client,
    watched: Arc<std::sync::Mutex<HashMap<Name, Weak<Watched>>>>,
    services: Arc<Services>,
    turns: Arc<Semaphore>,
}

/// Held while a pod's objects are held.
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Kind, namespace and name.
type Name = (&'static str, String, String);

/// A watch on one object: its number of changes so far.
pub struct Watched {
    /// Counts up with each change.
    pub changes: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

struct Services {
    store: reflector::Store<Service>,
    _task: AbortOnDropHandle<()>,
}

impl Objects {
    /// Starts the watch on Services, which are variables of every container.
    pub fn start(client: kube::Client) -> Self {
        let (store, writer) = reflector::store();
        let (api, writer) = (Api::<Service>::all(client.clone()), Mutex::new(writer));
        let task = tokio::spawn(async move {
            let follow = || async {
                let mut writer = writer.lock().await;
                let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
                let mut events = std::pin::pin!(events.modify(|s| s.metadata.managed_fields = None));
                while let Some(event) = events.next().await {
                    // What could not be listed is listed again.
                    event.iter().for_each(|event| writer.apply_watcher_event(event));
                }
            };
            keep(SERVICES, &CancellationToken::new(), follow).await;
        });
        let services = Arc::new(Services { store, _task: AbortOnDropHandle::new(task) });
        Objects { client, watched: Arc::default(), services, turns: Arc::new(Semaphore::new(TURNS)) }
    }

    /// Waits until it is this pod's turn to fetch what it is made of, to put it together and to drop
    /// it again.
    pub async fn turn(&self) -> Turn {
        Turn { _permit: Arc::clone(&self.turns).acquire_owned().await.ok() }
    }

    /// The Services that give variables to containers of a namespace.
    pub async fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        // An error means that the watch has ended, which it does only with the node.
        let _ = self.services.store.wait_until_ready().await;
        let mut found = self.services.store.state();
        found.retain(
            |s| matches!(s.metadata.namespace.as_deref(), Some(n) if n == namespace || n == "default"),
        );
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        found
    }

    /// Fetches objects of a namespace by name, in the pod's turn; those that do not exist are left
    /// out.
    pub async fn fetch(&self, namespace: &str, wanted: &References) -> Result<Sources, String> {
        let mut left = Budget::new(OBJECTS);
        in_time(self.sources(namespace, wanted, &mut left)).await
    }

    /// Fetches all that the files of a pod's volumes are made of, in its turn.
    pub async fn fetch_for_volumes(&self, pod: &Pod) -> Result<Fetched, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let references = content::references(pod);
        // Volumes that want the same token share one.
        let wanted: BTreeSet<TokenWanted> = content::tokens(pod).into_iter().collect();
        let mut left = Budget::new(OBJECTS);
        wanted.iter().try_for_each(|_| left.take(0))?;
        let token = async |wanted: TokenWanted| {
            let token = self.token(pod, namespace, &wanted).await?;
            Ok((wanted, token))
        };
        let tokens = stream::iter(wanted.into_iter().map(token)).buffer_unordered(AT_A_TIME).try_collect();
        let all = async { tokio::try_join!(self.sources(namespace, &references, &mut left), tokens) };
        let (sources, tokens) = in_time(all).await?;
        Ok(Fetched { sources, tokens })
    }

    /// Fetches the claims of a pod that have not been found yet, and the volumes that they name.
    pub async fn fetch_claims(&self, pod: &Pod, names: &BTreeSet<String>) -> Result<Claims, String> {
        if names.is_empty() {
            return Ok(Claims::default());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        in_time(async {
            let node = Api::<Node>::all(self.client.clone()).get_opt(node).await;
            let node = node.map_err(|error| error.to_string())?;
            let node_labels = node.and_then(|node| node.metadata.labels).unwrap_or_default();
            let mut claims = BTreeMap::new();
            for name in names {
                claims.insert(name.clone(), self.claim(namespace, name).await?);
            }
            Ok(Claims { claims, node_labels })
        })
        .await
    }

    /// A claim and the volume that it names.
    async fn claim(&self, namespace: &str, name: &str) -> Result<claim::Fetched, String> {
        let text = |error: kube::Error| error.to_string();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let claim = claims.get_opt(name).await.map_err(text)?;
        let volume = claim.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
        let volume = match volume.filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => {
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                volumes.get_opt(&name).await.map_err(text)?
            }
        };
        Ok(claim::Fetched { claim, volume })
    }

    /// The credentials of a pod's `imagePullSecrets`. Secrets that do not exist are left out, as
    /// the kubelet does: the image may be public.
    pub async fn credentials(&self, pod: &Pod) -> Result<Vec<Credentials>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let names = pod.spec.as_ref().map(pull_secrets).unwrap_or_default();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut left = Budget::new(OBJECTS);
        let found = in_time(self.get_all::<Secret>(namespace, &names, &mut left)).await?;
        Ok(found.values().flat_map(credentials_of).collect())
    }

    /// Watches the ConfigMaps and Secrets that a pod's volumes are made of.
    pub fn watch_for_volumes(&self, pod: &Pod) -> Vec<Arc<Watched>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let wanted = content::references(pod);
        let maps =
            wanted.config_maps.iter().map(|name| self.watch::<ConfigMap>("ConfigMap", namespace, name));
        let maps: Vec<_> = maps.collect();
        let secrets = wanted.secrets.iter().map(|name| self.watch::<Secret>("Secret", namespace, name));
        maps.into_iter().chain(secrets).collect()
    }

    async fn sources(
        &self,
        namespace: &str,
        wanted: &References,
        left: &mut Budget,
    ) -> Result<Sources, String> {
        Ok(Sources {
            config_maps: self.get_all::<ConfigMap>(namespace, &wanted.config_maps, left).await?,
            secrets: self.get_all::<Secret>(namespace, &wanted.secrets, left).await?,
        })
    }

    /// Gets objects by name, a few at a time.
    async fn get_all<K>(
        &self,
        namespace: &str,
        names: &BTreeSet<String>,
        left: &mut Budget,
    ) -> Result<BTreeMap<String, K>, String>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Data
            + Clone
            + Debug
            + DeserializeOwned,
    {
        // Before any is asked for.
        names.iter().try_for_each(|_| left.take(0))?;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let get = async |name: &String| (name.clone(), api.get_opt(name).await);
        let mut answers = stream::iter(names.iter().map(get)).buffer_unordered(AT_A_TIME);
        let mut found = BTreeMap::new();
        while let Some((name, answer)) = answers.next().await {
            if let Some(mut object) = answer.map_err(|error| error.to_string())? {
                // Nobody reads it, and it may be large.
                *object.meta_mut() = ObjectMeta::default();
                left.take_bytes(object.bytes())?;
                found.insert(name, object);
            }
        }
        Ok(found)
    }

    async fn token(&self, pod: &Pod, namespace: &str, wanted: &TokenWanted) -> Result<String, String> {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_ACCOUNT);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: wanted.audience.clone().into_iter().collect(),
                expiration_seconds: Some(wanted.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            },
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
        answer
            .status
            .map(|s| s.token)
            .ok_or_else(|| "failed to fetch token: the answer holds none".to_owned())
    }

    fn watch<K>(&self, kind: &'static str, namespace: &str, name: &str) -> Arc<Watched>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = watched.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        watched.retain(|_, watch| watch.strong_count() > 0);
        let (count, changes) = watch::channel(0);
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let task = tokio::spawn(async move {
            let follow = || async {
                let events = watcher(api.clone(), config.clone()).default_backoff().into_stream();
                let mut events = std::pin::pin!(events);
                while let Some(event) = events.next().await {
                    // The list at the start counts too: the object may have changed before it.
                    let listing = |event| matches!(event, watcher::Event::Init | watcher::Event::InitDone);
                    if event.is_ok_and(|event| !listing(event)) {
                        count.send_modify(|count| *count += 1);
                    }
                }
            };
            keep(OBJECT, &CancellationToken::new(), follow).await;
        });
        let new = Arc::new(Watched { changes, _task: AbortOnDropHandle::new(task) });
        watched.insert(key, Arc::downgrade(&new));
        new
    }
}

/// An object whose data pods are made of.
trait Data {
    /// How much of it there is.
    fn bytes(&self) -> usize;
}

impl Data for ConfigMap {
    fn bytes(&self) -> usize {
        let text = self.data.iter().flatten().map(|(key, value)| key.len() + value.len());
        let binary = self.binary_data.iter().flatten().map(|(key, value)| key.len() + value.0.len());
        text.chain(binary).sum()
    }
}

impl Data for Secret {
    fn bytes(&self) -> usize {
        self.data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum()
    }
}

/// A turn is given back in time, also where the API server does not answer.
async fn in_time<T>(fetch: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let fetched = tokio::time::timeout(LONGEST, fetch).await;
    fetched.unwrap_or_else(|_| Err(format!("what it refers to was not there in {} s", LONGEST.as_secs())))
}

/// User names and passwords in a Secret of type `kubernetes.io/dockerconfigjson` or `dockercfg`.
/// <https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/>
fn credentials_of(secret: &Secret) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let parsed = |key: &str| -> Option<serde_json::Value> { serde_json::from_slice(&data?.get(key)?.0).ok() };
    let registries = match parsed(".dockerconfigjson") {
        Some(config) => config.get("auths").cloned(),
        None => parsed(".dockercfg"),
    };
    let Some(serde_json::Value::Object(registries)) = registries else { return Vec::new() };
    registries.iter().filter_map(|(registry, entry)| one_credential(registry, entry)).collect()
}

fn one_credential(registry: &str, entry: &serde_json::Value) -> Option<Credentials> {
    use base64::Engine as _;
    let text = |key: &str| entry.get(key).and_then(|v| v.as_str()).filter(|t| !t.is_empty());
    let (username, password) = match (text("username"), text("password"), text("auth")) {
        (Some(user), Some(password), _) => (user.to_owned(), password.to_owned()),
        (_, _, Some(auth)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(auth).ok()?;
            let (user, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
            (user.to_owned(), password.to_owned())
        }
        _ => return None,
    };
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    // The old address of the Docker Hub is still what `docker login` writes.
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    // The version of the API, which some write, says nothing.
    let path = match path.split_once('/').unwrap_or((path, "")) {
        ("v1" | "v2", rest) => rest,
        _ => path,
    };
    let registry = if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") };
    Some(Credentials { registry, username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_of_both_secret_types() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cHc="},"r.example:5000":{"username":"u","password":"p"},"r.example:5000/v2/team":{"auth":"bWU6cHc="}}}"#;
        let secret = |key: &str, text: &str| -> Secret {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.encode(text);
            serde_json::from_value(json!({"metadata": {}, "data": {key: data}})).unwrap()
        };
        let found: Vec<_> = credentials_of(&secret(".dockerconfigjson", config))
            .into_iter()
            .map(|c| format!("{} {} {}", c.registry, c.username, c.password))
            .collect();
        assert_eq!(found, ["docker.io me pw", "r.example:5000 u p", "r.example:5000/team me pw"]);
        let old = r#"{"r.example":{"auth":"bWU6cHc="}}"#;
        assert_eq!(credentials_of(&secret(".dockercfg", old)).len(), 1);
        assert!(credentials_of(&secret(".dockercfg", "no json")).is_empty());
    }
    #[tokio::test(start_paused = true)]
    async fn claims_are_not_waited_for_without_end() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let objects = Objects::start(kube::Client::new(silent, "default"));
        let pod = serde_json::from_value(json!({"spec": {"nodeName": "n", "containers": []}})).unwrap();
        let claims = objects.fetch_claims(&pod, &BTreeSet::from(["c".to_owned()])).await;
        assert_eq!(claims.err().as_deref(), Some("what it refers to was not there in 60 s"));
    }
}
