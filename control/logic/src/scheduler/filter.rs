//! Filters: which nodes a pod can run on, and the words for why not.
//!
//! Rules: <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>. The reasons
//! are those of the stock scheduler, because people search for them.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint};
use proa_api::selector::{Operator, Requirement};

use crate::controllers::facts::{Node, Pod};
use crate::controllers::node::tolerates;
use crate::controllers::pods::Load;

/// Why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// One text per thing that is missing.
    pub reasons: Vec<String>,
    /// True if the pods that are there stand in the way, and not the node itself.
    pub by_others: bool,
}

impl Misfit {
    fn of_node(reason: impl Into<String>) -> Self {
        Misfit { reasons: vec![reason.into()], by_others: false }
    }
}

/// True if the pod fits on the node beside `load`; else why not, by the first filter that says
/// so.
pub fn fits(pod: &Pod, node: &Node, load: &Load) -> Result<(), Misfit> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.unschedulable && !pod.tolerations.iter().any(|t| tolerates(t, &cordon)) {
        return Err(Misfit::of_node("node(s) were unschedulable"));
    }
    let repelled = node
        .taints
        .iter()
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .find(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint)));
    if let Some(taint) = repelled {
        let value = taint.value.as_deref().unwrap_or_default();
        return Err(Misfit::of_node(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)));
    }
    if !matches_affinity(pod, node) {
        return Err(Misfit::of_node("node(s) didn't match Pod's node affinity/selector"));
    }
    if pod.host_ports.iter().any(|p| load.host_ports.iter().any(|q| p.conflicts_with(q))) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Err(Misfit { reasons: vec![reason.to_owned()], by_others: true });
    }
    let missing = missing_resources(pod, node, load);
    if missing.is_empty() { Ok(()) } else { Err(Misfit { reasons: missing, by_others: true }) }
}

fn matches_affinity(pod: &Pod, node: &Node) -> bool {
    let Some(wishes) = &pod.wishes else { return true };
    if !wishes.node_selector.iter().all(|(k, v)| node.labels.get(k) == Some(v)) {
        return false;
    }
    let required = wishes
        .node_affinity
        .as_ref()
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| matches_term(t, node)))
}

/// True if a node meets all of a term; an empty term is met by none.
pub(crate) fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| meets(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && meets(r, Some(&node.meta.key.name)))
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return false,
    };
    let values = requirement.values.clone().unwrap_or_default();
    Requirement { key: requirement.key.clone(), operator, values }.matches(value)
}

fn missing_resources(pod: &Pod, node: &Node, load: &Load) -> Vec<String> {
    let (asked, used, all) = (&pod.requests, &load.used, &node.allocatable);
    let mut missing = Vec::new();
    if used.pods + 1 > all.pods {
        missing.push("Too many pods".to_owned());
    }
    let lacks = |asked: i64, used: i64, all: i64| asked > 0 && asked > all.saturating_sub(used);
    if lacks(asked.cpu_millis, used.cpu_millis, all.cpu_millis) {
        missing.push("Insufficient cpu".to_owned());
    }
    if lacks(asked.memory_bytes, used.memory_bytes, all.memory_bytes) {
        missing.push("Insufficient memory".to_owned());
    }
    if lacks(asked.ephemeral_bytes, used.ephemeral_bytes, all.ephemeral_bytes) {
        missing.push("Insufficient ephemeral-storage".to_owned());
    }
    for (name, amount) in &asked.extended {
        let of = |r: &crate::controllers::resources::Resources| r.extended.get(name).copied().unwrap_or(0);
        if lacks(*amount, of(used), of(all)) {
            missing.push(format!("Insufficient {name}"));
        }
    }
    missing
}
