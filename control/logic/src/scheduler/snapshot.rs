//! Snapshot: the nodes, and on each the pods that are bound to it or assumed to be.
//!
//! Kept by the [`Scheduler`](super::Scheduler), one change at a time, and never made anew for a
//! pod; read by every plugin. Nodes have a place ([`NodeIndex`]) that they keep while they are
//! there. [`Snapshot::nodes`] gives them in the order in which they are looked at: a node of each
//! zone in turn, so that those who look at the first few see all zones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proa_api::selector::Labels;

use super::domains::{DomainCache, Domains};
use super::members::{Count, Members};
use super::node_info::{NodeIndex, NodeInfo};
use crate::world::facts::{Key, Node, Pod, PodTerms};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Pods with equal labels in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelGroup {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Arc<Labels>,
}

/// Pods that say the same of the pods near them, in one namespace and with equal labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TermGroup {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// What they say.
    pub terms: Arc<PodTerms>,
    /// Their labels.
    pub labels: Arc<Labels>,
}

/// All nodes and what is on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    slots: Vec<Option<NodeInfo>>,
    free: Vec<NodeIndex>,
    by_name: BTreeMap<Arc<str>, NodeIndex>,
    order: Vec<NodeIndex>,
    /// True if the order is not that of the nodes that are there.
    disordered: bool,
    placed: BTreeMap<Key, (Arc<Pod>, NodeIndex)>,
    labels: BTreeMap<LabelGroup, Members>,
    terms: BTreeMap<TermGroup, Members>,
    /// How many nodes have each image.
    images: BTreeMap<Box<str>, i64>,
    /// Nodes that have found images without anything for their architecture.
    foreign: BTreeSet<NodeIndex>,
    domains: DomainCache,
}

impl Snapshot {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True without nodes.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// One more than the highest place of a node: the length of a table by [`NodeIndex`].
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The node at a place.
    ///
    /// # Panics
    /// If there is none: places are only kept within one scheduling cycle.
    pub fn node(&self, index: NodeIndex) -> &NodeInfo {
        self.slots[index].as_ref().expect("a node keeps its place while a pod is being placed")
    }

