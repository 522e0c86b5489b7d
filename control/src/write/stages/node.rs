//! NodeRestriction: what a node may write, beyond which objects it may touch at all.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>.
//! A node sets only labels that say what kubelets say of themselves, and never takes off a taint,
//! so that it cannot draw pods of others to itself.

use std::collections::BTreeSet;

use proa_api::Refusal;
use proa_api::names::{GROUP_NODES, LABEL_HOSTNAME, NAMESPACE_NODE_LEASE, NODE_USER_PREFIX};
use proa_kinds::{Kind, Part};
use serde_json::Value;

use super::node_addresses::{self, Ranges};
use crate::write::request::Caller;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// Labels with Kubernetes' own prefixes that a node may set on itself.
const OWN_LABELS: [&str; 12] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
];
/// Prefixes with which it may set any.
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Keeps nodes to what is theirs.
pub struct NodeRestriction(pub Ranges);

impl Stage for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        let kinds =
            [("", "Node"), ("", "Pod"), ("coordination.k8s.io", "Lease"), ("storage.k8s.io", "CSINode")];
        kinds.iter().any(|(group, name)| kind.is(group, name))
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        let Some(node) = node_name(attempt.caller) else { return Verdict::PASSED };
        let may = match (&attempt.operation, attempt.old) {
            (Operation::Create, _) => check_create(node, attempt.kind, new),
            (Operation::Update(target), Some(old)) => check_update(node, attempt.kind, target, old, new),
            _ => Ok(()),
        };
        may.and_then(|()| node_addresses::check(attempt, self.0, node, new)).into()
    }
}

/// The node that a caller is, if it is one.
pub fn node_name(caller: &Caller) -> Option<&str> {
    let is_node = caller.groups.iter().any(|group| group == GROUP_NODES);
    caller.user.strip_prefix(NODE_USER_PREFIX).filter(|name| is_node && !name.is_empty())
}

/// Refuses what a node may not make.
fn check_create(node: &str, kind: &Kind, object: &Value) -> Result<(), Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let refuse = |why: String| Err(Refusal::forbidden(kind.resource(), name, why));
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Node") if name != node => {
            refuse(format!("node {node:?} is not allowed to modify node {name:?}"))
        }
        ("", "Node") => check_labels(node, kind, name, &Value::Null, object, "set"),
        ("coordination.k8s.io", "Lease") if name != node => {
            refuse("can only access node lease with the same name as the requesting node".to_owned())
        }
        ("coordination.k8s.io", "Lease") if object["metadata"]["namespace"] != NAMESPACE_NODE_LEASE => {
            refuse(format!("can only access leases in the {NAMESPACE_NODE_LEASE:?} system namespace"))
        }
        ("storage.k8s.io", "CSINode") if name != node => {
            refuse("can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

/// Refuses what a node may not change.
fn check_update(node: &str, kind: &Kind, part: &Part, old: &Value, new: &Value) -> Result<(), Refusal> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let refuse = |why: String| Err(Refusal::forbidden(kind.resource(), name, why));
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Node") if name != node => {
            refuse(format!("node {node:?} is not allowed to modify node {name:?}"))
        }
        ("", "Node") => {
            check_labels(node, kind, name, old, new, "modify")?;
            let none = |object: &Value| object["spec"]["taints"].as_array().is_none_or(Vec::is_empty);
            let same = old["spec"]["taints"] == new["spec"]["taints"] || (none(old) && none(new));
            if *part == Part::Main && !same {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            if old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
                return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            Ok(())
        }
        ("", "Pod") if old["metadata"]["labels"] != new["metadata"]["labels"] => {
            refuse(format!("node {node:?} cannot update labels through pod status"))
        }
        _ => Ok(()),
    }
}

/// Refuses a token that is not bound to a pod of the node that asks for it.
pub fn check_token_request(
    caller: &Caller,
    kind: &Kind,
    account: &str,
    reference: Option<&Value>,
    audiences: &[String],
    pod: Option<&Value>,
) -> Result<(), Refusal> {
    let Some(node) = node_name(caller) else { return Ok(()) };
    let text = |member: &str| reference.and_then(|r| r[member].as_str()).unwrap_or_default();
    let refuse = |why: String| Err(Refusal::forbidden(kind.resource(), account, why));
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return refuse("node requested token not bound to a pod".to_owned());
    }
    if text("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid".to_owned());
    }
    let Some(pod) = pod.filter(|pod| pod["spec"]["nodeName"] == node) else {
        return refuse("node requested token bound to a pod scheduled on a different node".to_owned());
    };
    let wanted = projected_audiences(pod);
    match audiences.iter().find(|audience| !wanted.contains(audience.as_str())) {
        Some(other) => refuse(format!("audience {other:?} not found in pod spec volume")),
        None => Ok(()),
    }
}

/// The audiences for which a pod has tokens in its volumes.
fn projected_audiences(pod: &Value) -> BTreeSet<&str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    sources.filter_map(|source| source["serviceAccountToken"]["audience"].as_str()).collect()
}

