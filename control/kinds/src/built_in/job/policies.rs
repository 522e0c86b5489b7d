//! What is wrong with a Job's policies on failed pods, on success and on replacement.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule, SuccessPolicyRule};
use proa_api::field::{FieldErrors, Path};

use super::indexes::{Indexes, is_indexed};
use crate::syntax::{self, NOT_NEGATIVE, report};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const INDEXES_TEXT_MAX_BYTES: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// What is wrong with `podFailurePolicy`.
pub(super) fn failure(spec: &JobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = &spec.pod_failure_policy else { return };
    let policy_path = path.field("podFailurePolicy");
    let rules_path = policy_path.field("rules");
    if policy.rules.len() > RULES_MAX {
        errors.too_many(&rules_path, policy.rules.len(), RULES_MAX);
        return;
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        failure_rule(spec, rule, &rules_path.index(i), errors);
    }
}

fn failure_rule(spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path<'_>, errors: &mut FieldErrors) {
    let action = path.field("action");
    match rule.action.as_str() {
        "" => errors.required(&action, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            errors.invalid(&action, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        known if ACTIONS.contains(&known) => {}
        other => errors.not_supported(&action, other, &ACTIONS),
    }
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    match (&rule.on_exit_codes, conditions.is_empty()) {
        (Some(_), false) => {
            errors.invalid(path, "", "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (None, true) => {
            errors.invalid(path, "", "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
    if rule.on_exit_codes.is_some() {
        exit_codes(spec, rule, &path.field("onExitCodes"), errors);
    }
    let list = path.field("onPodConditions");
    for (i, pattern) in conditions.iter().enumerate() {
        let at = list.index(i);
        report(syntax::qualified_name(&pattern.type_), &at.field("type"), &pattern.type_, errors);
        let status = pattern.status.as_deref();
        syntax::one_of(status, &["False", "True", "Unknown"], &at.field("status"), errors);
    }
}

fn exit_codes(spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(codes) = &rule.on_exit_codes else { return };
    syntax::one_of(Some(&codes.operator), &["In", "NotIn"], &path.field("operator"), errors);
    if let Some(name) = &codes.container_name {
        let pod = spec.template.spec.as_ref();
        let all = pod.iter().flat_map(|p| p.containers.iter().chain(p.init_containers.iter().flatten()));
        if !all.into_iter().any(|c| c.name == *name) {
            let text = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.field("containerName"), name.as_str(), text);
        }
    }
    let values = path.field("values");
    if codes.values.is_empty() {
        errors.invalid(&values, codes.values.clone(), "at least one value is required");
    } else if codes.values.len() > EXIT_CODES_MAX {
        errors.too_many(&values, codes.values.len(), EXIT_CODES_MAX);
    }
    let mut seen = BTreeSet::new();
    for (i, code) in codes.values.iter().enumerate() {
        if *code == 0 && codes.operator == "In" {
            errors.invalid(&values.index(i), *code, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.duplicate(&values.index(i), *code);
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(&values, codes.values.clone(), "must be ordered");
    }
}

/// What is wrong with `successPolicy`.
pub(super) fn success(spec: &JobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = &spec.success_policy else { return };
    let policy_path = path.field("successPolicy");
    if !is_indexed(spec) {
        let value = serde_json::to_value(policy).unwrap_or_default();
        errors.invalid(&policy_path, value, "requires indexed completion mode");
        return;
    }
    let rules = policy_path.field("rules");
    if policy.rules.is_empty() {
        errors.required(&rules, "at least one rules must be specified when the successPolicy is specified");
    } else if policy.rules.len() > RULES_MAX {
        errors.too_many(&rules, policy.rules.len(), RULES_MAX);
        return;
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        success_rule(spec, rule, &rules.index(i), errors);
    }
}

fn success_rule(spec: &JobSpec, rule: &SuccessPolicyRule, path: &Path<'_>, errors: &mut FieldErrors) {
    let completions = spec.completions.unwrap_or(0);
    let mut most = completions;
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    if let Some(text) = &rule.succeeded_indexes {
        let at = path.field("succeededIndexes");
        if text.len() > INDEXES_TEXT_MAX_BYTES {
            errors.invalid(&at, text.as_str(), syntax::too_many_bytes(INDEXES_TEXT_MAX_BYTES));
            return;
        }
        match Indexes::parse(text, completions) {
            Ok(indexes) => most = indexes.total(),
            Err(why) => {
                errors.invalid(&at, text.as_str(), format!("error parsing succeededIndexes: {why}"));
            }
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    let at = path.field("succeededCount");
    if count < 0 {
        errors.invalid(&at, count, NOT_NEGATIVE);
    }
    if count > completions {
        let text =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.invalid(&at, count, text);
    } else if count > most {
        let text = format!(
            "must be less than or equal to {most} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(&at, count, text);
    }
}

/// What is wrong with `podReplacementPolicy`.
pub(super) fn replacement(spec: &JobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = spec.pod_replacement_policy.as_deref() else { return };
    let allowed: &[&str] =
        if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !allowed.contains(&policy) {
        errors.not_supported(&path.field("podReplacementPolicy"), policy, allowed);
    }
}
