//! Scores: which of the nodes that a pod fits on is the best.
//!
//! The stock scheduler's default scores with their weights: the least used node, the one whose
//! CPU and memory are used evenly, preferred affinity, and no `PreferNoSchedule` taints.

use crate::controllers::facts::{Node, Pod};
use crate::controllers::node::tolerates;
use crate::controllers::pods::{Load, weighed};

use super::filter::matches_term;

const MAX: i64 = 100;
const AFFINITY_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;

/// The index of the best candidate; the first of equal ones. `None` without candidates.
pub fn best(pod: &Pod, candidates: &[(&Node, &Load)]) -> Option<usize> {
    let preference: Vec<i64> = candidates.iter().map(|(node, _)| preferred(pod, node)).collect();
    let aversion: Vec<i64> = candidates.iter().map(|(node, _)| averse(pod, node)).collect();
    let most_preferred = preference.iter().copied().max().unwrap_or(0).max(1);
    let most_averse = aversion.iter().copied().max().unwrap_or(0).max(1);
    let score = |index: usize| {
        let (node, load) = candidates[index];
        least_used(pod, node, load)
            + balanced(pod, node, load)
            + AFFINITY_WEIGHT * preference[index] * MAX / most_preferred
            + TAINT_WEIGHT * (MAX - aversion[index] * MAX / most_averse)
    };
    (0..candidates.len()).max_by_key(|index| (score(*index), std::cmp::Reverse(*index)))
}

fn least_used(pod: &Pod, node: &Node, load: &Load) -> i64 {
    let (cpu, memory) = weighed(&pod.requests);
    let free = |used: i64, all: i64| if all <= 0 || used > all { 0 } else { percent(all - used, all) };
    let cpu = free(load.weighed_cpu_millis + cpu, node.allocatable.cpu_millis);
    let memory = free(load.weighed_memory_bytes + memory, node.allocatable.memory_bytes);
    (cpu + memory) / 2
}

fn balanced(pod: &Pod, node: &Node, load: &Load) -> i64 {
    let used = |used: i64, all: i64| if all <= 0 { MAX } else { percent(used, all).min(MAX) };
    let cpu = used(load.used.cpu_millis + pod.requests.cpu_millis, node.allocatable.cpu_millis);
    let memory = used(load.used.memory_bytes + pod.requests.memory_bytes, node.allocatable.memory_bytes);
    MAX - (cpu - memory).abs() / 2
}

fn percent(part: i64, whole: i64) -> i64 {
    let scaled = i128::from(part) * i128::from(MAX) / i128::from(whole);
    i64::try_from(scaled).unwrap_or(MAX)
}

fn preferred(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.wishes.as_ref().and_then(|w| w.node_affinity.as_ref());
    let terms = affinity
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    terms.iter().filter(|t| matches_term(&t.preference, node)).map(|t| i64::from(t.weight)).sum()
}

fn averse(pod: &Pod, node: &Node) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    let count = soft.filter(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint))).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}
