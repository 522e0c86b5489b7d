//! One node, and the pods that are bound to it or assumed to be.
//!
//! Kept by the [`Snapshot`](super::snapshot::Snapshot); preemption tries changes on copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use proa_api::resources::{HostPort, Resources};

use crate::world::facts::{Key, Node, Pod};

/// The place of a node in the snapshot.
pub type NodeIndex = usize;

/// A node and what is on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its place.
    pub index: NodeIndex,
    /// What is known of it.
    pub node: Arc<Node>,
    /// The pods on it that have not ended, those assumed to be included, in no order.
    pub pods: Vec<Arc<Pod>>,
    /// What they ask for.
    pub requested: Resources,
    /// The CPU they ask for in thousandths, with something for those that state none.
    pub weighed_cpu_millis: i64,
    /// The memory they ask for in bytes, with something for those that state none.
    pub weighed_memory_bytes: i64,
    /// The node's ports that they take.
    pub host_ports: Vec<HostPort>,
    /// How often each claim is mounted, by namespace and name.
    pub claims: BTreeMap<Key, u32>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(index: NodeIndex, node: Arc<Node>) -> Self {
        NodeInfo {
            index,
            node,
            pods: Vec::new(),
            requested: Resources::default(),
            weighed_cpu_millis: 0,
            weighed_memory_bytes: 0,
            host_ports: Vec::new(),
            claims: BTreeMap::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.node.meta.key.name
    }

    /// Counts a pod in.
    pub fn add(&mut self, pod: Arc<Pod>) {
        self.requested.add(&pod.requests);
        self.weighed_cpu_millis += pod.weighed.cpu_millis;
        self.weighed_memory_bytes += pod.weighed.memory_bytes;
        self.host_ports.extend_from_slice(&pod.host_ports);
        for claim in &pod.claims {
            let key = Key { namespace: pod.meta.key.namespace.clone(), name: claim.clone() };
            *self.claims.entry(key).or_default() += 1;
        }
        self.pods.push(pod);
    }

    /// Counts the pod of this name out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Pod>> {
        let place = self.pods.iter().position(|p| p.meta.key == *key)?;
        let pod = self.pods.swap_remove(place);
        self.requested.subtract(&pod.requests);
        self.weighed_cpu_millis -= pod.weighed.cpu_millis;
        self.weighed_memory_bytes -= pod.weighed.memory_bytes;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
        for claim in &pod.claims {
            let key = Key { namespace: key.namespace.clone(), name: claim.clone() };
            if let Some(count) = self.claims.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.claims.remove(&key);
                }
            }
        }
        Some(pod)
    }
}
