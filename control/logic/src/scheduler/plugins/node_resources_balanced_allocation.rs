//! NodeResourcesBalancedAllocation: a node whose resources are used evenly is better.

use super::resource_score::uses;
use crate::scheduler::framework::{Cycle, MAX_SCORE};
use crate::scheduler::node_info::NodeInfo;

/// False for a pod that asks for nothing: it would always go where things are even already.
pub fn pre_score(cycle: &Cycle<'_>) -> bool {
    let asked = &cycle.pod.requests;
    let asks_for = |name: &str| match name {
        "cpu" => asked.cpu_millis > 0,
        "memory" => asked.memory_bytes > 0,
        "ephemeral-storage" => asked.ephemeral_bytes > 0,
        name => asked.extended.get(name).is_some_and(|amount| *amount > 0),
    };
    cycle.profile.args.balanced.resources.iter().any(|r| asks_for(&r.name))
}

/// The less the shares in use differ, the higher: their standard deviation taken from 1.
#[expect(clippy::cast_precision_loss, reason = "shares need no more precision than an f64 has")]
#[expect(clippy::cast_possible_truncation, reason = "the score is between 0 and 100")]
pub fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let resources = &cycle.profile.args.balanced.resources;
    let shares = || uses(resources, cycle, node, true).map(|u| (u.used as f64 / u.all as f64).min(1.0));
    let count = shares().count();
    let deviation = if count < 2 {
        0.0
    } else if count == 2 {
        let (lowest, highest) =
            shares().fold((1.0_f64, 0.0_f64), |(l, h), share| (l.min(share), h.max(share)));
        (highest - lowest) / 2.0
    } else {
        let mean = shares().sum::<f64>() / count as f64;
        let squares: f64 = shares().map(|share| (share - mean) * (share - mean)).sum();
        (squares / count as f64).sqrt()
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}
