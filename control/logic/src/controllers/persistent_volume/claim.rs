//! The binder, by claim: finds a volume, or says who is to make one, and completes the binding.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::names::{
    ANNOTATION_BETA_STORAGE_PROVISIONER, ANNOTATION_BIND_COMPLETED, ANNOTATION_BOUND_BY_CONTROLLER,
    ANNOTATION_SELECTED_NODE, ANNOTATION_STORAGE_PROVISIONER, LOCAL_PATH_PROVISIONER,
};
use serde_json::{Value, json};

use super::{change, change_status, is_deleted, matching, problem};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Verb, difference};
use crate::world::volumes::{self, annotation};

/// What a class names that has nobody to make its volumes.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

struct View<'a> {
    seen: &'a Observed,
    key: &'a Key,
    claim: &'a PersistentVolumeClaim,
    now: Timestamp,
}

/// Decides what one claim needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(claim) = seen.persistent_volume_claims.get(key) else { return plan };
    let view = View { seen, key, claim, now };
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|name| !name.is_empty());
    let volume = name.and_then(|name| seen.persistent_volumes.get(&Key::new("", name)));
    let completed = annotation(&**claim, ANNOTATION_BIND_COMPLETED).is_some();
    match (name, volume) {
        (_, Some(volume)) if completed => view.keep(volume, &mut plan),
        (Some(_), None) if completed => {
            view.lose(
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
                &mut plan,
            );
        }
        (None, _) if completed => {
            let text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            view.lose("ClaimLost", text, &mut plan);
        }
        // Nothing new is begun with a claim on its way out.
        _ if is_deleted(&**claim) => {}
        (Some(_), Some(volume)) => view.take_named(volume, &mut plan),
        (Some(_), None) => {}
        (None, _) => view.find(&mut plan),
    }
    plan
}

