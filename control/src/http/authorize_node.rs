//! What nodes may do, and what may be done with a bootstrap token.
//!
//! A node (user `system:node:NAME` in the group `system:nodes`) reads what its own pods refer to
//! and no more: the Secrets, ConfigMaps, claims and volumes of pods that are bound to it. It
//! writes its own Node and Lease and the status of its own pods. Which labels and taints it may
//! set is for [`crate::write::stages::node`].
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/node/>.

use k8s_openapi::api::core::v1::Pod;
use proa_api::Refusal;
use proa_api::names::{CONFIG_MAP_NODES, GROUP_BOOTSTRAPPERS, NAMESPACE_NODE_LEASE, NAMESPACE_SYSTEM};
use proa_api::references::{self, References};
use proa_api::selector::FieldSelector;
use serde_json::{Value, json};

use super::authorize::{Attributes, Authorizer, Decision, Rules, forbidden};
use super::query::Query;
use crate::registry::{Caller, ListOptions, Registry};
use crate::write::stages::node::node_name;

/// What every node may do with objects that are nobody's in particular: group, plural and verbs.
const OPEN: &[(&str, &str, &[&str])] = &[
    ("", "services", READ),
    ("", "endpoints", READ),
    ("discovery.k8s.io", "endpointslices", READ),
    ("node.k8s.io", "runtimeclasses", READ),
    ("storage.k8s.io", "csidrivers", READ),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
];
const READ: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["get", "list", "watch", "update", "patch"];

/// Allows nodes what their pods need.
pub struct Nodes(pub Registry);

/// Allows whoever has a bootstrap token to ask for a certificate and to fetch it.
pub struct Bootstrappers(pub Registry);

/// The parts of [`Attributes::Resource`].
struct Asked<'a> {
    verb: &'a str,
    group: &'a str,
    plural: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Asked<'a> {
    fn of(what: &Attributes<'a>) -> Option<Self> {
        let Attributes::Resource { verb, group, plural, subresource, namespace, name } = *what else {
            return None;
        };
        Some(Asked { verb, group, plural, subresource, namespace: namespace.unwrap_or_default(), name })
    }

    fn is(&self, verbs: &[&str]) -> bool {
        verbs.contains(&self.verb)
    }
}

impl Authorizer for Nodes {
    fn decide(&self, caller: &Caller, what: &Attributes<'_>) -> Decision {
        let (Some(node), Some(asked)) = (node_name(caller), Asked::of(what)) else {
            return Decision::NO_OPINION;
        };
        match self.check(caller, node, &asked) {
            Ok(true) => Decision::Allow,
            Ok(false) => Decision::NO_OPINION,
            Err(why) => Decision::NoOpinion(why),
        }
    }

    fn rules(&self, caller: &Caller, _namespace: &str, rules: &mut Rules) {
        if node_name(caller).is_none() {
            return;
        }
        let one = |(group, plural, verbs): &(&str, &str, &[&str])| json!({ "verbs": verbs, "apiGroups": [group], "resources": [plural] });
        rules.resource.extend(OPEN.iter().map(one));
        rules.errors.push("what a node may do with objects of its own pods is not listed".to_owned());
    }
}

impl Nodes {
    /// The error is why not.
    fn check(&self, caller: &Caller, node: &str, asked: &Asked<'_>) -> Result<bool, String> {
        let is_own = asked.name == node;
        match (asked.group, asked.plural, asked.subresource) {
            // Its service proxy must know the addresses of all, which no Service may take over.
            ("", "nodes", "") if asked.is(&["list", "watch"]) => Ok(true),
            ("", "nodes", "") => own(is_own || asked.is(&["create"]), asked, &[CHANGE, &["create"]].concat()),
            ("", "nodes", "status") => own(is_own, asked, &["get", "update", "patch"]),
            ("coordination.k8s.io", "leases", "") => {
                let is_own = (is_own || asked.is(&["create"])) && asked.namespace == NAMESPACE_NODE_LEASE;
                own(is_own, asked, &["get", "create", "update", "patch", "delete"])
            }
            ("storage.k8s.io", "csinodes", "") => {
                let verbs = ["get", "create", "update", "patch", "delete"];
                own(is_own || asked.is(&["create"]), asked, &verbs)
            }
            ("", "namespaces", "") => Ok(asked.verb == "get" && asked.name == NAMESPACE_SYSTEM),
            ("", "pods", part) => self.check_pod(node, asked, part),
            ("", "configmaps", "")
                if asked.namespace == NAMESPACE_SYSTEM && asked.name == CONFIG_MAP_NODES =>
            {
                Ok(asked.verb == "get")
            }
            ("", "secrets" | "configmaps", "") => self.check_referred(node, asked, READ),
            ("", "persistentvolumeclaims", "") => self.check_referred(node, asked, READ),
            ("", "persistentvolumes", "") => {
                Ok(asked.is(READ) && !asked.name.is_empty() && self.uses_volume(node, asked.name))
            }
            ("", "serviceaccounts", "token") => self.check_referred(node, asked, &["create"]),
            ("", "serviceaccounts", "") => self.check_referred(node, asked, &["get"]),
            ("certificates.k8s.io", "certificatesigningrequests", "") if asked.is(READ) => {
                Ok(is_own_request(&self.0, caller, asked.name))
            }
            (group, plural, "") => {
                Ok(OPEN.iter().any(|(g, p, verbs)| (*g, *p) == (group, plural) && asked.is(verbs)))
            }
            _ => Ok(false),
        }
    }

