//! What pods refer to by name: ConfigMaps, Secrets, tokens, Services.
//!
//! Objects are fetched when a pod needs them, so that a start sees what was applied before it.
//! Changes of objects in use are heard through one watch for each object, shared by its pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::{StreamExt, TryStreamExt, future::try_join_all};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::image::Credentials;
use crate::pod::env::{References, Sources};
use crate::volume::claim;
use crate::volume::content::{self, Fetched, TokenWanted};

/// The audience of tokens that name none.
const DEFAULT_ACCOUNT: &str = "default";

/// Fetches and watches objects.
#[derive(Clone)]
pub struct Objects {
    client: kube::Client,
    watched: Arc<Mutex<HashMap<Name, Weak<Watched>>>>,
    services: Arc<Services>,
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
        let services = Api::<Service>::all(client.clone());
        let stream = watcher(services, watcher::Config::default()).default_backoff();
        let stream = reflector::reflector(writer, stream.modify(|s| s.metadata.managed_fields = None));
        let task = tokio::spawn(stream.for_each(|_| async {}));
        let services = Arc::new(Services { store, _task: AbortOnDropHandle::new(task) });
        Objects { client, watched: Arc::default(), services }
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

    /// Fetches objects of a namespace by name; those that do not exist are left out.
    pub async fn fetch(&self, namespace: &str, wanted: &References) -> Result<Sources, String> {
        Ok(Sources {
            config_maps: self.get_all::<ConfigMap>(namespace, &wanted.config_maps).await?,
            secrets: self.get_all::<Secret>(namespace, &wanted.secrets).await?,
        })
    }

    /// Fetches all that the volumes of a pod are made of.
    /// `claims` are those that have not been found yet.
    pub async fn fetch_for_volumes(&self, pod: &Pod, claims: &BTreeSet<String>) -> Result<Fetched, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let references = content::references(pod);
        // Volumes that want the same token share one.
        let wanted: BTreeSet<TokenWanted> = content::tokens(pod).into_iter().collect();
        let token = async |wanted: TokenWanted| {
            let token = self.token(pod, namespace, &wanted).await?;
            Ok((wanted, token))
        };
        let tokens = try_join_all(wanted.into_iter().map(token));
        let (sources, tokens) = tokio::try_join!(self.fetch(namespace, &references), tokens)?;
        let tokens = tokens.into_iter().collect();
        let mut fetched = Fetched { sources, tokens, ..Fetched::default() };
        for name in claims {
            fetched.claims.insert(name.clone(), self.claim(namespace, name).await?);
        }
        if !claims.is_empty() {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
            let node = Api::<Node>::all(self.client.clone()).get_opt(node).await;
            let node = node.map_err(|error| error.to_string())?;
            fetched.node_labels = node.and_then(|node| node.metadata.labels).unwrap_or_default();
        }
        Ok(fetched)
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
        let secrets = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
        if secrets.is_empty() {
            return Ok(Vec::new());
        }
        let names = secrets.iter().map(|s| s.name.clone()).collect();
        let found = self.get_all::<Secret>(namespace, &names).await?;
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

    async fn get_all<K>(
        &self,
        namespace: &str,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, K>, String>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let get = async |name: &String| {
            api.get_opt(name).await.map(|found| found.map(|object| (name.clone(), object)))
        };
        let found = try_join_all(names.iter().map(get)).await.map_err(|error| error.to_string())?;
        Ok(found.into_iter().flatten().collect())
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
            let events = watcher(api, config).default_backoff().into_stream();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                // The list at the start counts too: the object may have changed before it.
                if event.is_ok_and(|event| !matches!(event, watcher::Event::Init | watcher::Event::InitDone))
                {
                    count.send_modify(|count| *count += 1);
                }
            }
        });
        let new = Arc::new(Watched { changes, _task: AbortOnDropHandle::new(task) });
        watched.insert(key, Arc::downgrade(&new));
        new
    }
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
    let host = registry.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    // The old address of the Docker Hub is still what `docker login` writes.
    let registry = if host == "index.docker.io" { "docker.io" } else { host };
    Some(Credentials { registry: registry.to_owned(), username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_of_both_secret_types() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cHc="},"r.example:5000":{"username":"u","password":"p"}}}"#;
        let secret = |key: &str, text: &str| -> Secret {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.encode(text);
            serde_json::from_value(json!({"metadata": {}, "data": {key: data}})).unwrap()
        };
        let found: Vec<_> = credentials_of(&secret(".dockerconfigjson", config))
            .into_iter()
            .map(|c| format!("{} {} {}", c.registry, c.username, c.password))
            .collect();
        assert_eq!(found, ["docker.io me pw", "r.example:5000 u p"]);
        let old = r#"{"r.example":{"auth":"bWU6cHc="}}"#;
        assert_eq!(credentials_of(&secret(".dockercfg", old)).len(), 1);
        assert!(credentials_of(&secret(".dockercfg", "no json")).is_empty());
    }
}
