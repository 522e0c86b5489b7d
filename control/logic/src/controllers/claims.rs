//! Claims: which pods belong to a workload, and how it makes and deletes them.
//!
//! Read by every controller that makes pods from a template. Pods are adopted when they match the
//! selector and have no controller, and released when they no longer match. Decides nothing about
//! how many pods there should be.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};
use proa_api::owner::controller_reference;
use proa_api::selector::{Labels, Selector};
use serde_json::{Value, json};

use crate::world::facts::Pod;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Report, Verb};
use proa_kinds::Part;

/// A workload, as far as its pods are concerned.
#[derive(Debug)]
pub(super) struct Owner {
    /// What Events are about.
    pub reference: Reference,
    /// Which pods it selects.
    pub selector: Selector,
    /// What its pods carry.
    pub owner_reference: OwnerReference,
    /// A finalizer that its pods carry while they are its own.
    finalizer: Option<&'static str>,
    deleting: bool,
}

impl Owner {
    /// A workload with this selector.
    pub fn of<K>(object: &K, selector: Option<&LabelSelector>) -> Self
    where
        K: Resource + Metadata<Ty = ObjectMeta>,
    {
        Owner {
            reference: Reference::to(object),
            selector: Selector::from_object(selector),
            owner_reference: controller_reference(object),
            finalizer: None,
            deleting: object.metadata().deletion_timestamp.is_some(),
        }
    }

    /// A workload that selects by labels alone. An empty selector, which validation keeps out,
    /// selects nothing.
    pub fn by_labels<K>(object: &K, labels: &Labels) -> Self
    where
        K: Resource + Metadata<Ty = ObjectMeta>,
    {
        let selector = if labels.is_empty() { Selector::nothing() } else { Selector::from_map(labels) };
        Owner { selector, ..Owner::of(object, None) }
    }

    /// The same, with a finalizer on its pods.
    pub fn with_finalizer(mut self, finalizer: &'static str) -> Self {
        self.finalizer = Some(finalizer);
        self
    }

