//! Job: pods that run until enough of them have succeeded.
//!
//! The rules of the policies (what failures count, when it is a success) are in `policies.rs`,
//! what may change in `update.rs`. The rules of the spec are also those of a CronJob's template.

mod indexes;
mod policies;
#[cfg(test)]
mod tests;
mod update;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use proa_api::field::{FieldErrors, Path};
use proa_api::selector::Selector;
use serde_json::Value;

use super::template;
use crate::columns::{
    age, column, container_images, container_names, human_duration, items, name, number, selector, time, wide,
};
use crate::rules::{TypedRules, row};
use crate::syntax::{NOT_NEGATIVE, not_between};
use crate::{Kind, SelectableField, meta};

pub use indexes::Indexes;

/// An indexed Job runs no more pods at once.
const INDEXED_PARALLELISM_MAX: i32 = 100_000;
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];

/// The rules of Jobs.
pub struct Jobs;

/// The row of Jobs.
pub fn kind() -> Kind {
    Kind {
        categories: vec!["all".into()],
        has_generation: true,
        columns: vec![
            name(),
            column("Status", "string", "Status of the job.", |o, _| state(o).into()),
            column("Completions", "string", "Number of pods that succeeded, of those wanted.", |o, _| {
                completions(o).into()
            }),
            column("Duration", "string", "Time from the start to the completion, or to now.", |o, now| {
                duration(o, now).into()
            }),
            age(),
            wide("Containers", "Names of each container in the template.", |o, _| container_names(o).into()),
            wide("Images", "Images referenced by each container in the template.", |o, _| {
                container_images(o).into()
            }),
            wide("Selector", "Labels of the pods that this manages.", |o, _| {
                selector(o.pointer("/spec/selector")).into()
            }),
        ],
        selectable_fields: vec![SelectableField::new("status.successful", |o| {
            number(o, "/status/succeeded").to_string()
        })],
        ..row::<Jobs>()
    }
}

fn state(job: &Value) -> &'static str {
    let is =
        |type_: &str| items(job, "/status/conditions").any(|c| c["type"] == type_ && c["status"] == "True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string) {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, "/status/succeeded");
    let parallelism = number(job, "/spec/parallelism");
    match job.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let Some(start) = time(job.pointer("/status/startTime")) else { return String::new() };
    let failed = items(job, "/status/conditions").find(|c| c["type"] == "Failed" && c["status"] == "True");
    let end = time(job.pointer("/status/completionTime"));
    let end = end.or(failed.and_then(|c| time(c.get("lastTransitionTime"))));
    human_duration(end.unwrap_or(now).as_second() - start.as_second())
}

impl TypedRules for Jobs {
    type Object = Job;
    const HAS_STATUS: bool = true;

    fn default(job: &mut Job) {
        job.status.get_or_insert_default();
        default_spec(job.spec.get_or_insert_default());
    }

    fn prepare_create(job: &mut Job) {
        let (name, uid) =
            (job.metadata.name.clone().unwrap_or_default(), job.metadata.uid.clone().unwrap_or_default());
        let spec = job.spec.get_or_insert_default();
        if spec.manual_selector != Some(true) {
            generate_selector(spec, &name, &uid);
        }
        // A Job without labels is found by those of its pods.
        if job.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
            job.metadata.labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone());
        }
    }

    fn validate(job: &Job, errors: &mut FieldErrors) {
        let Some(spec) = &job.spec else { return };
        let path = Path::root("spec");
        let Some(selector) = &spec.selector else {
            errors.required(&path.field("selector"), "");
            validate_spec(spec, &path, errors);
            return;
        };
        meta::label_selector(selector, &path.field("selector"), errors);
        validate_spec(spec, &path, errors);
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if !Selector::from_object(Some(selector)).matches(labels) {
            let value = serde_json::to_value(labels).unwrap_or_default();
            let template = path.field("template");
            let text = "`selector` does not match template `labels`";
            errors.invalid(&template.field("metadata").field("labels"), value, text);
        }
    }

    fn validate_create(job: &Job, errors: &mut FieldErrors) {
        if let Some(spec) = job.spec.as_ref().filter(|spec| spec.manual_selector != Some(true)) {
            validate_generated(job, spec, errors);
        }
    }

    fn validate_update(old: &Job, new: &Job, errors: &mut FieldErrors) {
        update::validate(old, new, errors);
    }

    fn validate_status_update(_old: &Job, new: &Job, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let counts = [
            ("active", status.active),
            ("succeeded", status.succeeded),
            ("failed", status.failed),
            ("ready", status.ready),
            ("terminating", status.terminating),
        ];
        template::counts(&counts, i32::MAX, errors);
    }
}