    /// Which of the pods a list shows is for [`check_selector`].
    fn check_pod(&self, node: &str, asked: &Asked<'_>, part: &str) -> Result<bool, String> {
        let verbs: &[&str] = match part {
            "" if asked.is(&["list", "watch"]) => return Ok(true),
            "" => &["get", "delete"],
            "status" => &["get", "update", "patch"],
            "eviction" => &["create"],
            _ => return Ok(false),
        };
        if !asked.is(verbs) {
            return Ok(false);
        }
        let found = self.get("pods", asked.namespace, asked.name);
        // Of a pod that is gone there is nothing to know.
        let is_own = found.is_none_or(|pod| pod["spec"]["nodeName"] == node);
        if is_own {
            Ok(true)
        } else {
            Err("node can only touch pods with spec.nodeName set to itself".to_owned())
        }
    }

    /// Objects that pods name, one at a time.
    fn check_referred(&self, node: &str, asked: &Asked<'_>, verbs: &[&str]) -> Result<bool, String> {
        if !asked.is(verbs) {
            return Ok(false);
        }
        if asked.name.is_empty() || asked.namespace.is_empty() {
            return Err("No Object name found".to_owned());
        }
        let plural = asked.plural;
        let used = self.pods(node, asked.namespace).iter().any(|pod| refers(pod, plural, asked.name));
        if used {
            return Ok(true);
        }
        let kind = plural.trim_end_matches('s');
        Err(format!("no relationship found between node '{node}' and this object of kind {kind}"))
    }

    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        let Some(volume) = self.get("persistentvolumes", "", volume) else { return false };
        let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, claim) = (text("/spec/claimRef/namespace"), text("/spec/claimRef/name"));
        self.pods(node, namespace).iter().any(|pod| refers(pod, "persistentvolumeclaims", claim))
    }

    /// The pods of a namespace that are bound to a node.
    fn pods(&self, node: &str, namespace: &str) -> Vec<Pod> {
        let table = self.0.kinds();
        let fields = FieldSelector::parse(&format!("spec.nodeName={node}")).unwrap_or_default();
        let options = ListOptions { fields, ..ListOptions::default() };
        let found = table
            .by_plural("", "v1", "pods")
            .and_then(|kind| self.0.list(kind, Some(namespace), &options).ok());
        let pods = found.iter().flat_map(|list| &list.items);
        pods.filter_map(|pod| pod.decode().ok()).collect()
    }

    fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let table = self.0.kinds();
        let kind = table.by_plural("", "v1", plural)?;
        self.0.get(kind, namespace, name).ok().map(|object| object.value())
    }
}

fn own(is_own: bool, asked: &Asked<'_>, verbs: &[&str]) -> Result<bool, String> {
    match asked.is(verbs) {
        true if is_own => Ok(true),
        true => Err("node can only touch what is its own".to_owned()),
        false => Ok(false),
    }
}

/// True if a pod names the object.
fn refers(pod: &Pod, plural: &str, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    match plural {
        "serviceaccounts" => spec.service_account_name.as_deref().unwrap_or("default") == name,
        "secrets" => {
            References::of_pod(spec).secrets.contains(name) || references::pull_secrets(spec).contains(name)
        }
        "configmaps" => References::of_pod(spec).config_maps.contains(name),
        "persistentvolumeclaims" => references::claims(pod).any(|claim| claim == name),
        _ => false,
    }
}

/// Refuses a node that would see other nodes' pods.
pub fn check_selector(caller: &Caller, what: &Attributes<'_>, query: &Query) -> Result<(), Refusal> {
    let (Some(node), Some(asked)) = (node_name(caller), Asked::of(what)) else { return Ok(()) };
    if (asked.group, asked.plural, asked.subresource) != ("", "pods", "") || !asked.is(&["list", "watch"]) {
        return Ok(());
    }
    let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).unwrap_or_default();
    if fields.exact("spec.nodeName") == Some(node) {
        return Ok(());
    }
    Err(forbidden(caller, what, "can only list/watch pods with spec.nodeName field selector"))
}

/// True if the caller has made this CertificateSigningRequest, or nobody has.
fn is_own_request(registry: &Registry, caller: &Caller, name: &str) -> bool {
    let table = registry.kinds();
    let Some(kind) = table.by_kind("certificates.k8s.io/v1", "CertificateSigningRequest") else {
        return false;
    };
    let found = registry.get(kind, "", name);
    !name.is_empty() && found.is_ok_and(|request| request.value()["spec"]["username"] == *caller.user)
}

impl Authorizer for Bootstrappers {
    fn decide(&self, caller: &Caller, what: &Attributes<'_>) -> Decision {
        let Some(asked) = Asked::of(what).filter(|_| is_bootstrapper(caller)) else {
            return Decision::NO_OPINION;
        };
        let place = (asked.group, asked.plural, asked.subresource);
        if place != ("certificates.k8s.io", "certificatesigningrequests", "") {
            return Decision::NO_OPINION;
        }
        let allowed =
            asked.verb == "create" || (asked.is(READ) && is_own_request(&self.0, caller, asked.name));
        if allowed { Decision::Allow } else { Decision::NO_OPINION }
    }

    fn rules(&self, caller: &Caller, _namespace: &str, rules: &mut Rules) {
        if is_bootstrapper(caller) {
            rules.resource.push(json!({
                "verbs": ["create"], "apiGroups": ["certificates.k8s.io"],
                "resources": ["certificatesigningrequests"],
            }));
        }
    }
}

fn is_bootstrapper(caller: &Caller) -> bool {
    caller.groups.iter().any(|group| group == GROUP_BOOTSTRAPPERS)
}

#[cfg(test)]
mod tests;
