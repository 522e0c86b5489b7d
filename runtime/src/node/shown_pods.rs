//! The pods of this node as their workers last showed them; read by the node's HTTP server.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use proa_api::namespaced_name::{self, NamespacedName};
use tokio::sync::watch;

use crate::node::host_names::HostNames;

/// Pods by namespace and name. Clones share it.
#[derive(Clone, Default)]
pub struct ShownPods(Arc<All>);

#[derive(Default)]
struct All {
    pods: RwLock<Pods>,
    node: OnceLock<(String, HostNames)>,
    changed: watch::Sender<()>,
}

type Pods = BTreeMap<NamespacedName, Arc<Shown>>;

/// A pod and its newest status, which the API server may not have yet.
pub struct Shown {
    /// The object.
    pub pod: Arc<Pod>,
    /// Its status.
    pub status: PodStatus,
}

impl ShownPods {
    /// Says whose pods these are.
    pub fn name_node(&self, name: &str, on_host: &HostNames) {
        // There is one agent, which says it once.
        let _ = self.0.node.set((name.to_owned(), on_host.clone()));
    }

    /// The node's name; empty before its agent runs.
    pub fn node_name(&self) -> String {
        self.0.node.get().map(|(name, _)| name.clone()).unwrap_or_default()
    }

    /// How what the node has on its machine is named; `None` before its agent runs.
    pub fn host_names(&self) -> Option<&HostNames> {
        self.0.node.get().map(|(_, names)| names)
    }

    /// Shows a pod.
    pub fn show(&self, pod: &Arc<Pod>, status: PodStatus) {
        let shown = Arc::new(Shown { pod: Arc::clone(pod), status });
        let mut pods = self.0.pods.write().unwrap_or_else(PoisonError::into_inner);
        let before = pods.insert(namespaced_name::of(&pod.metadata), Arc::clone(&shown));
        drop(pods);
        if before.is_none_or(|before| before.status != shown.status) {
            self.0.changed.send_replace(());
        }
    }

    /// Forgets a pod, unless another of the same name has taken its place.
    pub fn forget(&self, pod: &Pod) {
        let mut pods = self.0.pods.write().unwrap_or_else(PoisonError::into_inner);
        let name = namespaced_name::of(&pod.metadata);
        if pods.get(&name).is_some_and(|shown| shown.pod.metadata.uid == pod.metadata.uid) {
            pods.remove(&name);
            self.0.changed.send_replace(());
        }
    }

    /// Changes with every status.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The pod of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Shown>> {
        let pods = self.0.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All pods, by namespace and name.
    pub fn list(&self) -> Vec<Arc<Shown>> {
        self.0.pods.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Shown {
    /// The status of a container or init container.
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        let lists = [&self.status.container_statuses, &self.status.init_container_statuses];
        lists.into_iter().flatten().flatten().find(|status| status.name == name)
    }
}