impl View<'_> {
    fn tell(&self, warning: bool, reason: &'static str, message: impl Into<String>, plan: &mut Plan) {
        plan.problems.push(problem(Reference::to(self.claim), warning, reason, message));
    }

    /// A claim that has been bound stays so, unless its volume says otherwise.
    fn keep(&self, volume: &Arc<PersistentVolume>, plan: &mut Plan) {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        if reference.is_none_or(|r| r.uid == self.claim.metadata.uid) {
            self.bind(volume, plan);
        } else {
            let text = "Two claims are bound to the same volume, this one is bound incorrectly";
            self.lose("ClaimMisbound", text, plan);
        }
    }

    fn lose(&self, reason: &'static str, message: &str, plan: &mut Plan) {
        if self.phase() == "Lost" {
            return;
        }
        let status = json!({ "phase": "Lost", "accessModes": null, "capacity": null });
        self.tell(true, reason, message, plan);
        plan.act(change_status(self.claim, status));
    }

    fn phase(&self) -> &str {
        self.claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }

    /// The user has named a volume.
    fn take_named(&self, volume: &Arc<PersistentVolume>, plan: &mut Plan) {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        if volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()) {
            match matching::mismatch(volume, self.claim) {
                None => self.bind(volume, plan),
                Some(why) => {
                    let text = format!("Cannot bind to requested volume {name:?}: {why}");
                    self.tell(true, "VolumeMismatch", text, plan);
                }
            }
        } else if volumes::is_bound_to(volume, self.claim) {
            self.bind(volume, plan);
        } else {
            let text = format!("volume {name:?} already bound to a different claim.");
            self.tell(true, "FailedBinding", text, plan);
        }
    }

    /// The user leaves the choice to the cluster.
    fn find(&self, plan: &mut Plan) {
        let waits = volumes::waits_for_consumer(self.seen, self.claim);
        if let Some(volume) = matching::best(self.seen, self.claim, waits) {
            return self.bind(volume, plan);
        }
        let class = volumes::class_name(self.claim);
        if class.is_none()
            && let Some(class) = matching::default_class(self.seen)
        {
            let patch = json!({ "spec": { "storageClassName": class.metadata.name } });
            return plan.act(change(self.claim, patch));
        }
        if waits && annotation(self.claim, ANNOTATION_SELECTED_NODE).is_none() {
            return self.wait_for_consumer(plan);
        }
        match class.unwrap_or_default() {
            "" => {
                let text = "no persistent volumes available for this claim and no storage class is set";
                self.tell(false, "FailedBinding", text, plan);
            }
            class => self.provision(class, plan),
        }
    }

    fn wait_for_consumer(&self, plan: &mut Plan) {
        let waiting = self.seen.pods.unbound().filter(|pod| {
            pod.meta.key.namespace == self.key.namespace && pod.claims.contains(&self.key.name)
        });
        let pods: Vec<&str> = waiting.map(|pod| &*pod.meta.key.name).collect();
        if pods.is_empty() {
            let text = "waiting for first consumer to be created before binding";
            self.tell(false, "WaitForFirstConsumer", text, plan);
        } else {
            let text = format!("waiting for pod {} to be scheduled", pods.join(","));
            self.tell(false, "WaitForPodScheduled", text, plan);
        }
    }

    /// Says whose turn it is to make a volume.
    fn provision(&self, class_name: &str, plan: &mut Plan) {
        let Some(class) = volumes::class(self.seen, self.claim) else {
            let text = format!("storageclass.storage.k8s.io {class_name:?} not found");
            return self.tell(true, "ProvisioningFailed", text, plan);
        };
        let provisioner = class.provisioner.as_str();
        if provisioner == NO_PROVISIONER {
            let text = format!("no volume plugin matched name: {provisioner}");
            return self.tell(true, "ProvisioningFailed", text, plan);
        }
        if provisioner == LOCAL_PATH_PROVISIONER
            && class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer")
        {
            let text = format!(
                "StorageClass {class_name:?}: volumeBindingMode: {provisioner} makes volumes on the node of \
                 their first consumer: use WaitForFirstConsumer"
            );
            return self.tell(true, "ProvisioningFailed", text, plan);
        }
        let names = [ANNOTATION_BETA_STORAGE_PROVISIONER, ANNOTATION_STORAGE_PROVISIONER];
        if names.iter().any(|name| annotation(self.claim, name) != Some(provisioner)) {
            let annotations: Value =
                names.iter().map(|name| ((*name).to_owned(), json!(provisioner))).collect();
            plan.act(change(self.claim, json!({ "metadata": { "annotations": annotations } })));
        }
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        self.tell(false, "ExternalProvisioning", text, plan);
    }

    /// Brings a binding to its end: the volume's word, its phase, the claim's word, its status.
    fn bind(&self, volume: &Arc<PersistentVolume>, plan: &mut Plan) {
        if let Some(verb) = self.promise(volume) {
            plan.act(verb);
        }
        if volume.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
            let status = json!({
                "phase": "Bound", "lastPhaseTransitionTime": Time(self.now), "message": null, "reason": null,
            });
            plan.act_then(change_status(&**volume, status));
        }
        if let Some(verb) = self.accept(volume) {
            plan.act_then(verb);
        }
        let old = self.claim.status.clone().unwrap_or_default();
        let mut new = old.clone();
        new.phase = Some("Bound".to_owned());
        let spec = volume.spec.as_ref();
        new.access_modes = spec.and_then(|s| s.access_modes.clone());
        // Later the capacity is the expansion's.
        if self.phase() != "Bound" || new.capacity.is_none() {
            new.capacity = spec.and_then(|s| s.capacity.clone());
        }
        if let Some(patch) = difference(&json!(old), &json!(new)) {
            plan.act_then(change_status(self.claim, patch));
        }
    }

    /// The volume is promised to this claim and no other.
    fn promise(&self, volume: &PersistentVolume) -> Option<Verb> {
        let meta = &self.claim.metadata;
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let exact = volumes::is_bound_to(volume, self.claim);
        if exact && reference.is_some_and(|r| r.uid == meta.uid) {
            return None;
        }
        let mut patch = json!({ "spec": { "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
            "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version,
        } } });
        if !exact {
            patch["metadata"] = json!({ "annotations": { ANNOTATION_BOUND_BY_CONTROLLER: "yes" } });
        }
        Some(change(volume, patch))
    }

    /// The claim names its volume.
    fn accept(&self, volume: &PersistentVolume) -> Option<Verb> {
        let named = self.claim.spec.as_ref().and_then(|s| s.volume_name.as_ref());
        let mut patch = json!({});
        if named != volume.metadata.name.as_ref() {
            patch["spec"]["volumeName"] = json!(volume.metadata.name);
            patch["metadata"]["annotations"][ANNOTATION_BOUND_BY_CONTROLLER] = "yes".into();
        }
        if annotation(self.claim, ANNOTATION_BIND_COMPLETED).is_none() {
            patch["metadata"]["annotations"][ANNOTATION_BIND_COMPLETED] = "yes".into();
        }
        (patch != json!({})).then(|| change(self.claim, patch))
    }
}
