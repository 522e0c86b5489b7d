//! Addresses that no name of elsewhere may lead to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::index::{Index, Ranges};

/// Addresses of the cluster and its nodes.
#[derive(Default, PartialEq)]
pub struct OwnAddresses {
    nodes: BTreeSet<IpAddr>,
    ranges: Vec<ipnet::IpNet>,
}

impl OwnAddresses {
    /// What the index knows of them.
    pub fn of(index: &Index) -> Self {
        let ranges = |r: &Ranges| vec![r.pods, r.services];
        OwnAddresses {
            nodes: index.nodes.values().flatten().copied().collect(),
            ranges: index.ranges.as_ref().map(ranges).unwrap_or_default(),
        }
    }

    /// Whether the address is a node's, a pod's or a Service's.
    pub fn has(&self, address: IpAddr) -> bool {
        self.nodes.contains(&address) || self.ranges.iter().any(|range| range.contains(&address))
    }
}