    /// The node of this name.
    pub fn by_name(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|index| self.node(*index))
    }

    /// All nodes, in the order in which they are looked at.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> {
        debug_assert!(!self.disordered, "put in order before pods are placed");
        self.order.iter().map(|index| self.node(*index))
    }

    /// The node at this place of the order.
    pub fn nth(&self, place: usize) -> &NodeInfo {
        self.node(self.order[place])
    }

    /// The pods on nodes by what their labels are: for each sort, how many are on each node. A
    /// plugin that counts pods by selector looks here, once per sort and not once per pod.
    pub fn label_groups(&self) -> impl Iterator<Item = (&LabelGroup, &Members)> {
        self.labels.iter()
    }

    /// The same for the pods of one namespace.
    pub fn label_groups_of<'a>(
        &'a self,
        namespace: &Arc<str>,
    ) -> impl Iterator<Item = (&'a LabelGroup, &'a Members)> + use<'a> {
        let namespace = namespace.clone();
        let first = LabelGroup { namespace: namespace.clone(), labels: Arc::default() };
        self.labels.range(first..).take_while(move |(group, _)| group.namespace == namespace)
    }

    /// The same for pods that have a say on the pods near them.
    pub fn term_groups(&self) -> impl Iterator<Item = (&TermGroup, &Members)> {
        self.terms.iter()
    }

    /// Which nodes share the value of a label.
    pub fn domains(&self, label: &str) -> Arc<Domains> {
        self.domains.get(label, || Domains::new(label, self.slots.iter().flatten(), self.slots.len()))
    }

    /// How many nodes have an image of this full name.
    pub fn nodes_with_image(&self, name: &str) -> i64 {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// The nodes that have found images without anything for their architecture.
    pub fn nodes_with_foreign_images(&self) -> impl Iterator<Item = &NodeInfo> {
        self.foreign.iter().map(|index| self.node(*index))
    }

    /// The pod of this name, if it is on a node.
    pub fn pod(&self, key: &Key) -> Option<&Arc<Pod>> {
        self.placed.get(key).map(|(pod, _)| pod)
    }

    /// Puts a node in, or what it has become. The caller places the pods of a new node.
    pub(super) fn set_node(&mut self, node: Arc<Node>) {
        if let Some(index) = self.by_name.get(&node.meta.key.name).copied() {
            self.note_foreign(index, &node);
            let info = self.slots[index].as_mut().expect("a name leads to a node");
            self.disordered |= zone_of(&info.node) != zone_of(&node);
            if info.node.labels != node.labels {
                self.domains.clear();
            }
            let old = std::mem::replace(&mut info.node, node.clone());
            if old.images != node.images {
                self.count_images(&old, -1);
                self.count_images(&node, 1);
            }
            return;
        }
        let index = self.free.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.by_name.insert(node.meta.key.name.clone(), index);
        self.count_images(&node, 1);
        self.note_foreign(index, &node);
        self.domains.clear();
        self.slots[index] = Some(NodeInfo::new(index, node));
        self.disordered = true;
    }

    fn note_foreign(&mut self, index: NodeIndex, node: &Node) {
        if node.foreign_images.is_empty() {
            self.foreign.remove(&index);
        } else {
            self.foreign.insert(index);
        }
    }

    fn count_images(&mut self, node: &Node, amount: i64) {
        for name in node.images.keys() {
            let count = self.images.entry(name.clone()).or_default();
            *count += amount;
            if *count == 0 {
                self.images.remove(name);
            }
        }
    }

    /// Takes a node out, and the pods on it.
    pub(super) fn remove_node(&mut self, name: &str) {
        let Some(index) = self.by_name.get(name).copied() else { return };
        for pod in self.node(index).pods.clone() {
            self.remove(&pod.meta.key);
        }
        let node = self.node(index).node.clone();
        self.count_images(&node, -1);
        self.domains.clear();
        self.by_name.remove(name);
        self.foreign.remove(&index);
        self.slots[index] = None;
        self.free.push(index);
        self.disordered = true;
    }

    /// Says that a pod is on a node. Where it was before, it is no longer; on a node that is not
    /// there it is nowhere.
    pub(super) fn place(&mut self, pod: Arc<Pod>, node: &str) {
        let key = pod.meta.key.clone();
        let index = self.by_name.get(node).copied();
        if let Some((old, at)) = self.placed.get(&key) {
            if Some(*at) == index && Arc::ptr_eq(old, &pod) {
                return;
            }
            self.remove(&key);
        }
        let Some(index) = index else { return };
        self.count(&pod, index, |count, leaving| {
            count.pods += 1;
            count.leaving += u32::from(leaving);
        });
        self.slots[index].as_mut().expect("a name leads to a node").add(pod.clone());
        self.placed.insert(key, (pod, index));
    }

    /// Says that a pod is on no node.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Pod>> {
        let (pod, index) = self.placed.remove(key)?;
        self.slots[index].as_mut().expect("pods are on nodes that are there").remove(key);
        self.count(&pod, index, |count, leaving| {
            count.pods -= 1;
            count.leaving -= u32::from(leaving);
        });
        Some(pod)
    }

    /// Brings the nodes in order after some have come or gone.
    pub(super) fn arrange(&mut self) {
        if !std::mem::take(&mut self.disordered) {
            return;
        }
        let mut zones: BTreeMap<(&str, &str), Vec<NodeIndex>> = BTreeMap::new();
        for index in self.by_name.values() {
            zones.entry(zone_of(&self.node(*index).node)).or_default().push(*index);
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest).flat_map(|turn| zones.values().filter_map(move |zone| zone.get(turn)));
        self.order = turns.copied().collect();
    }

    fn count(&mut self, pod: &Pod, index: NodeIndex, change: impl Fn(&mut Count, bool)) {
        let leaving = pod.meta.deleted.is_some();
        let namespace = &pod.meta.key.namespace;
        let group = LabelGroup { namespace: namespace.clone(), labels: pod.labels.clone() };
        recount(&mut self.labels, group, index, |count| change(count, leaving));
        if let Some(terms) = &pod.terms {
            let (namespace, labels) = (namespace.clone(), pod.labels.clone());
            let group = TermGroup { namespace, terms: terms.clone(), labels };
            recount(&mut self.terms, group, index, |count| change(count, leaving));
        }
    }
}

fn recount<G: Ord>(
    groups: &mut BTreeMap<G, Members>,
    group: G,
    index: NodeIndex,
    change: impl Fn(&mut Count),
) {
    match groups.get_mut(&group) {
        Some(members) => {
            members.change(index, change);
            if members.is_empty() {
                groups.remove(&group);
            }
        }
        None => groups.entry(group).or_default().change(index, change),
    }
}

fn zone_of(node: &Node) -> (&str, &str) {
    let label = |key: &str| node.labels.get(key).map_or("", String::as_str);
    (label(REGION), label(ZONE))
}
