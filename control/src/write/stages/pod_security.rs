//! PodSecurity: pods and templates against the labels of their namespace, and the labels themselves.
//!
//! What is found is [`proa_kinds::admission::pod_security`]'s. There is no audit log: what is to be
//! audited is written to the log of the server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::Refusal;
use proa_api::field::FieldErrors;
use proa_kinds::admission::pod_security::{Policy, decide, is_significant, namespace, policy};
use proa_kinds::{Kind, Part};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::store::Store;
use crate::write::request::Warnings;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// Keeps pods to what the labels of their namespace let them ask for.
pub struct PodSecurity;

impl Stage for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        matches!(
            (kind.group.as_str(), kind.kind.as_str()),
            ("", "Namespace" | "Pod" | "PodTemplate" | "ReplicationController") | ("apps" | "batch", _)
        )
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        let (store, kind, warnings) = (attempt.store, attempt.kind, &attempt.options.warnings);
        match (&attempt.operation, attempt.old) {
            (Operation::Create, _) => check_create(store, kind, new, warnings).into(),
            (Operation::Update(Part::Main), Some(old)) => {
                check_update(store, kind, old, new, warnings).into()
            }
            _ => Verdict::PASSED,
        }
    }
}

/// Looks at a new object.
///
/// # Errors
/// 403 for a pod that its namespace does not want, 422 for labels that cannot be read.
fn check_create(store: &Store, kind: &Kind, object: &Value, warnings: &Warnings) -> Result<(), Refusal> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => check_labels(kind, &Value::Null, object),
        ("", "Pod") => check_pod(store, kind, object, &read(object)?, warnings),
        _ => check_template(store, kind, object, warnings),
    }
}

/// Looks at a change of an object itself, not of its status.
///
/// # Errors
/// As for [`check_create`]; what has been there before is let through.
fn check_update(
    store: &Store,
    kind: &Kind,
    old: &Value,
    new: &Value,
    warnings: &Warnings,
) -> Result<(), Refusal> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => {
            check_labels(kind, old, new)?;
            warn_of_pods(store, old, new, warnings)
        }
        ("", "Pod") => {
            let (before, pod) = (read(old)?, read(new)?);
            if !is_significant(&before, &pod) {
                return Ok(());
            }
            check_pod(store, kind, new, &pod, warnings)
        }
        _ => check_template(store, kind, new, warnings),
    }
}

fn read(object: &Value) -> Result<Pod, Refusal> {
    Pod::deserialize(object).map_err(Refusal::internal)
}

/// What the labels of a namespace ask for. Nothing of one that is not there, in which nothing can be
/// made anyway.
fn policy_of(store: &Store, object: &Value) -> Policy {
    let name = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let namespace = store.collection("namespaces").get("", name).map(|namespace| namespace.value());
    Policy::of(&labels(&namespace.unwrap_or_default())).0
}

fn labels(namespace: &Value) -> BTreeMap<String, String> {
    let labels = namespace["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn check_pod(
    store: &Store,
    kind: &Kind,
    object: &Value,
    pod: &Pod,
    warnings: &Warnings,
) -> Result<(), Refusal> {
    let policy = policy_of(store, object);
    if policy.is_open() {
        return Ok(());
    }
    apply(&policy, kind, object, pod, false, warnings)
}

fn check_template(store: &Store, kind: &Kind, object: &Value, warnings: &Warnings) -> Result<(), Refusal> {
    let Some(template) = template(kind, object) else { return Ok(()) };
    let policy = policy_of(store, object);
    if policy.is_open() {
        return Ok(());
    }
    let metadata = ObjectMeta::deserialize(&template["metadata"]).unwrap_or_default();
    let spec = json!({ "spec": template["spec"] });
    let pod = Pod { metadata, ..read(&spec)? };
    apply(&policy, kind, object, &pod, true, warnings)
}

/// The template of the pods that an object makes.
fn template<'a>(kind: &Kind, object: &'a Value) -> Option<&'a Value> {
    let pointer = match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        ("", "PodTemplate") => "/template",
        _ => return None,
    };
    object.pointer(pointer).filter(|template| template["spec"].is_object())
}

fn apply(
    policy: &Policy,
    kind: &Kind,
    object: &Value,
    pod: &Pod,
    is_template: bool,
    warnings: &Warnings,
) -> Result<(), Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let verdict = decide(policy, pod, is_template);
    if let Some(audit) = verdict.audit {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        tracing::info!(kind = kind.kind, namespace, name, "audit: {audit}");
    }
    if let Some(warning) = verdict.warning {
        warnings.add(warning);
    }
    match verdict.refused {
        Some(why) => Err(Refusal::forbidden(kind.resource(), name, why)),
        None => Ok(()),
    }
}

/// Labels must be readable when they come, and when they change.
fn check_labels(kind: &Kind, old: &Value, new: &Value) -> Result<(), Refusal> {
    let ((_, before), (_, faults)) = (Policy::of(&labels(old)), Policy::of(&labels(new)));
    if faults.is_empty() || faults == before {
        return Ok(());
    }
    let mut errors = FieldErrors::new();
    policy::report(&faults, &mut errors);
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    Err(Refusal::invalid(&kind.group, &kind.kind, name, &errors))
}

/// Tells of pods that are there and would not be let in any more.
fn warn_of_pods(store: &Store, old: &Value, new: &Value, warnings: &Warnings) -> Result<(), Refusal> {
    let ((before, _), (policy, _)) = (Policy::of(&labels(old)), Policy::of(&labels(new)));
    if !policy.is_stricter_than(&before) {
        return Ok(());
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let all = store.collection("pods").all(Some(name));
    let looked_at = all.iter().take(namespace::MAX_PODS);
    let pods =
        looked_at.map(|pod| pod.decode()).collect::<Result<Vec<Pod>, _>>().map_err(Refusal::internal)?;
    for warning in namespace::warnings(name, policy.enforce, &pods, all.len()) {
        warnings.add(warning);
    }
    Ok(())
}
