//! Pod templates and their selectors, as all workloads have them.
//!
//! Read by the kinds that make pods; the rules of the pods themselves are in `pod`.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::{FieldErrors, Path};
use proa_api::selector::Selector;

use super::pod;
use crate::columns::{age, column, name, number, template_containers, template_images};
use crate::meta;
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, NOT_NEGATIVE, report};
use crate::{Column, Kind, SelectableField};

const SPEC: Path<'static> = Path::root("spec");

/// Fills in a template's defaults.
pub fn default(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    pod::defaults::spec(template.spec.get_or_insert_default());
}

/// What is wrong with a workload's selector, wherever it selects. One that selects by nothing is
/// taken for an absent one.
pub fn selector(selector: &LabelSelector, errors: &mut FieldErrors) {
    let path = SPEC.field("selector");
    if is_empty(selector) {
        errors.required(&path, "");
    }
    meta::label_selector(selector, &path, errors);
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|expressions| expressions.is_empty())
}

/// A selector stays as it is: `field is immutable`.
pub fn selector_stays(old: &LabelSelector, new: &LabelSelector, errors: &mut FieldErrors) {
    if old != new {
        let value = serde_json::to_value(new).unwrap_or_default();
        errors.invalid(&SPEC.field("selector"), value, IMMUTABLE);
    }
}

/// Fields of a workload's spec that count something.
pub fn not_negative(counts: &[(&str, Option<i32>)], errors: &mut FieldErrors) {
    for (field, count) in counts {
        if let Some(count) = count.filter(|count| *count < 0) {
            errors.invalid(&SPEC.field(field), count, NOT_NEGATIVE);
        }
    }
}

/// What the rows of all workloads have, beside what is their own.
pub fn workload<R: TypedRules>(short_name: &'static str) -> Kind {
    Kind {
        short_names: vec![short_name.into()],
        categories: vec!["all".into()],
        has_generation: true,
        ..row::<R>()
    }
}

/// The columns of what keeps a number of pods.
pub fn replica_columns(selector: Column) -> Vec<Column> {
    vec![
        name(),
        column("Desired", "integer", "Number of pods wanted.", |o, _| number(o, "/spec/replicas").into()),
        column("Current", "integer", "Number of pods there are.", |o, _| {
            number(o, "/status/replicas").into()
        }),
        column("Ready", "integer", "Number of pods that are ready.", |o, _| {
            number(o, "/status/readyReplicas").into()
        }),
        age(),
        template_containers(),
        template_images(),
        selector,
    ]
}

/// By how many pods there are, which old clients select.
pub fn selectable_replicas() -> Vec<SelectableField> {
    vec![SelectableField::new("status.replicas", |o| number(o, "/status/replicas").to_string())]
}

/// What is wrong with a template of a workload whose pods run for ever.
pub fn validate(template: &PodTemplateSpec, selector: &LabelSelector, kind: &str, errors: &mut FieldErrors) {
    let path = SPEC.field("template");
    let metadata = path.field("metadata");
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if is_empty(selector) || !Selector::from_object(Some(selector)).matches(labels) {
        let value = serde_json::to_value(labels).unwrap_or_default();
        errors.invalid(&metadata.field("labels"), value, "`selector` does not match template `labels`");
    }
    let Some(spec) = validate_pod(template, &path, errors) else { return };
    let spec_path = path.field("spec");
    match spec.restart_policy.as_deref().unwrap_or_default() {
        "" | "Always" => {}
        other => errors.not_supported(&spec_path.field("restartPolicy"), other, &["Always"]),
    }
    if spec.active_deadline_seconds.is_some() {
        errors.forbidden(
            &spec_path.field("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

/// What is wrong with a template, whatever its pods are for. Gives its spec, if it has one.
pub fn validate_pod<'a>(
    template: &'a PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> Option<&'a PodSpec> {
    let metadata = path.field("metadata");
    let meta = template.metadata.as_ref();
    meta::labels(meta.and_then(|meta| meta.labels.as_ref()), &metadata.field("labels"), errors);
    let annotations = meta.and_then(|meta| meta.annotations.as_ref());
    meta::annotations(annotations, &metadata.field("annotations"), errors);
    let Some(spec) = &template.spec else {
        errors.required(&path.field("spec"), "");
        return None;
    };
    let spec_path = path.field("spec");
    pod::validate::spec(spec, &spec_path, errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        errors.forbidden(
            &spec_path.field("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
    Some(spec)
}

/// What is wrong with a number of pods, or a share of them.
pub fn int_or_percent(value: &IntOrString, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        IntOrString::Int(number) if *number < 0 => errors.invalid(path, *number, NOT_NEGATIVE),
        IntOrString::Int(_) => {}
        IntOrString::String(text) => report(syntax::percent(text), path, text, errors),
    }
}

/// Refuses a share of more than all.
pub fn at_most_all(value: &IntOrString, path: &Path<'_>, errors: &mut FieldErrors) {
    if let IntOrString::String(text) = value
        && amount(value).is_some_and(|percent| percent > 100)
    {
        errors.invalid(path, text.as_str(), "must not be greater than 100%");
    }
}

/// The number, or the percentage as a number.
pub fn amount(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::Int(number) => Some((*number).into()),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
    }
}

/// `cannot be greater than readyReplicas` for a status that counts more pods available than ready.
pub fn available(available: Option<i32>, ready: Option<i32>, errors: &mut FieldErrors) {
    if available > ready {
        let path = Path::root("status");
        let count = available.unwrap_or_default();
        errors.invalid(&path.field("availableReplicas"), count, "cannot be greater than readyReplicas");
    }
}

/// Counts of a status: none below zero, none above all replicas.
pub fn counts(counts: &[(&str, Option<i32>)], all: i32, errors: &mut FieldErrors) {
    let path = Path::root("status");
    for (field, count) in counts {
        let count = count.unwrap_or_default();
        let path = path.field(field);
        if count < 0 {
            errors.invalid(&path, count, NOT_NEGATIVE);
        } else if count > all && !["replicas", "collisionCount", "unavailableReplicas"].contains(field) {
            errors.invalid(&path, count, "cannot be greater than status.replicas");
        }
    }
}
