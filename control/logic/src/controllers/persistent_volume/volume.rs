//! The binder, by volume: its phase, and what becomes of it when its claim is gone.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::names::{ANNOTATION_BOUND_BY_CONTROLLER, ANNOTATION_PROVISIONED_BY};
use serde_json::json;

use super::{change, change_status, problem};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Verb};
use crate::world::volumes::{self, annotation};

struct View<'a> {
    volume: &'a PersistentVolume,
    name: &'a str,
    now: Timestamp,
}

/// Decides what one volume needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(volume) = seen.persistent_volumes.get(key) else { return plan };
    let view = View { volume, name: &key.name, now };
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let Some((reference, uid)) =
        reference.and_then(|r| Some((r, r.uid.as_deref().filter(|uid| !uid.is_empty())?)))
    else {
        // Nobody's, or kept for a claim that has not come yet.
        view.enter("Available", None, &mut plan);
        return plan;
    };
    match claim(seen, reference).filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) {
        None => view.release(reference, &mut plan),
        Some(claim) => match claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default() {
            "" => view.wait_for(claim, &mut plan),
            name if *name == *key.name => view.enter("Bound", None, &mut plan),
            _ => view.let_go(&mut plan),
        },
    }
    plan
}

fn claim<'a>(seen: &'a Observed, reference: &ObjectReference) -> Option<&'a Arc<PersistentVolumeClaim>> {
    let (namespace, name) = (reference.namespace.as_deref()?, reference.name.as_deref()?);
    seen.persistent_volume_claims.get(&Key::new(namespace, name))
}

impl View<'_> {
    fn phase(&self) -> &str {
        self.volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }

    fn policy(&self) -> &str {
        let spec = self.volume.spec.as_ref();
        spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or_default()
    }

    fn phase_change(&self, phase: &str, message: Option<&str>) -> Verb {
        let status = json!({
            "phase": phase, "lastPhaseTransitionTime": Time(self.now), "message": message, "reason": null,
        });
        change_status(self.volume, status)
    }

    fn enter(&self, phase: &str, message: Option<&str>, plan: &mut Plan) {
        if self.phase() != phase {
            plan.act(self.phase_change(phase, message));
        }
    }

    /// A binding that has begun is completed by the claim's half, where it can be.
    fn wait_for(&self, claim: &PersistentVolumeClaim, plan: &mut Plan) {
        if volumes::same_mode(self.volume, claim) {
            return;
        }
        let (volume, name) = (self.name, claim.metadata.name.as_deref().unwrap_or_default());
        let about_volume = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {name:?} due to incompatible volumeMode."
        );
        let about_claim = format!(
            "Cannot bind PersistentVolume {volume:?} to requested PersistentVolumeClaim {name:?} due to incompatible \
             volumeMode."
        );
        plan.problems.push(problem(Reference::to(self.volume), true, "VolumeMismatch", about_volume));
        plan.problems.push(problem(Reference::to(claim), true, "VolumeMismatch", about_claim));
    }

    /// The claim that it was promised to has another volume.
    fn let_go(&self, plan: &mut Plan) {
        if annotation(self.volume, ANNOTATION_PROVISIONED_BY).is_some() && self.policy() == "Delete" {
            // It was made for that claim, so it is of no use to any other.
            if !["Released", "Failed"].contains(&self.phase()) {
                plan.act(self.phase_change("Released", None));
            }
            return self.reclaim(plan);
        }
        let patch = if annotation(self.volume, ANNOTATION_BOUND_BY_CONTROLLER).is_some() {
            json!({
                "metadata": { "annotations": { ANNOTATION_BOUND_BY_CONTROLLER: null } },
                "spec": { "claimRef": null },
            })
        } else {
            // The user has kept it for that name.
            json!({ "spec": { "claimRef": { "uid": null } } })
        };
        plan.act(change(self.volume, patch));
        plan.act_then(self.phase_change("Available", None));
    }

    /// The claim is gone.
    fn release(&self, reference: &ObjectReference, plan: &mut Plan) {
        if !["Released", "Failed"].contains(&self.phase()) {
            let mut verb = self.phase_change("Released", None);
            if let Verb::Patch { guard, .. } = &mut verb {
                // The watch on claims may be behind the one on volumes, and what follows cannot be
                // undone: the claim must be gone by the server's own word.
                let text = |part: &Option<String>| part.as_deref().unwrap_or_default().to_owned();
                let mut claim = Reference::named(
                    "v1",
                    "PersistentVolumeClaim",
                    &text(&reference.namespace),
                    &text(&reference.name),
                );
                claim.uid = text(&reference.uid).into();
                guard.absent = Some(claim);
            }
            plan.act(verb);
            return;
        }
        self.reclaim(plan);
    }

    /// Whoever has made a volume removes it; this only says so when nobody will.
    fn reclaim(&self, plan: &mut Plan) {
        if self.phase() != "Released" {
            return;
        }
        let (reason, text) = match self.policy() {
            "Retain" | "" => return,
            "Delete" if annotation(self.volume, ANNOTATION_PROVISIONED_BY).is_some() => return,
            "Delete" => (
                "VolumeFailedDelete",
                format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                    self.name
                ),
            ),
            "Recycle" => (
                "VolumeFailedRecycle",
                "No recycler plugin found for the volume! The reclaim policy Recycle is deprecated and not supported: \
                 use Retain or Delete"
                    .to_owned(),
            ),
            _ => ("VolumeUnknownReclaimPolicy", "Volume has unrecognized reclaim policy".to_owned()),
        };
        plan.problems.push(problem(Reference::to(self.volume), true, reason, text.clone()));
        plan.act(self.phase_change("Failed", Some(&text)));
    }
}
