//! NodePorts: a port of the node is given to one pod.

use crate::scheduler::framework::{Cycle, Event, Misfit, PreFilter};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::Pod;

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

/// Nothing to say of pods that take no ports.
pub fn pre_filter(cycle: &Cycle<'_>) -> PreFilter {
    if cycle.pod.host_ports.is_empty() { PreFilter::Skip } else { PreFilter::Filter }
}

/// True if nobody on the node has the ports.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Misfit> {
    let taken = |p| node.host_ports.iter().any(|q| q.conflicts_with(p));
    if cycle.pod.host_ports.iter().any(taken) { Err(Misfit::unschedulable(REASON)) } else { Ok(()) }
}

/// True if a pod that held one of the ports has gone, or there is a new node.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::PodGone(gone) => {
            gone.host_ports.iter().any(|p| pod.host_ports.iter().any(|q| p.conflicts_with(q)))
        }
        _ => false,
    }
}
