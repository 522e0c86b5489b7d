//! What must hold of a pod that has just come to its node.

use k8s_openapi::api::core::v1::PodSpec;
use proa_api::resources::{Resources, requests};
use serde_json::Value;

use super::api::{Api, text};

impl Api {
    pub fn check_bound(&self, pod: &Value, node: &str) {
        let gates = pod["spec"]["schedulingGates"].as_array();
        assert!(gates.is_none_or(Vec::is_empty), "a pod that is held back is bound: {pod}");
        self.check_company(pod, node);
        self.check_node(node);
    }

    /// The scheduler never gives away more of a node than there is.
    fn check_node(&self, node: &str) {
        let Some(object) = self.get("v1 Node", "", node) else { return };
        let all = Resources::of(&serde_json::from_value(object["status"]["allocatable"].clone()).unwrap());
        let mut used = Resources::default();
        for pod in self.list("v1 Pod").filter(|p| text(p, "/spec/nodeName") == node) {
            if !["Failed", "Succeeded"].contains(&text(pod, "/status/phase")) {
                used.add(&requests(&serde_json::from_value::<PodSpec>(pod["spec"].clone()).unwrap()));
            }
        }
        let fits = used.cpu_millis <= all.cpu_millis
            && used.memory_bytes <= all.memory_bytes
            && used.pods <= all.pods;
        assert!(fits, "{node} is given away twice: {used:?} of {all:?}");
    }

    /// No pod comes to where one is that it does not stand, or that does not stand it. In this
    /// world all such terms are of single nodes and name labels.
    fn check_company(&self, pod: &Value, node: &str) {
        let repels = |one: &Value, other: &Value| {
            let terms = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
            one.pointer(terms).and_then(Value::as_array).into_iter().flatten().any(|term| {
                let labels = term["labelSelector"]["matchLabels"].as_object();
                labels.into_iter().flatten().all(|(name, value)| other["metadata"]["labels"][name] == *value)
            })
        };
        for other in self.list("v1 Pod").filter(|p| text(p, "/spec/nodeName") == node) {
            if other["metadata"]["uid"] == pod["metadata"]["uid"] {
                continue;
            }
            let has_ended = ["Failed", "Succeeded"].contains(&text(other, "/status/phase"));
            let apart = other["metadata"]["namespace"] != pod["metadata"]["namespace"];
            assert!(
                has_ended || apart || !repels(pod, other) && !repels(other, pod),
                "{} is put beside {} on {node}:\n{}",
                text(pod, "/metadata/name"),
                text(other, "/metadata/name"),
                self.tail(40)
            );
        }
    }
}
