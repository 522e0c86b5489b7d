//! NodeName: a pod that names its node can be on no other.
//!
//! A pod with `spec.nodeName` is bound and never comes here; the rule is kept because it has a
//! stock name that profiles turn off and on.

use crate::scheduler::framework::{Cycle, Misfit};
use crate::scheduler::node_info::NodeInfo;

const REASON: &str = "node(s) didn't match the requested node name";

/// True if the pod names this node or none.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Misfit> {
    match &cycle.pod.node {
        Some(name) if name != node.name() => Err(Misfit::unresolvable(REASON)),
        _ => Ok(()),
    }
}
