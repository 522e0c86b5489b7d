//! NodeResourcesBalancedAllocation: a node whose CPU and memory are used evenly is better.

use crate::scheduler::framework::{Cycle, MAX_SCORE};
use crate::scheduler::snapshot::NodeInfo;

/// The less the shares of CPU and memory in use would differ, the higher.
pub fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let (asked, all) = (&cycle.pod.requests, &node.node.allocatable);
    let used = |used: i64, all: i64| {
        if all <= 0 { MAX_SCORE } else { (used.saturating_mul(MAX_SCORE) / all).min(MAX_SCORE) }
    };
    let cpu = used(node.requested.cpu_millis + asked.cpu_millis, all.cpu_millis);
    let memory = used(node.requested.memory_bytes + asked.memory_bytes, all.memory_bytes);
    MAX_SCORE - (cpu - memory).abs() / 2
}
