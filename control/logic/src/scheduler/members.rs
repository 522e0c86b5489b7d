//! Members: where the pods of one sort are, by node and by domain.
//!
//! Kept by the [`Snapshot`](super::snapshot) for each sort of pods; read by the plugins that count
//! pods around nodes. A sort with thousands of pods is counted by domain once, and then with each
//! pod that comes or goes, so that placing the next pod need not look at them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::domains::Domains;
use super::node_info::NodeIndex;

/// Counts are kept for so many labels; users choose them.
const MAX_TALLIES: usize = 8;
/// On fewer nodes than this, looking at each costs nothing.
const FEW_NODES: usize = 16;

/// How many pods of one sort there are somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub pods: u32,
    /// Those on their way out.
    pub leaving: u32,
}

/// The pods of one sort.
#[derive(Debug, Default)]
pub struct Members {
    nodes: BTreeMap<NodeIndex, Count>,
    tallies: Mutex<BTreeMap<Box<str>, Tally>>,
}

/// Counts by domain, true for as long as the domains are these.
#[derive(Debug)]
struct Tally {
    domains: Arc<Domains>,
    counts: Vec<Count>,
}

impl Clone for Members {
    /// What is counted by domain can be counted again.
    fn clone(&self) -> Self {
        Members { nodes: self.nodes.clone(), tallies: Mutex::default() }
    }
}

impl Members {
    /// How many are on each node that has some.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeIndex, Count)> + '_ {
        self.nodes.iter().map(|(node, count)| (*node, *count))
    }

    /// Calls `see` with how many are in each domain of a label, perhaps in several parts.
    pub fn each_domain(&self, label: &str, domains: &Arc<Domains>, mut see: impl FnMut(usize, Count)) {
        if self.nodes.len() <= FEW_NODES.max(domains.count() / FEW_NODES) {
            for (node, count) in &self.nodes {
                if let Some(domain) = domains.of(*node) {
                    see(domain, *count);
                }
            }
            return;
        }
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        if !tallies.get(label).is_some_and(|t| Arc::ptr_eq(&t.domains, domains)) {
            if tallies.len() >= MAX_TALLIES {
                tallies.clear();
            }
            tallies.insert(label.into(), self.tally(domains));
        }
        let counts = tallies.get(label).map_or(&[][..], |t| &t.counts);
        for (domain, count) in counts.iter().enumerate().filter(|(_, count)| count.pods > 0) {
            see(domain, *count);
        }
    }

    fn tally(&self, domains: &Arc<Domains>) -> Tally {
        let mut counts = vec![Count::default(); domains.count()];
        for (node, count) in &self.nodes {
            if let Some(domain) = domains.of(*node) {
                counts[domain].pods += count.pods;
                counts[domain].leaving += count.leaving;
            }
        }
        Tally { domains: domains.clone(), counts }
    }

    /// Changes how many are on a node.
    pub(super) fn change(&mut self, node: NodeIndex, change: impl Fn(&mut Count)) {
        let count = self.nodes.entry(node).or_default();
        change(count);
        if count.pods == 0 {
            self.nodes.remove(&node);
        }
        let tallies = self.tallies.get_mut().unwrap_or_else(PoisonError::into_inner);
        for tally in tallies.values_mut() {
            if let Some(domain) = tally.domains.of(node) {
                change(&mut tally.counts[domain]);
            }
        }
    }

    /// True if none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}
