//! What may change in a Job once it is there.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use proa_api::field::{FieldErrors, Path};
use serde::Serialize;

use super::indexes::is_indexed;
use crate::syntax::IMMUTABLE;

const SPEC: Path<'static> = Path::root("spec");

/// What is wrong with the change.
pub(super) fn validate(old: &Job, new: &Job, errors: &mut FieldErrors) {
    let (Some(before), Some(after)) = (&old.spec, &new.spec) else { return };
    completions(before, after, errors);
    fixed("selector", &before.selector, &after.selector, errors);
    let mut template = before.template.clone();
    if waits_to_start(old, before) {
        take_directives(&mut template, &after.template);
    }
    fixed("template", &template, &after.template, errors);
    fixed("completionMode", &before.completion_mode, &after.completion_mode, errors);
    fixed("podFailurePolicy", &before.pod_failure_policy, &after.pod_failure_policy, errors);
    fixed("backoffLimitPerIndex", &before.backoff_limit_per_index, &after.backoff_limit_per_index, errors);
    fixed("managedBy", &before.managed_by, &after.managed_by, errors);
    fixed("successPolicy", &before.success_policy, &after.success_policy, errors);
}

fn fixed<T: PartialEq + Serialize>(field: &str, before: &T, after: &T, errors: &mut FieldErrors) {
    if before != after {
        let value = serde_json::to_value(after).unwrap_or_default();
        errors.invalid(&SPEC.field(field), value, IMMUTABLE);
    }
}

/// An indexed Job that runs all its indexes at once may be made wider and narrower.
fn completions(before: &JobSpec, after: &JobSpec, errors: &mut FieldErrors) {
    if before.completions == after.completions {
        return;
    }
    if !is_indexed(after) || before.completions.is_none() {
        fixed("completions", &before.completions, &after.completions, errors);
    } else if after.completions != after.parallelism {
        let text = "field can only be modified in tandem with spec.parallelism";
        errors.invalid(&SPEC.field("completions"), after.completions, text);
    }
}

/// True for a Job that is held back and has never run: who holds it may say where it is to run.
fn waits_to_start(job: &Job, spec: &JobSpec) -> bool {
    spec.suspend == Some(true) && job.status.as_ref().is_none_or(|s| s.start_time.is_none())
}

fn take_directives(template: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    let meta = template.metadata.get_or_insert_default();
    let new_meta = new.metadata.clone().unwrap_or_default();
    (meta.annotations, meta.labels) = (new_meta.annotations, new_meta.labels);
    let (Some(pod), Some(new)) = (&mut template.spec, &new.spec) else { return };
    pod.node_selector.clone_from(&new.node_selector);
    pod.tolerations.clone_from(&new.tolerations);
    pod.scheduling_gates.clone_from(&new.scheduling_gates);
    pod.affinity.clone_from(&new.affinity);
}
