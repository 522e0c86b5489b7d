//! Namespace: what every namespace holds from the start, and how a namespace ends.
//!
//! A namespace that is being deleted is emptied object by object; pods take their grace period.
//! Only an empty one is let go.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proa_api::names;
use serde_json::json;

use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

/// What is still there is told only after a while: most namespaces are gone sooner.
const TELL_AFTER: SignedDuration = SignedDuration::from_secs(5);

const CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed \
    across distributions of Kubernetes clusters.";

/// Decides what a namespace that is being deleted needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = seen.namespaces.get(&key.name) else { return plan };
    let Some(deleted) = namespace.metadata.deletion_timestamp.as_ref().map(|t| t.0) else { return plan };
    let mut remaining: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    for object in seen.graph.in_namespace(&key.name) {
        *remaining.entry(object.kind.kind.to_string()).or_default() += 1;
        for finalizer in &object.finalizers {
            *finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        if object.deleted.is_none() {
            plan.act(Verb::Delete {
                target: object.reference(),
                resource_version: None,
                propagation: Some("Background"),
                grace_period_seconds: None,
                unless: Vec::new(),
            });
        }
    }
    if remaining.is_empty() {
        let name = key.name.to_string();
        plan.act(Verb::DeleteAll { api_version: "v1", kind: "Event", namespace: name });
        plan.act_then(Verb::Finalize { namespace: Reference::to(&**namespace) });
    } else if now >= deleted + TELL_AFTER {
        tell(seen, key, &remaining, &finalizers, now, &mut plan);
    } else {
        plan.look_again(deleted + TELL_AFTER);
    }
    plan
}

/// Shows in the status what holds the namespace up.
fn tell(
    seen: &Observed,
    key: &Key,
    remaining: &BTreeMap<String, usize>,
    finalizers: &BTreeMap<String, usize>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let list = |counts: &BTreeMap<String, usize>, words: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(what, n)| format!("{what} {words} {n} resource instances")).collect();
        parts.join(", ")
    };
    let content = format!("Some resources are remaining: {}", list(remaining, "has"));
    let mut wanted = vec![("NamespaceContentRemaining", "SomeResourcesRemain", content)];
    if !finalizers.is_empty() {
        let text =
            format!("Some content in the namespace has finalizers remaining: {}", list(finalizers, "in"));
        wanted.push(("NamespaceFinalizersRemaining", "SomeFinalizersRemain", text));
    }
    let Some(namespace) = seen.namespaces.get(&key.name) else { return };
    let conditions = namespace.status.as_ref().and_then(|s| s.conditions.as_ref());
    wanted.retain(|(type_, _, text)| {
        let shown = proa_api::condition::find(conditions, type_);
        shown.and_then(|c| c.message.as_deref()) != Some(text)
    });
    if !wanted.is_empty() {
        let condition = |(type_, reason, text): (&str, &str, String)| json!({ "type": type_, "status": "True", "reason": reason, "message": text, "lastTransitionTime": now_json(now) });
        plan.act(Verb::Patch {
            target: Reference::to(&**namespace),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Conditions(wanted.into_iter().map(condition).collect()),
        });
    }
}

/// A moment as the API writes it: whole seconds.
pub(super) fn now_json(now: Timestamp) -> serde_json::Value {
    json!(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now))
}

/// Decides whether a namespace needs its default ServiceAccount.
pub fn reconcile_service_account(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let account = Key::new(&key.name, "default");
    if is_active(seen, key) && !seen.service_accounts.contains_key(&account) {
        let namespace = key.name.to_string();
        let body = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": namespace },
        });
        plan.act(Verb::Create { api_version: "v1", kind: "ServiceAccount", namespace, body });
    }
    plan
}

/// Decides whether a namespace needs the ConfigMap with the cluster's CA, or a newer one.
pub fn reconcile_root_ca(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    if !is_active(seen, key) || seen.ca_pem.is_empty() {
        return plan;
    }
    let data = json!({ "ca.crt": &*seen.ca_pem });
    match seen.root_cas.get(&key.name) {
        None => {
            let namespace = key.name.to_string();
            let body = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {
                    "name": names::CONFIG_MAP_ROOT_CA, "namespace": namespace,
                    "annotations": { "kubernetes.io/description": CA_DESCRIPTION },
                },
                "data": data,
            });
            plan.act(Verb::Create { api_version: "v1", kind: "ConfigMap", namespace, body });
        }
        Some((ca, meta)) if *ca != seen.ca_pem && meta.deleted.is_none() => plan.act(Verb::Patch {
            target: meta.reference(),
            part: Part::Main,
            guard: Guard::unchanged(&meta.resource_version),
            change: Change::Merge(json!({ "data": data })),
        }),
        Some(_) => {}
    }
    plan
}

fn is_active(seen: &Observed, key: &Key) -> bool {
    seen.namespaces.get(&key.name).is_some_and(|n| n.metadata.deletion_timestamp.is_none())
}
