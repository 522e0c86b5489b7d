//! Claims that ask for more than they have.
//!
//! The capacity of a local path is nominal: it is a directory of a filesystem that others use too.
//! So more is simply granted. For volumes of other provisioners it is theirs to act.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use proa_api::names::{ANNOTATION_PROVISIONED_BY, LOCAL_PATH_PROVISIONER, STORAGE};
use proa_api::quantity::Amount;
use serde_json::json;

use super::{change, change_status, is_deleted, problem};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Report};
use crate::world::volumes::{self, annotation};

/// Decides whether one claim gets more.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(claim) = seen.persistent_volume_claims.get(key) else { return plan };
    let status = claim.status.clone().unwrap_or_default();
    let wanted = volumes::requested(claim);
    if status.phase.as_deref() != Some("Bound") || is_deleted(&**claim) || wanted <= granted(claim) {
        return plan;
    }
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    let Some(volume) = seen.persistent_volumes.get(&Key::new("", name)) else { return plan };
    if !volumes::is_bound_to(volume, claim) {
        return plan;
    }
    let grows = volumes::class(seen, claim).is_some_and(|c| c.allow_volume_expansion == Some(true));
    if !grows {
        return plan;
    }
    if annotation(&**volume, ANNOTATION_PROVISIONED_BY) != Some(LOCAL_PATH_PROVISIONER) {
        let text = "waiting for an external controller to expand this PVC";
        plan.problems.push(problem(Reference::to(&**claim), false, "ExternalExpanding", text));
        return plan;
    }
    let amount = claim.spec.as_ref().and_then(proa_kinds::built_in::persistent_volume_claim::requested);
    let capacity = json!({ "capacity": { STORAGE: amount } });
    if volumes::capacity(volume) < wanted {
        plan.act(change(&**volume, json!({ "spec": capacity })));
    }
    let text = format!("ExpandVolume succeeded for volume {}/{}", key.namespace, key.name);
    let report = Report {
        about: Reference::to(&**claim),
        done: Some(("VolumeResizeSuccessful", text)),
        failed: Some(("VolumeResizeFailed", "error expanding volume: {}".to_owned())),
    };
    plan.act_and_report(change_status(&**claim, capacity), report);
    if let Some(last) = plan.actions.last_mut() {
        last.chained = true;
    }
    plan
}

/// What the claim is said to hold.
fn granted(claim: &PersistentVolumeClaim) -> Amount {
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| Amount::parse(&c.get(STORAGE)?.0).ok()).unwrap_or_default()
}