fn check_labels(
    node: &str,
    kind: &Kind,
    name: &str,
    old: &Value,
    new: &Value,
    verb: &str,
) -> Result<(), Refusal> {
    let (old, new) = (&old["metadata"]["labels"], &new["metadata"]["labels"]);
    let keys = |labels: &Value| labels.as_object().map(|l| l.keys().cloned().collect()).unwrap_or_default();
    let (before, after): (BTreeSet<String>, BTreeSet<String>) = (keys(old), keys(new));
    let changed = before.union(&after).filter(|key| old.get(key.as_str()) != new.get(key.as_str()));
    // Volumes of a node are known by this label: with another node's a node would draw its pods.
    let is_foreign_name = |key: &str| key == LABEL_HOSTNAME && new.get(key).is_some_and(|name| *name != node);
    let not_its_own: Vec<&str> =
        changed.map(String::as_str).filter(|key| !may_set(key) || is_foreign_name(key)).collect();
    if not_its_own.is_empty() {
        return Ok(());
    }
    let labels = not_its_own.join(", ");
    let why = format!("node {node:?} is not allowed to {verb} the following labels: {labels}");
    Err(Refusal::forbidden(kind.resource(), name, why))
}

/// True for labels that a node may set on itself.
fn may_set(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let is_below = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    if !is_below("kubernetes.io") && !is_below("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|own| is_below(own))
}

#[cfg(test)]
mod tests {
    use proa_kinds::built_in;
    use serde_json::json;

    use super::*;

    fn node_a() -> Caller {
        Caller { user: "system:node:a".to_owned(), groups: vec![GROUP_NODES.to_owned()], ..Caller::default() }
    }

    fn text(result: Result<(), Refusal>) -> String {
        result.err().map(|refusal| refusal.to_string()).unwrap_or_default()
    }

    #[test]
    fn labels_and_taints_of_nodes() {
        let table = built_in::table();
        let kind = table.by_kind("v1", "Node").unwrap();
        let node = |name: &str, labels: Value, taints: Value| json!({ "metadata": { "name": name, "labels": labels }, "spec": { "taints": taints } });
        let plain = node("a", json!({ "kubernetes.io/os": "linux", "disk": "ssd" }), Value::Null);
        assert_eq!(text(check_create("a", kind, &plain)), "");
        let other = node("b", json!({}), Value::Null);
        assert!(check_create("a", kind, &other).is_err());
        assert!(check_update("a", kind, &Part::STATUS, &other, &other).is_err());
        let role = node("a", json!({ "node-role.kubernetes.io/control-plane": "" }), Value::Null);
        assert_eq!(
            text(check_create("a", kind, &role)),
            "nodes \"a\" is forbidden: node \"a\" is not allowed to set the following labels: \
             node-role.kubernetes.io/control-plane"
        );
        let hostname = |name: &str| node("a", json!({ "kubernetes.io/hostname": name }), Value::Null);
        assert_eq!(text(check_create("a", kind, &hostname("a"))), "");
        assert!(check_create("a", kind, &hostname("b")).is_err());
        assert!(check_update("a", kind, &Part::Main, &plain, &hostname("b")).is_err());
        let restricted = node("a", json!({ "x.node-restriction.kubernetes.io/y": "" }), Value::Null);
        assert!(check_update("a", kind, &Part::Main, &plain, &restricted).is_err());
        assert!(check_update("a", kind, &Part::Main, &restricted, &plain).is_err(), "nor take off");
        let tainted = node("a", json!({}), json!([{ "key": "k", "effect": "NoSchedule" }]));
        assert_eq!(text(check_create("a", kind, &tainted)), "", "kubelets register with taints");
        let clean = node("a", json!({}), Value::Null);
        assert!(check_update("a", kind, &Part::Main, &tainted, &clean).is_err());
        assert_eq!(text(check_update("a", kind, &Part::STATUS, &clean, &clean)), "");
    }

    #[test]
    fn leases_and_tokens() {
        let table = built_in::table();
        let lease = |name: &str, namespace: &str| {
            let object = json!({ "metadata": { "name": name, "namespace": namespace } });
            check_create("a", table.by_kind("coordination.k8s.io/v1", "Lease").unwrap(), &object)
        };
        assert!(lease("a", "kube-node-lease").is_ok());
        assert!(lease("b", "kube-node-lease").is_err() && lease("a", "kube-system").is_err());

        let accounts = table.by_kind("v1", "ServiceAccount").unwrap();
        let token_for = |reference: Value, on: &str, audiences: &[&str]| {
            let source = json!({ "serviceAccountToken": { "audience": "vault", "path": "t" } });
            let volumes = json!([{ "name": "t", "projected": { "sources": [source] } }]);
            let pod = json!({ "spec": { "nodeName": on, "volumes": volumes } });
            let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
            check_token_request(&node_a(), accounts, "s", Some(&reference), &audiences, Some(&pod))
        };
        let token = |reference: Value, on: &str| token_for(reference, on, &[]);
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" });
        assert!(token_for(pod.clone(), "a", &["vault"]).is_ok());
        let other = token_for(pod.clone(), "a", &["vault", "sts.amazonaws.com"]).unwrap_err();
        assert!(other.to_string().contains("audience \"sts.amazonaws.com\" not found in pod spec volume"));
        assert!(token(pod.clone(), "a").is_ok());
        assert!(token(pod, "b").is_err());
        assert!(token(json!({ "apiVersion": "v1", "kind": "Pod", "name": "p" }), "a").is_err());
        assert!(token(Value::Null, "a").is_err());
    }
}
