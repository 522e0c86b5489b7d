//! NodeUnschedulable: nodes that `kubectl cordon` has closed take only pods that tolerate it.

use k8s_openapi::api::core::v1::Toleration;

use crate::scheduler::framework::{Cycle, Event, Misfit};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::Pod;

const TAINT: &str = "node.kubernetes.io/unschedulable";
const REASON: &str = "node(s) were unschedulable";

/// True if the node is open, or the pod does not mind.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Misfit> {
    if node.node.unschedulable && !cycle.pod.tolerations.iter().any(tolerates_cordon) {
        return Err(Misfit::unresolvable(REASON));
    }
    Ok(())
}

/// True if a node has been opened, or the pod tolerates more than it did.
pub fn may_fit_after(_pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(node) => !node.unschedulable,
        Event::NodeChanged { old, new } => old.unschedulable && !new.unschedulable,
        Event::Itself { old, new } => old.tolerations != new.tolerations,
        _ => false,
    }
}

fn tolerates_cordon(toleration: &Toleration) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == "NoSchedule") {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => key.is_empty() || key == TAINT,
        "Equal" | "" => key == TAINT && toleration.value.as_deref().unwrap_or_default().is_empty(),
        _ => false,
    }
}
