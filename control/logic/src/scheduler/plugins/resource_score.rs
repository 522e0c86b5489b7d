//! How much of each resource a node would have in use with a pod: what NodeResourcesFit and
//! NodeResourcesBalancedAllocation score by.

use crate::scheduler::args::ResourceWeight;
use crate::scheduler::framework::Cycle;
use crate::scheduler::node_info::NodeInfo;

/// What a node has of a resource, and what of it would be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// What is in use, the pod included.
    pub used: i64,
    /// All that pods can use; never 0.
    pub all: i64,
    /// How much the resource counts.
    pub weight: i64,
}

/// The use of each of these resources that the node has. With `stated` only what pods ask for
/// counts; else pods that state nothing count as asking for something. Resources with names of their
/// own count only for pods that ask for them.
pub fn uses<'a>(
    resources: &'a [ResourceWeight],
    cycle: &'a Cycle<'_>,
    node: &'a NodeInfo,
    stated: bool,
) -> impl Iterator<Item = Use> + 'a {
    let (asked, there, all) = (&cycle.pod.requests, &node.requested, &node.node.allocatable);
    let weighed = &cycle.pod.weighed;
    resources.iter().filter_map(move |resource| {
        let (used, all) = match resource.name.as_str() {
            "cpu" if stated => (there.cpu_millis + asked.cpu_millis, all.cpu_millis),
            "cpu" => (node.weighed_cpu_millis + weighed.cpu_millis, all.cpu_millis),
            "memory" if stated => (there.memory_bytes + asked.memory_bytes, all.memory_bytes),
            "memory" => (node.weighed_memory_bytes + weighed.memory_bytes, all.memory_bytes),
            "ephemeral-storage" => (there.ephemeral_bytes + asked.ephemeral_bytes, all.ephemeral_bytes),
            name => {
                let wanted = asked.extended.get(name).copied().filter(|amount| *amount > 0)?;
                let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
                (of(&there.extended) + wanted, of(&all.extended))
            }
        };
        (all > 0).then_some(Use { used, all, weight: resource.weight })
    })
}