    /// The pods that belong to the workload after the adoptions and releases that the plan gets.
    /// Of the pods that nobody owns, only those that `may_adopt` are looked at.
    pub fn claim<'a>(
        &'a self,
        seen: &'a Observed,
        may_adopt: impl Fn(&Pod) -> bool,
        plan: &mut Plan,
    ) -> Vec<&'a Arc<Pod>> {
        let uid = self.owner_reference.uid.as_str();
        let mut claimed = Vec::new();
        for pod in owned(seen, uid) {
            if self.selector.matches(Some(&pod.labels)) {
                claimed.push(pod);
            } else if !self.deleting && pod.meta.deleted.is_none() {
                plan.act(self.release(pod));
            }
        }
        if !self.deleting {
            for pod in seen.pods.unowned(&self.reference.namespace) {
                if pod.is_active() && self.selector.matches(Some(&pod.labels)) && may_adopt(pod) {
                    plan.act(self.adopt(pod));
                    claimed.push(pod);
                }
            }
        }
        claimed
    }

    fn release(&self, pod: &Pod) -> Verb {
        let rest: Vec<&OwnerReference> =
            pod.meta.owners.iter().filter(|o| o.uid != self.owner_reference.uid).collect();
        let mut metadata = json!({ "ownerReferences": rest });
        if let Some(finalizer) = self.finalizer {
            metadata["finalizers"] = json!(without(&pod.meta.finalizers, finalizer));
        }
        set_metadata(pod, metadata)
    }

    fn adopt(&self, pod: &Pod) -> Verb {
        let mut owners = pod.meta.owners.to_vec();
        owners.push(self.owner_reference.clone());
        let mut metadata = json!({ "ownerReferences": owners });
        if let Some(finalizer) = self.finalizer.filter(|f| !pod.meta.has_finalizer(f)) {
            let mut finalizers = pod.meta.finalizers.to_vec();
            finalizers.push(finalizer.to_owned());
            metadata["finalizers"] = json!(finalizers);
        }
        set_metadata(pod, metadata)
    }

    /// A pod of the template, without a name.
    pub fn pod(&self, template: &PodTemplateSpec) -> Value {
        let meta = template.metadata.clone().unwrap_or_default();
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": &*self.reference.namespace,
                "ownerReferences": [self.owner_reference],
            },
            "spec": template.spec.clone().unwrap_or_default(),
        });
        let mut finalizers = meta.finalizers.unwrap_or_default();
        if let Some(finalizer) = self.finalizer
            && !finalizers.iter().any(|f| f == finalizer)
        {
            finalizers.push(finalizer.to_owned());
        }
        let kept = [
            ("labels", meta.labels.map(|l| json!(l))),
            ("annotations", meta.annotations.map(|a| json!(a))),
            ("finalizers", (!finalizers.is_empty()).then(|| json!(finalizers))),
        ];
        for (field, value) in kept {
            if let Some(value) = value {
                body["metadata"][field] = value;
            }
        }
        body
    }

    /// Creates a pod, and tells how that went.
    pub fn create(&self, body: Value, plan: &mut Plan) {
        let done = ("SuccessfulCreate", "Created pod: {}".to_owned());
        let failed = ("FailedCreate", "Error creating: {}".to_owned());
        plan.act_and_report(self.creation(body), self.report(done, failed));
    }

    /// The creation of a pod.
    pub fn creation(&self, body: Value) -> Verb {
        Verb::Create { api_version: "v1", kind: "Pod", namespace: self.reference.namespace.to_string(), body }
    }

    /// Deletes a pod, and tells how that went.
    pub fn delete(&self, pod: &Pod, plan: &mut Plan) {
        self.delete_by(deletion(pod), plan);
    }

    /// The same, unless the pod has changed: it may have become what it was deleted for not being.
    pub fn delete_as_seen(&self, pod: &Pod, plan: &mut Plan) {
        self.delete_by(deletion_as_seen(pod), plan);
    }

    fn delete_by(&self, verb: Verb, plan: &mut Plan) {
        let done = ("SuccessfulDelete", "Deleted pod: {}".to_owned());
        let failed = ("FailedDelete", "Error deleting: {}".to_owned());
        plan.act_and_report(verb, self.report(done, failed));
    }

    /// Events about the workload.
    pub fn report(&self, done: (&'static str, String), failed: (&'static str, String)) -> Report {
        Report { about: self.reference.clone(), done: Some(done), failed: Some(failed) }
    }
}

/// The deletion of a pod, with its own grace period.
pub(super) fn deletion(pod: &Pod) -> Verb {
    delete(pod, None)
}

/// The same, of a pod that has not changed since.
pub(super) fn deletion_as_seen(pod: &Pod) -> Verb {
    delete(pod, Some(pod.meta.resource_version.to_string()))
}

fn delete(pod: &Pod, resource_version: Option<String>) -> Verb {
    Verb::Delete {
        target: pod.meta.reference(),
        resource_version,
        propagation: None,
        grace_period_seconds: None,
        unless: Vec::new(),
    }
}

/// The pods that the controller with this uid owns.
pub(super) fn owned<'a>(seen: &'a Observed, uid: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
    seen.graph
        .dependents(uid)
        .filter(move |m| m.kind.is::<core::Pod>() && m.controller().is_some_and(|c| c.uid == uid))
        .filter_map(|m| seen.pods.get(&m.key))
}

/// Takes a finalizer off a pod.
pub(super) fn remove_finalizer(pod: &Pod, finalizer: &str) -> Verb {
    set_metadata(pod, json!({ "finalizers": without(&pod.meta.finalizers, finalizer) }))
}

fn without<'a>(finalizers: &'a [String], finalizer: &str) -> Vec<&'a String> {
    finalizers.iter().filter(|f| *f != finalizer).collect()
}

fn set_metadata(pod: &Pod, metadata: Value) -> Verb {
    Verb::Patch {
        target: pod.meta.reference(),
        part: Part::Main,
        guard: Guard::unchanged(&pod.meta.resource_version),
        change: Change::Merge(json!({ "metadata": metadata })),
    }
}
