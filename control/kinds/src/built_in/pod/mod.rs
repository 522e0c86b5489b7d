//! Pod: containers that run together on one node.
//!
//! `defaults` and `validate` are also the rules of every workload's template.

mod columns;
mod container;
pub mod defaults;
mod env;
mod probe;
pub(super) mod resources;
pub mod scheduling;
mod security;
mod update;
pub mod validate;
pub mod volume;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

pub use resources::{requirements, resource_name};
pub use scheduling::{toleration_key, tolerations};

use crate::rules::{TypedRules, row};
use crate::{Kind, PROXY_VERBS, SelectableField, Subresource};

/// The rules of Pods.
pub struct Pods;

/// The row of Pods.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        has_generation: true,
        columns: columns::columns(),
        selectable_fields: selectable_fields(),
        ..row::<Pods>()
    }
    .with([
        Subresource::action("attach", Some(("", "v1", "PodAttachOptions")), &["create", "get"]),
        Subresource::action("exec", Some(("", "v1", "PodExecOptions")), &["create", "get"]),
        Subresource::action("portforward", Some(("", "v1", "PodPortForwardOptions")), &["create", "get"]),
        Subresource::action("proxy", Some(("", "v1", "PodProxyOptions")), PROXY_VERBS),
        Subresource::action("log", None, &["get"]),
        Subresource::action("binding", Some(("", "v1", "Binding")), &["create"]),
        Subresource::action("eviction", Some(("policy", "v1", "Eviction")), &["create"]),
    ])
}

fn selectable_fields() -> Vec<SelectableField> {
    vec![
        SelectableField::at("spec.nodeName", "/spec/nodeName"),
        SelectableField::at("spec.restartPolicy", "/spec/restartPolicy"),
        SelectableField::at("spec.schedulerName", "/spec/schedulerName"),
        SelectableField::at("spec.serviceAccountName", "/spec/serviceAccountName"),
        SelectableField::new("spec.hostNetwork", |o| {
            o.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or_default().to_string()
        }),
        SelectableField::at("status.phase", "/status/phase"),
        SelectableField::at("status.podIP", "/status/podIP"),
        SelectableField::at("status.nominatedNodeName", "/status/nominatedNodeName"),
    ]
}

impl TypedRules for Pods {
    type Object = Pod;
    const HAS_STATUS: bool = true;

    fn default(pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        defaults::spec(spec);
        defaults::pod_only(spec);
    }

    fn prepare_create(pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        defaults::tolerate_lost_nodes(spec);
        scheduling::merge_label_keys(spec, pod.metadata.labels.as_ref());
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(defaults::qos_class(spec).to_owned()),
            conditions: gated.then(|| vec![waits_at_gate()]),
            ..PodStatus::default()
        });
    }

    fn prepare_status_update(old: &Pod, new: &mut Pod) {
        // A status writer does not see to the pod's class: it is fixed at creation.
        let status = new.status.get_or_insert_default();
        status.phase.get_or_insert_with(|| "Pending".to_owned());
        if let (Some(old), None) = (&old.status, &status.qos_class) {
            status.qos_class.clone_from(&old.qos_class);
        }
    }

    fn prepare_update(_old: &Pod, new: &mut Pod) {
        defaults::tolerate_lost_nodes(new.spec.get_or_insert_default());
    }

    fn validate(pod: &Pod, errors: &mut FieldErrors) {
        if let Some(spec) = &pod.spec {
            validate::spec(spec, &Path::root("spec"), errors);
            validate::pod_only(spec, &Path::root("spec"), errors);
        }
    }

    fn validate_create(pod: &Pod, errors: &mut FieldErrors) {
        validate::create(pod, errors);
    }

    fn validate_update(old: &Pod, new: &Pod, errors: &mut FieldErrors) {
        if let (Some(old), Some(new)) = (&old.spec, &new.spec) {
            update::spec(old, new, errors);
        }
    }

    fn validate_status_update(old: &Pod, new: &Pod, errors: &mut FieldErrors) {
        update::status(old, new, errors);
    }
}

fn waits_at_gate() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests;
