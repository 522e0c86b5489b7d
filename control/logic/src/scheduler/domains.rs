//! Domains: which nodes share the value of a label, as numbers.
//!
//! Asked for by [`InterPodAffinity`](super::plugins::inter_pod_affinity) and
//! [`PodTopologySpread`](super::plugins::pod_topology_spread), which count pods per domain and look
//! the count of a node's domain up for every node; kept with the [`Snapshot`](super::snapshot) and
//! made anew only when nodes come, go or change their labels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::node_info::{NodeIndex, NodeInfo};

/// Nodes without the label.
const NONE: u32 = u32::MAX;
/// Labels are kept this many of; users choose them, so there is a bound.
const MAX_LABELS: usize = 64;

/// The domains of one label.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Domains {
    of: Vec<u32>,
    count: usize,
    /// True if every node has the label.
    total: bool,
}

impl Domains {
    /// The domains that a label divides nodes into; `slots` is one more than the highest place.
    pub fn new<'a>(label: &str, nodes: impl Iterator<Item = &'a NodeInfo>, slots: usize) -> Self {
        let mut of = vec![NONE; slots];
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut total = true;
        for info in nodes {
            let Some(value) = info.node.labels.get(label) else {
                total = false;
                continue;
            };
            let next = u32::try_from(numbers.len()).unwrap_or(NONE);
            of[info.index] = *numbers.entry(value).or_insert(next);
        }
        Domains { of, count: numbers.len(), total }
    }

    /// The number of a node's domain; `None` if it has not the label.
    pub fn of(&self, node: NodeIndex) -> Option<usize> {
        let domain = self.of.get(node).copied().filter(|domain| *domain != NONE)?;
        usize::try_from(domain).ok()
    }

    /// True if every node is in one.
    pub fn is_total(&self) -> bool {
        self.total
    }

    /// How many there are; their numbers are below.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// The domains of the labels that were asked for.
#[derive(Debug, Default)]
pub struct DomainCache(Mutex<BTreeMap<Box<str>, Arc<Domains>>>);

impl Clone for DomainCache {
    /// What is kept can be made again.
    fn clone(&self) -> Self {
        DomainCache::default()
    }
}

impl DomainCache {
    /// The domains of a label, made with `make` if they are not there.
    pub fn get(&self, label: &str, make: impl FnOnce() -> Domains) -> Arc<Domains> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(domains) = kept.get(label) {
            return domains.clone();
        }
        if kept.len() >= MAX_LABELS {
            kept.clear();
        }
        let domains = Arc::new(make());
        kept.insert(label.into(), domains.clone());
        domains
    }

    /// Forgets all, because nodes or their labels have changed.
    pub fn clear(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
