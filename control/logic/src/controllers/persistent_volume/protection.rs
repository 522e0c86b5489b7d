//! What holds claims and volumes that somebody still uses.
//!
//! Rules: <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::names::{FINALIZER_PV_PROTECTION, FINALIZER_PVC_PROTECTION};
use serde_json::json;

use super::{change, is_deleted};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Verb};

/// Lets a claim on its way out go when no pod on a node uses it, also none that has ended.
pub fn reconcile_claim(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(claim) = seen.persistent_volume_claims.get(key) else { return plan };
    // A pod that is not on a node yet will not start on any with a claim on its way out.
    let used = || {
        seen.pods.in_namespace(&key.namespace).any(|pod| pod.node.is_some() && pod.claims.contains(&key.name))
    };
    if let Some(verb) = step(&**claim, FINALIZER_PVC_PROTECTION, used) {
        plan.act(verb);
    }
    plan
}

/// Lets a volume on its way out go when it is not bound.
pub fn reconcile_volume(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(volume) = seen.persistent_volumes.get(key) else { return plan };
    let used = || volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    if let Some(verb) = step(&**volume, FINALIZER_PV_PROTECTION, used) {
        plan.act(verb);
    }
    plan
}

fn step<K>(object: &K, finalizer: &str, used: impl Fn() -> bool) -> Option<Verb>
where
    K: k8s_openapi::Resource + Metadata<Ty = ObjectMeta>,
{
    let mut finalizers = object.metadata().finalizers.clone().unwrap_or_default();
    let held = finalizers.iter().any(|f| f == finalizer);
    match (is_deleted(object), held) {
        (true, true) if !used() => finalizers.retain(|f| f != finalizer),
        (false, false) => finalizers.push(finalizer.to_owned()),
        _ => return None,
    }
    Some(change(object, json!({ "metadata": { "finalizers": finalizers } })))
}
