//! NodeIPAM: gives each node a range of the cluster's addresses for its pods.
//!
//! One key for all nodes: two decisions on one state would give the same range twice.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Verb};
use proa_kinds::Part;

/// Addresses of one node: a /24.
const NODE_PREFIX: u8 = 24;

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    prefix: u8,
}

impl Range {
    /// Reads `10.42.0.0/16`.
    pub fn parse(text: &str) -> Option<Range> {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
        let size = 1u64.checked_shl(32 - u32::from(prefix).min(32)).filter(|_| prefix <= 32)?;
        let first = u32::from(address);
        Some(Range { first: first - u32::try_from(u64::from(first) % size).ok()?, prefix })
    }

    /// True if the address is in it.
    pub fn contains(self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip.to_canonical() else { return false };
        (self.first..=self.last()).contains(&u32::from(ip))
    }

    /// True if all of `other` is in it.
    pub fn covers(self, other: Range) -> bool {
        self.first <= other.first && other.last() <= self.last()
    }

    /// True if there are addresses in both.
    pub fn overlaps(self, other: Range) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }

    /// True if it is no larger than what one node gets.
    pub fn fits_one_node(self) -> bool {
        self.prefix >= NODE_PREFIX
    }

    fn last(self) -> u32 {
        let size = 1u64 << (32 - u32::from(self.prefix));
        u32::try_from(u64::from(self.first) + size - 1).unwrap_or(u32::MAX)
    }

    /// The ranges of nodes in this one, in order.
    fn of_nodes(self) -> impl Iterator<Item = Range> {
        let prefix = NODE_PREFIX.max(self.prefix);
        let count = 1u32 << (prefix - self.prefix);
        let size = 1u64 << (32 - u32::from(prefix));
        (0..count).filter_map(move |n| {
            let first = u32::try_from(u64::from(self.first) + u64::from(n) * size).ok()?;
            Some(Range { first, prefix })
        })
    }

    fn text(self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

/// Decides which nodes get which ranges.
pub fn reconcile(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    let Some(cluster) = Range::parse(&seen.settings.cluster_cidr) else { return plan };
    let mut without =
        seen.nodes.values().filter(|n| n.pod_cidr.is_empty() && n.meta.deleted.is_none()).peekable();
    if without.peek().is_none() {
        return plan;
    }
    let taken = seen.nodes.values().filter_map(|n| Range::parse(&n.pod_cidr)).collect();
    let mut free = free(cluster, taken);
    for node in without {
        let Some(range) = free.next() else {
            plan.problems.push(Problem {
                about: node.meta.reference(),
                warning: false,
                reason: "CIDRNotAvailable",
                message: format!("Node {} status is now: CIDRNotAvailable", node.meta.key.name),
            });
            continue;
        };
        plan.act(Verb::Patch {
            target: node.meta.reference(),
            part: Part::Main,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "spec": { "podCIDR": range.text(), "podCIDRs": [range.text()] } })),
        });
    }
    plan
}

/// The ranges of nodes that nobody has, in order. `taken` is walked beside them, once.
fn free(cluster: Range, mut taken: Vec<Range>) -> impl Iterator<Item = Range> {
    taken.sort_by_key(|range| range.first);
    let mut taken = taken.into_iter().peekable();
    // The end of all that begins before the end of the range looked at.
    let mut covered = None;
    cluster.of_nodes().filter(move |range| {
        while let Some(next) = taken.next_if(|t| t.first <= range.last()) {
            covered = covered.max(Some(next.last()));
        }
        covered.is_none_or(|end| end < range.first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::tests::{object, seen};

    #[track_caller]
    fn check(cluster: &str, nodes: &[&str], expected: &[&str]) {
        let nodes = nodes.iter().enumerate().map(|(i, range)| {
            object("v1", "Node", &format!("n{i}"), json!({ "spec": { "podCIDR": range } }))
        });
        let mut seen = seen(nodes.collect());
        seen.settings.cluster_cidr = cluster.into();
        let given: Vec<String> = reconcile(&seen)
            .actions
            .iter()
            .map(|action| match &action.verb {
                Verb::Patch { change: Change::Merge(patch), .. } => {
                    patch["spec"]["podCIDR"].as_str().unwrap().to_owned()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(given, expected);
    }

    #[test]
    fn ranges() {
        check("10.42.0.0/16", &["", ""], &["10.42.0.0/24", "10.42.1.0/24"]);
        check("10.42.0.0/16", &["10.42.0.0/24", "", "10.42.1.0/24", ""], &["10.42.2.0/24", "10.42.3.0/24"]);
        check("10.42.0.0/16", &["10.42.0.0/23", ""], &["10.42.2.0/24"]);
        check("10.42.0.0/16", &["10.42.7.0/24"], &[]);
        check("10.42.0.0/24", &["10.42.0.0/24", ""], &[]);
        check("10.42.0.0/28", &["", ""], &["10.42.0.0/28"]);
        check("", &[""], &[]);
    }

    #[test]
    fn whole_address_spaces() {
        assert_eq!(Range::parse("10.42.3.4/16").unwrap().text(), "10.42.0.0/16");
        assert_eq!(Range::parse("1.2.3.4/0").unwrap().of_nodes().next().unwrap().text(), "0.0.0.0/24");
        assert!(Range::parse("10.0.0.0/33").is_none() && Range::parse("x").is_none());
    }
}
