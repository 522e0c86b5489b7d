//! The pods, by name, by node, by label, and those that nobody owns or no node has.
//!
//! Kept by [`super::Observed`]; read by nearly every controller and by the scheduler. Each index
//! follows a pod's changes, so that no rule ever has to look at all pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proa_api::resources::{HostPort, Resources};
use proa_api::selector::Labels;

use super::facts::{Key, Pod, PodTerms};

/// All pods and the ways to find them.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    by_key: BTreeMap<Key, Arc<Pod>>,
    loads: BTreeMap<Arc<str>, Load>,
    by_label: BTreeMap<(Arc<str>, String, String), BTreeSet<Arc<str>>>,
    unowned: BTreeSet<Key>,
    unbound: BTreeSet<Key>,
    /// Replicas carry equal labels; each distinct set is kept once.
    labels: Shared<Labels>,
    /// The same for what they say of the pods beside them.
    terms: Shared<PodTerms>,
}

/// Equal values kept once, with how many pods have each.
#[derive(Clone, Debug)]
struct Shared<T>(BTreeMap<Arc<T>, usize>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(BTreeMap::new())
    }
}

impl<T: Ord> Shared<T> {
    /// The value that stands for this one and its equals.
    fn take(&mut self, value: &Arc<T>) -> Arc<T> {
        if let Some((shared, _)) = self.0.get_key_value(value) {
            let shared = shared.clone();
            *self.0.entry(shared.clone()).or_default() += 1;
            return shared;
        }
        self.0.insert(value.clone(), 1);
        value.clone()
    }

    /// One pod fewer has it.
    fn give_back(&mut self, value: &Arc<T>) {
        if let Some(count) = self.0.get_mut(value) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(value);
            }
        }
    }
}

/// What the pods of one node, taken together, use of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// All pods bound to the node, also those that have ended.
    pub pods: BTreeSet<Key>,
    /// What those that have not ended ask for.
    pub used: Resources,
    /// The node's ports that they take.
    pub host_ports: Vec<HostPort>,
}

impl Load {
    /// Counts a pod in.
    pub fn add(&mut self, requests: &Resources, host_ports: &[HostPort]) {
        self.used.add(requests);
        self.host_ports.extend_from_slice(host_ports);
    }

    fn subtract(&mut self, pod: &Pod) {
        self.used.subtract(&pod.requests);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }
}

impl Pods {
    /// The pod of this name.
    pub fn get(&self, key: &Key) -> Option<&Arc<Pod>> {
        self.by_key.get(key)
    }

    /// All pods by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_key.values()
    }

    /// The pods of a namespace by name.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        let range = self.by_key.range(Key::new(namespace, "")..);
        range.take_while(move |(key, _)| *key.namespace == *namespace).map(|(_, pod)| pod)
    }

    /// What the pods of a node use; nothing for a node without pods.
    pub fn load(&self, node: &str) -> Option<&Load> {
        self.loads.get(node)
    }

    /// The nodes that pods are bound to, whether they exist or not.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.loads.keys()
    }

    /// The pods bound to a node.
    pub fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.loads.get(node).into_iter().flat_map(|l| &l.pods).filter_map(|k| self.by_key.get(k))
    }

    /// The pods in a namespace that no controller owns.
    pub fn unowned<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        let range = self.unowned.range(Key::new(namespace, "")..);
        range.take_while(move |k| *k.namespace == *namespace).filter_map(|k| self.by_key.get(k))
    }

    /// The pods that are not bound to a node.
    pub fn unbound(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.unbound.iter().filter_map(|k| self.by_key.get(k))
    }

    /// The pods in a namespace that carry all of these labels, in the order of their names.
    pub fn labelled(&self, namespace: &str, labels: &Labels) -> Vec<&Arc<Pod>> {
        let namespace: Arc<str> = namespace.into();
        let mut rarest: Option<&BTreeSet<Arc<str>>> = None;
        for (key, value) in labels {
            let Some(names) = self.by_label.get(&(namespace.clone(), key.clone(), value.clone())) else {
                return Vec::new();
            };
            if rarest.is_none_or(|r| names.len() < r.len()) {
                rarest = Some(names);
            }
        }
        let Some(names) = rarest else { return Vec::new() };
        names
            .iter()
            .filter_map(|name| self.by_key.get(&Key { namespace: namespace.clone(), name: name.clone() }))
            .filter(|pod| labels.iter().all(|(k, v)| pod.labels.get(k) == Some(v)))
            .collect()
    }

    /// Puts a pod in and gives what was in its place.
    pub(super) fn insert(&mut self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let key = pod.meta.key.clone();
        let old = self.remove(&key);
        let pod = self.share(pod);
        for (label, value) in pod.labels.iter() {
            let place = (key.namespace.clone(), label.clone(), value.clone());
            self.by_label.entry(place).or_default().insert(key.name.clone());
        }
        if pod.meta.controller().is_none() {
            self.unowned.insert(key.clone());
        }
        match &pod.node {
            Some(node) => {
                let load = self.loads.entry(node.clone()).or_default();
                load.pods.insert(key.clone());
                if !pod.is_finished() {
                    load.add(&pod.requests, &pod.host_ports);
                }
            }
            None => {
                self.unbound.insert(key.clone());
            }
        }
        self.by_key.insert(key, pod);
        old
    }

    /// Takes a pod out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Pod>> {
        let pod = self.by_key.remove(key)?;
        for (label, value) in pod.labels.iter() {
            let place = (key.namespace.clone(), label.clone(), value.clone());
            if let Some(names) = self.by_label.get_mut(&place) {
                names.remove(&key.name);
                if names.is_empty() {
                    self.by_label.remove(&place);
                }
            }
        }
        self.unowned.remove(key);
        self.unbound.remove(key);
        if let Some(load) = pod.node.as_ref().and_then(|n| self.loads.get_mut(n)) {
            load.pods.remove(key);
            if !pod.is_finished() {
                load.subtract(&pod);
            }
            if load.pods.is_empty() {
                self.loads.remove(pod.node.as_ref().expect("the load was found by it"));
            }
        }
        self.labels.give_back(&pod.labels);
        if let Some(terms) = &pod.terms {
            self.terms.give_back(terms);
        }
        Some(pod)
    }

    fn share(&mut self, pod: Arc<Pod>) -> Arc<Pod> {
        let labels = self.labels.take(&pod.labels);
        let terms = pod.terms.as_ref().map(|terms| self.terms.take(terms));
        if Arc::ptr_eq(&labels, &pod.labels) && terms.is_none() {
            return pod;
        }
        let mut pod = Arc::unwrap_or_clone(pod);
        (pod.labels, pod.terms) = (labels, terms);
        Arc::new(pod)
    }
}
