//! NodeResourcesFit: what the pods of a node ask for, taken together, is no more than it offers.
//!
//! Rules: <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>. It
//! scores too: by default the node with the most room left is the best.

use super::resource_score::uses;
use crate::scheduler::args::Strategy;
use crate::scheduler::framework::{Cycle, Event, MAX_SCORE, Misfit, Reason};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::{Node, Pod};
use proa_api::resources::Resources;

/// True if the node has room for the pod.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Misfit> {
    let asked = &cycle.pod.requests;
    let missing = missing(cycle, asked, &node.requested, &node.node.allocatable);
    if missing == 0 {
        return Ok(());
    }
    // What a pod asks for beyond all that the node has, no pod that leaves can give it.
    let empty = Resources::default();
    let never = self::missing(cycle, asked, &empty, &node.node.allocatable);
    let unresolvable = never & !Reason::TOO_MANY_PODS != 0;
    Err(Misfit { unresolvable, reason: Reason::Insufficient(missing) })
}

fn missing(cycle: &Cycle<'_>, asked: &Resources, used: &Resources, all: &Resources) -> u64 {
    let lacks = |asked: i64, used: i64, all: i64| asked > 0 && asked > all.saturating_sub(used);
    let bit = |bit: u64, lacks: bool| if lacks { bit } else { 0 };
    let mut missing = bit(Reason::TOO_MANY_PODS, used.pods + 1 > all.pods)
        | bit(Reason::CPU, lacks(asked.cpu_millis, used.cpu_millis, all.cpu_millis))
        | bit(Reason::MEMORY, lacks(asked.memory_bytes, used.memory_bytes, all.memory_bytes))
        | bit(
            Reason::EPHEMERAL_STORAGE,
            lacks(asked.ephemeral_bytes, used.ephemeral_bytes, all.ephemeral_bytes),
        );
    for (place, (name, amount)) in asked.extended.iter().enumerate().take(60) {
        let of = |r: &Resources| r.extended.get(name).copied().unwrap_or(0);
        let lacks = lacks(*amount, of(used), of(all)) && !is_ignored(cycle, name);
        missing |= bit(1 << (Reason::EXTENDED as usize + place), lacks);
    }
    missing
}

fn is_ignored(cycle: &Cycle<'_>, name: &str) -> bool {
    let args = &cycle.profile.args.fit;
    let group = name.split_once('/').map_or("", |(group, _)| group);
    args.ignored_resources.iter().any(|r| r == name)
        || args.ignored_resource_groups.iter().any(|g| g == group)
}

/// How good the node's use would be, by the profile's strategy.
pub fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let args = &cycle.profile.args.fit;
    let (mut sum, mut weights) = (0, 0);
    for use_ in uses(&args.resources, cycle, node, false) {
        let score = match &args.strategy {
            Strategy::LeastAllocated if use_.used > use_.all => 0,
            Strategy::LeastAllocated => percent(use_.all - use_.used, use_.all),
            Strategy::MostAllocated => percent(use_.used.min(use_.all), use_.all),
            Strategy::RequestedToCapacityRatio(points) => {
                let used = if use_.used > use_.all { 100 } else { percent(use_.used, use_.all) };
                // Shapes score up to 10.
                let score = on_line(points, used) * (MAX_SCORE / 10);
                if score == 0 {
                    continue;
                }
                score
            }
        };
        sum += score * use_.weight;
        weights += use_.weight;
    }
    match &args.strategy {
        _ if weights == 0 => 0,
        // Rounded, as in the stock scheduler; the others are cut off.
        Strategy::RequestedToCapacityRatio(_) => (2 * sum + weights) / (2 * weights),
        _ => sum / weights,
    }
}

fn percent(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(MAX_SCORE) / i128::from(whole)).unwrap_or(MAX_SCORE)
}

/// The height of the line through these points, which rise from left to right.
fn on_line(points: &[(i64, i64)], at: i64) -> i64 {
    let Some(right) = points.iter().position(|(x, _)| at <= *x) else {
        return points.last().map_or(0, |(_, y)| *y);
    };
    let (x1, y1) = points[right];
    let Some((x0, y0)) = right.checked_sub(1).map(|left| points[left]) else { return y1 };
    y0 + (y1 - y0) * (at - x0) / (x1 - x0)
}

/// True if a node has more room than before that the pod could use.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(node) => could_hold(pod, node),
        Event::NodeChanged { old, new } => old.allocatable != new.allocatable && could_hold(pod, new),
        // Whoever leaves gives back a place for a pod, if nothing else.
        Event::PodGone(_) => true,
        Event::PodChanged { old, new } => old.requests != new.requests,
        Event::Itself { old, new } => old.requests != new.requests,
        _ => false,
    }
}

fn could_hold(pod: &Pod, node: &Node) -> bool {
    let (asked, all) = (&pod.requests, &node.allocatable);
    asked.cpu_millis <= all.cpu_millis
        && asked.memory_bytes <= all.memory_bytes
        && asked.ephemeral_bytes <= all.ephemeral_bytes
}
