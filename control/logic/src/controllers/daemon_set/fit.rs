//! Which nodes are fit for a DaemonSet's pods, and how a pod is tied to one of them.

use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use proa_api::placement::{is_wanted, tolerates};

use crate::world::facts::Node;

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A pod is to run here.
    Runs,
    /// No pod is sent here, but one that is here stays.
    Stays,
    /// No pod may be here.
    Never,
}

/// Judges a node.
pub(super) fn judge(spec: &DaemonSetSpec, node: &Node) -> Fit {
    let empty = PodSpec::default();
    let pod = spec.template.spec.as_ref().unwrap_or(&empty);
    let named = pod.node_name.as_deref().filter(|n| !n.is_empty());
    if named.is_some_and(|name| *name != *node.meta.key.name)
        || !is_wanted(pod, &node.labels, &node.meta.key.name)
    {
        return Fit::Never;
    }
    let tolerations = tolerations(Some(pod));
    let repels = |taint: &&Taint| !tolerations.iter().any(|t| tolerates(t, taint));
    let mut effects = node.taints.iter().filter(repels).map(|t| t.effect.as_str());
    match effects.clone().any(|e| e == "NoExecute") {
        true => Fit::Never,
        false if effects.any(|e| e == "NoSchedule") => Fit::Stays,
        false => Fit::Runs,
    }
}

/// The template's tolerations, with those that all daemons have: they stand what comes and goes
/// with a node's health.
pub(super) fn tolerations(pod: Option<&PodSpec>) -> Vec<Toleration> {
    let mut all = pod.and_then(|p| p.tolerations.clone()).unwrap_or_default();
    let mut standard = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if pod.is_some_and(|p| p.host_network == Some(true)) {
        standard.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    for (key, effect) in standard {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() } == toleration;
        match all.iter_mut().find(|t| same(t)) {
            Some(own) => own.toleration_seconds = None,
            None => all.push(toleration),
        }
    }
    all
}

/// Ties a pod to a node, in the place of what the template says of nodes.
pub(super) fn pin(pod: &mut PodSpec, node: &str) {
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    let affinity = pod.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}
