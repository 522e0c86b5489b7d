//! TaintToleration: taints keep away the pods that do not tolerate them; `PreferNoSchedule`
//! taints only make a node worse.
//!
//! Rules: <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use k8s_openapi::api::core::v1::Taint;
use proa_api::placement::tolerates;

use crate::scheduler::framework::{Cycle, Event, Misfit, Reason};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::Pod;

/// True if the pod tolerates all taints of the node that keep pods away.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Misfit> {
    let repels = |taint: &Taint| is_hard(taint) && !tolerated(cycle.pod, taint);
    match node.node.taints.iter().position(repels) {
        Some(place) => Err(Misfit { unresolvable: true, reason: Reason::Taint(place) }),
        None => Ok(()),
    }
}

/// False if no node has a taint that scores look at.
pub fn pre_score(nodes: &[&NodeInfo]) -> bool {
    nodes.iter().any(|n| n.node.taints.iter().any(|t| t.effect == "PreferNoSchedule"))
}

/// How many taints there are that the pod had better avoid.
pub fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let soft = node.node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.map(|taint| i64::from(!tolerated(cycle.pod, taint))).sum()
}

/// True if a node's taints let the pod pass now, or the pod tolerates more than it did.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    let passes = |taints: &[Taint]| !taints.iter().any(|t| is_hard(t) && !tolerated(pod, t));
    match event {
        Event::NodeAdded(node) => passes(&node.taints),
        Event::NodeChanged { old, new } => old.taints != new.taints && passes(&new.taints),
        Event::Itself { old, new } => old.tolerations != new.tolerations,
        _ => false,
    }
}

fn is_hard(taint: &Taint) -> bool {
    taint.effect == "NoSchedule" || taint.effect == "NoExecute"
}

fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    pod.tolerations.iter().any(|t| tolerates(t, taint))
}
