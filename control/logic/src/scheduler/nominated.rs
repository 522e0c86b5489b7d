//! Nominated pods: those for whom room is being made on a node by sending others away.
//!
//! Kept by the [`Scheduler`](super::Scheduler); read when another pod is placed, so that the room
//! is not given to one that matters less. Source: `status.nominatedNodeName` of
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::world::facts::{Key, Pod};

/// The nominated pods by node.
#[derive(Clone, Debug, Default)]
pub struct Nominated {
    by_node: BTreeMap<Arc<str>, BTreeMap<Key, Arc<Pod>>>,
    by_pod: BTreeMap<Key, Arc<str>>,
}

impl Nominated {
    /// The pods nominated for a node, if any.
    pub fn on(&self, node: &str) -> Option<&BTreeMap<Key, Arc<Pod>>> {
        if self.by_node.is_empty() {
            return None;
        }
        self.by_node.get(node)
    }

    /// The node for which a pod is nominated.
    pub fn node_of(&self, key: &Key) -> Option<&Arc<str>> {
        self.by_pod.get(key)
    }

    /// Nominates a pod for a node, and no other.
    pub fn set(&mut self, pod: Arc<Pod>, node: Arc<str>) {
        let key = pod.meta.key.clone();
        self.remove(&key);
        self.by_node.entry(node.clone()).or_default().insert(key.clone(), pod);
        self.by_pod.insert(key, node);
    }

    /// Takes back a nomination.
    pub fn remove(&mut self, key: &Key) {
        let Some(node) = self.by_pod.remove(key) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.remove(key);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// Follows what the API says of a pod. What is not said yet, because the write is still on
    /// its way, stays.
    pub fn note(&mut self, old: Option<&Pod>, new: &Arc<Pod>) {
        let of = |pod: &Pod| pod.wishes.as_ref().and_then(|w| w.nominated.clone());
        match (old.and_then(of), of(new)) {
            (_, Some(node)) => self.set(new.clone(), node),
            (Some(_), None) => self.remove(&new.meta.key),
            (None, None) => {
                if let Some(node) = self.by_pod.get(&new.meta.key).cloned() {
                    self.set(new.clone(), node);
                }
            }
        }
    }
}