/// Fills in the spec of a Job.
pub fn default_spec(spec: &mut JobSpec) {
    // Work that ends with its first success has parallelism alone.
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let limit = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
    spec.backoff_limit.get_or_insert(limit);
    spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
    spec.suspend.get_or_insert(false);
    let policy = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    spec.pod_replacement_policy.get_or_insert_with(|| policy.to_owned());
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|p| &mut p.rules);
    for pattern in rules.flat_map(|r| r.on_pod_conditions.iter_mut().flatten()) {
        pattern.status.get_or_insert_with(|| "True".to_owned());
    }
    template::default(&mut spec.template);
}

/// Makes the pods of the Job its own, and nobody else's.
fn generate_selector(spec: &mut JobSpec, name: &str, uid: &str) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (keys, value) in [(NAME_LABELS, name), (UID_LABELS, uid)] {
        for key in keys {
            labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    let selected = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selected.entry(UID_LABELS[0].to_owned()).or_insert_with(|| uid.to_owned());
}

fn validate_generated(job: &Job, spec: &JobSpec, errors: &mut FieldErrors) {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let empty = BTreeMap::new();
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    let path = Path::root("spec");
    let template = path.field("template");
    let metadata = template.field("metadata");
    for (keys, value) in [(UID_LABELS, uid), (NAME_LABELS, name)] {
        for key in keys.into_iter().filter(|key| labels.get(*key).is_none_or(|own| own != value)) {
            let own = labels.get(key).map(String::as_str).unwrap_or_default();
            errors.invalid(&metadata.field("labels"), own, format!("must be '{value}'"));
        }
    }
    let Some(selector) = &spec.selector else { return };
    let own = BTreeMap::from([(UID_LABELS[0].to_owned(), uid.to_owned())]);
    let legacy = BTreeMap::from([(UID_LABELS[1].to_owned(), uid.to_owned())]);
    let generated = selector.match_labels.as_ref().is_some_and(|l| *l == own || *l == legacy)
        && selector.match_expressions.as_ref().is_none_or(|e| e.is_empty());
    if !generated {
        let value = serde_json::to_value(selector).unwrap_or_default();
        errors.invalid(&path.field("selector"), value, "`selector` not auto-generated");
    }
}

/// What is wrong with the spec of a Job, wherever it stands.
pub fn validate_spec(spec: &JobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let counts = [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ];
    for (field, count) in counts {
        if let Some(count) = count.filter(|count| *count < 0) {
            errors.invalid(&path.field(field), count, NOT_NEGATIVE);
        }
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&path.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(by) = spec.managed_by.as_deref() {
        managed_by(by, &path.field("managedBy"), errors);
    }
    completion_mode(spec, path, errors);
    policies::failure(spec, path, errors);
    policies::success(spec, path, errors);
    policies::replacement(spec, path, errors);
    validate_template(spec, &path.field("template"), errors);
}

fn managed_by(by: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let prefixed = by
        .split_once('/')
        .is_some_and(|(domain, rest)| crate::syntax::subdomain(domain).is_empty() && !rest.is_empty());
    if !prefixed {
        errors.invalid(path, by, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    if by.len() > 63 {
        errors.invalid(path, by, crate::syntax::too_many_bytes(63));
    }
}

fn completion_mode(spec: &JobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let mode = spec.completion_mode.as_deref().unwrap_or("NonIndexed");
    if mode == "NonIndexed" {
        let indexed_only = [
            ("backoffLimitPerIndex", spec.backoff_limit_per_index),
            ("maxFailedIndexes", spec.max_failed_indexes),
        ];
        for (field, value) in indexed_only {
            if let Some(value) = value {
                errors.invalid(&path.field(field), value, "requires indexed completion mode");
            }
        }
        return;
    }
    if mode != "Indexed" {
        errors.not_supported(&path.field("completionMode"), mode, &["NonIndexed", "Indexed"]);
        return;
    }
    let Some(completions) = spec.completions else {
        errors.required(&path.field("completions"), "when completion mode is Indexed");
        return;
    };
    if let Some(parallelism) = spec.parallelism.filter(|p| *p > INDEXED_PARALLELISM_MAX) {
        let text = format!(
            "must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed"
        );
        errors.invalid(&path.field("parallelism"), parallelism, text);
    }
    if let Some(most) = spec.max_failed_indexes {
        if most > completions {
            errors.invalid(
                &path.field("maxFailedIndexes"),
                most,
                "must be less than or equal to completions",
            );
        }
        if most > INDEXED_PARALLELISM_MAX {
            let text = not_between(0, INDEXED_PARALLELISM_MAX.into());
            errors.invalid(&path.field("maxFailedIndexes"), most, text);
        }
    }
}

fn validate_template(spec: &JobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(pod) = template::validate_pod(&spec.template, path, errors) else { return };
    let pod_path = path.field("spec");
    let policy = pod.restart_policy.as_deref().unwrap_or_default();
    let path = pod_path.field("restartPolicy");
    match policy {
        // Templates that say nothing have been given the default of pods.
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&path, other, &["OnFailure", "Never"]),
    }
    if spec.pod_failure_policy.is_some() && policy != "Never" {
        errors.invalid(&path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}
