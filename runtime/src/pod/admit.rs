//! Whether this node takes a pod that is bound to it: a pure function of the pod, the pods that the
//! node has taken, and the node.
//!
//! The scheduler has asked all of this already, but not everybody comes by it (`spec.nodeName`).
//! Called by the agent once for each new pod. Order, reasons and texts are those of the kubelet.

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use proa_api::placement::{is_wanted, tolerates};
use proa_api::resources::{Resources, host_ports, requests};

use crate::pod::lsm;
use crate::pod::observed::Verdict;
use crate::pod::sysctl::{self, UnsafeSysctl};

/// Takes the pod, or says why not. `others` are all pods that the node has and that have not ended;
/// `allowed` are the kernel parameters that its pods may set beside the safe ones.
pub fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    node: &Node,
    allowed: &[UnsafeSysctl],
) -> Result<(), Verdict> {
    sysctl::check(pod, allowed)?;
    lsm::check(pod)?;
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Verdict::rejected("PodOSNotSupported", message));
    }
    room(&requests(spec), others.clone(), node)?;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !is_wanted(spec, node.metadata.labels.as_ref().unwrap_or(&Default::default()), name) {
        return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let ports = host_ports(spec);
    let taken = |other: &Pod| {
        let theirs = other.spec.as_ref().map(host_ports).unwrap_or_default();
        theirs.iter().any(|p| ports.iter().any(|q| p.conflicts_with(q)))
    };
    if !ports.is_empty() && others.clone().any(taken) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let repels = |taint: &Taint| {
        taint.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
    if taints.into_iter().any(repels) {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

/// True if this node has taken the pod before: it then stays, whatever has changed since.
pub fn is_admitted(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// Refuses a pod for which something is short.
fn room<'a>(asked: &Resources, others: impl Iterator<Item = &'a Pod>, node: &Node) -> Result<(), Verdict> {
    let all =
        node.status.as_ref().and_then(|s| s.allocatable.as_ref()).map(Resources::of).unwrap_or_default();
    let mut used = Resources::default();
    for other in others.filter_map(|pod| pod.spec.as_ref()) {
        used.add(&requests(other));
    }
    // A resource that the node does not know is somebody else's business, as it is the kubelet's.
    let extended = asked.extended.iter().filter_map(|(name, asked)| {
        let used = used.extended.get(name).copied().unwrap_or(0);
        Some((name.as_str(), *asked, used, *all.extended.get(name)?))
    });
    let own = [
        ("pods", 1, used.pods, all.pods),
        ("cpu", asked.cpu_millis, used.cpu_millis, all.cpu_millis),
        ("memory", asked.memory_bytes, used.memory_bytes, all.memory_bytes),
        ("ephemeral-storage", asked.ephemeral_bytes, used.ephemeral_bytes, all.ephemeral_bytes),
    ];
    let short = own
        .into_iter()
        .chain(extended)
        .find(|(_, asked, used, all)| *asked > 0 && *asked > all.saturating_sub(*used));
    let Some((name, asked, used, all)) = short else { return Ok(()) };
    let message = format!(
        "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {all}"
    );
    Err(Verdict::rejected(format!("OutOf{name}"), message))
}

fn predicate(name: &'static str, why: &str) -> Verdict {
    Verdict::rejected(name, format!("Predicate {name} failed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn pods_that_the_scheduler_would_not_have_sent() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"},
                {"key": "s", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "x.io/gpu": "1"}},
        }))
        .unwrap();
        let containers = |resources: Value| {
            json!([{"name": "c", "resources": {"requests": resources},
            "ports": [{"containerPort": 80, "hostPort": 8080}]}])
        };
        let there = [pod(json!({"containers": containers(json!({"cpu": "1500m", "x.io/gpu": "1"}))}))];
        let tolerates = json!([{"key": "k", "operator": "Exists"}]);
        let check = |mut spec: Value, want: Option<(&str, &str)>| {
            if spec["tolerations"].is_null() {
                spec["tolerations"] = tolerates.clone();
            }
            let said = admit(&pod(spec.clone()), there.iter(), &node, &[]).err();
            let want = want.map(|(reason, message)| Verdict {
                reason: reason.to_owned().into(),
                message: format!("Pod was rejected: {message}"),
            });
            assert_eq!(said, want, "{spec}");
        };
        let asks =
            |resources: Value| json!({"containers": [{"name": "c", "resources": {"requests": resources}}]});
        check(json!({}), None);
        check(asks(json!({"cpu": "500m", "memory": "1Gi", "y.io/unknown": "9"})), None);
        let text = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
        check(asks(json!({"cpu": "501m"})), Some(("OutOfcpu", text)));
        let text =
            "Node didn't have enough resource: memory, requested: 1073741825, used: 0, capacity: 1073741824";
        check(asks(json!({"memory": "1073741825"})), Some(("OutOfmemory", text)));
        let text = "Node didn't have enough resource: x.io/gpu, requested: 1, used: 1, capacity: 1";
        check(asks(json!({"x.io/gpu": "1"})), Some(("OutOfx.io/gpu", text)));
        let text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        check(json!({"nodeSelector": {"disk": "hdd"}}), Some(("NodeAffinity", text)));
        check(json!({"nodeSelector": {"disk": "ssd"}}), None);
        let wants = |name: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}})
        };
        check(wants("n"), None);
        check(wants("other"), Some(("NodeAffinity", text)));
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        check(json!({"containers": containers(json!({}))}), Some(("NodePorts", text)));
        let text = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        check(
            json!({"tolerations": [{"key": "other", "operator": "Exists"}]}),
            Some(("TaintToleration", text)),
        );

        let full = [pod(json!({})), pod(json!({})), pod(json!({}))];
        let text = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        let said = admit(&pod(json!({"tolerations": tolerates})), full.iter(), &node, &[]).unwrap_err();
        assert_eq!((&*said.reason, &*said.message), ("OutOfpods", &*format!("Pod was rejected: {text}")));
    }
}
