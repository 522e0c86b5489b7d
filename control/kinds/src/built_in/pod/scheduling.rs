//! What is wrong with what a pod says of the nodes that it may run on.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    PodSpec, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use proa_api::field::{FieldErrors, Path};

use crate::meta;
use crate::syntax::{self, report};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const BAD_OPERATOR: &str = "not a valid selector operator";
const BAD_WEIGHT: &str = "must be in the range 1-100";

/// What is wrong with tolerations.
pub fn tolerations(tolerations: &[Toleration], path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if !key.is_empty() {
            report(syntax::qualified_name(key), &at.field("key"), key, errors);
        } else if operator != "Exists" {
            let text =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.field("operator"), operator, text);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.field("effect"), effect, text);
        }
        match operator {
            "" | "Equal" => {
                let faults = syntax::label_value(value);
                if !faults.is_empty() {
                    errors.invalid(&at.field("operator"), value, faults.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(
                    &at.field("operator"),
                    value,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            other => errors.not_supported(&at.field("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.not_supported(&at.field("effect"), effect, &EFFECTS);
        }
    }
}

/// What is wrong with a pod's affinity.
pub fn affinity(affinity: Option<&Affinity>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        node_affinity(node, &path.field("nodeAffinity"), errors);
    }
    if let Some(pods) = &affinity.pod_affinity {
        let path = path.field("podAffinity");
        terms(pods.required_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
        weighted(pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let path = path.field("podAntiAffinity");
        terms(pods.required_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
        weighted(pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
    }
}

fn node_affinity(affinity: &NodeAffinity, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        node_selector(selector, &path.field(REQUIRED), errors);
    }
    let preferred = path.field(PREFERRED);
    let terms = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    for (i, term) in terms.enumerate() {
        let at = preferred.index(i);
        if !(1..=100).contains(&term.weight) {
            errors.invalid(&at.field("weight"), term.weight, BAD_WEIGHT);
        }
        node_term(&term.preference, false, &at.field("preference"), errors);
    }
}

/// What is wrong with which nodes are meant.
pub fn node_selector(selector: &NodeSelector, path: &Path<'_>, errors: &mut FieldErrors) {
    let terms = path.field("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&terms, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_term(term, true, &terms.index(i), errors);
    }
}

fn node_term(term: &NodeSelectorTerm, strict: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let expressions = path.field("matchExpressions");
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        node_label(requirement, strict, &expressions.index(i), errors);
    }
    let fields = path.field("matchFields");
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        node_field(requirement, &fields.index(i), errors);
    }
}

/// `strict` looks at the values too; a preference may name what no label can have.
fn node_label(
    requirement: &NodeSelectorRequirement,
    strict: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let at = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Exists" | "DoesNotExist" => {}
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "Gt" | "Lt" => {}
        other => errors.invalid(&path.field("operator"), other, BAD_OPERATOR),
    }
    report(syntax::qualified_name(&requirement.key), &path.field("key"), &requirement.key, errors);
    for (i, value) in values.iter().enumerate().filter(|_| strict) {
        report(syntax::label_value(value), &at.index(i), value, errors);
    }
}

fn node_field(requirement: &NodeSelectorRequirement, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let at = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => errors.required(
            &at,
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        "In" | "NotIn" => {}
        other => errors.invalid(&path.field("operator"), other, BAD_OPERATOR),
    }
    if requirement.key != "metadata.name" {
        errors.invalid(&path.field("key"), requirement.key.as_str(), "not a valid field selector key");
        return;
    }
    for (i, value) in values.iter().enumerate() {
        report(syntax::subdomain(value), &at.index(i), value, errors);
    }
}

fn terms(terms: Option<&[PodAffinityTerm]>, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.field(REQUIRED);
    for (i, term) in terms.unwrap_or_default().iter().enumerate() {
        pod_term(term, &path.index(i), errors);
    }
}

fn weighted(terms: Option<&[WeightedPodAffinityTerm]>, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.field(PREFERRED);
    for (i, term) in terms.unwrap_or_default().iter().enumerate() {
        let at = path.index(i);
        if !(1..=100).contains(&term.weight) {
            errors.invalid(&at.field("weight"), term.weight, BAD_WEIGHT);
        }
        pod_term(&term.pod_affinity_term, &at.field("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut FieldErrors) {
    let selectors =
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            meta::label_selector(selector, &path.field(field), errors);
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        report(syntax::label(namespace), &path.field("namespace"), namespace, errors);
    }
    let mismatch = term.mismatch_label_keys.as_deref();
    label_keys(term.match_label_keys.as_deref(), mismatch, term.label_selector.as_ref(), path, errors);
    let at = path.field("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    report(syntax::qualified_name(&term.topology_key), &at, &term.topology_key, errors);
}

/// A toleration without its seconds, in an order.
pub fn toleration_key(toleration: &Toleration) -> [Option<&str>; 4] {
    [&toleration.key, &toleration.operator, &toleration.value, &toleration.effect]
        .map(|field| field.as_deref())
}

/// What is wrong with constraints on how pods spread.
pub fn topology_spread(constraints: &[TopologySpreadConstraint], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        spread(constraint, &at, errors);
        let (key, when) = (&constraint.topology_key, &constraint.when_unsatisfiable);
        if !seen.insert((key, when)) {
            let text = format!("{{{key}, {when}}}");
            errors.duplicate(&at.field("{topologyKey, whenUnsatisfiable}"), text);
        }
    }
}

fn spread(constraint: &TopologySpreadConstraint, path: &Path<'_>, errors: &mut FieldErrors) {
    if constraint.max_skew <= 0 {
        errors.invalid(&path.field("maxSkew"), constraint.max_skew, "must be greater than zero");
    }
    let key = constraint.topology_key.as_str();
    if key.is_empty() {
        errors.required(&path.field("topologyKey"), "can not be empty");
    } else {
        report(syntax::qualified_name(key), &path.field("topologyKey"), key, errors);
    }
    let when = constraint.when_unsatisfiable.as_str();
    if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
        errors.not_supported(&path.field("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
    }
    if let Some(domains) = constraint.min_domains {
        let at = path.field("minDomains");
        if domains <= 0 {
            errors.invalid(&at, domains, "must be greater than zero");
        }
        if when != "DoNotSchedule" {
            let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            errors.invalid(&at, domains, text);
        }
    }
    let policies = [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ];
    for (field, policy) in policies {
        if let Some(policy) = policy.as_deref().filter(|policy| !["Honor", "Ignore"].contains(policy)) {
            errors.not_supported(&path.field(field), policy, &["Honor", "Ignore"]);
        }
    }
    label_keys(
        constraint.match_label_keys.as_deref(),
        None,
        constraint.label_selector.as_ref(),
        path,
        errors,
    );
    if let Some(selector) = &constraint.label_selector {
        meta::label_selector(selector, &path.field("labelSelector"), errors);
    }
}

/// What is wrong with `matchLabelKeys` and `mismatchLabelKeys`. In a pod the selector has their
/// requirements already (see [`merge_label_keys`]), so a key that stood there before is in it twice.
fn label_keys(
    matching: Option<&[String]>,
    mismatching: Option<&[String]>,
    selector: Option<&LabelSelector>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (matching, mismatching) = (matching.unwrap_or_default(), mismatching.unwrap_or_default());
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        let at = path.field(field);
        if !keys.is_empty() && selector.is_none() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            report(syntax::qualified_name(key), &at.index(i), key, errors);
        }
    }
    let places: BTreeMap<&str, usize> =
        matching.iter().enumerate().map(|(i, key)| (key.as_str(), i)).collect();
    if let Some(selector) = selector {
        let mut seen: BTreeSet<&str> =
            selector.match_labels.iter().flatten().map(|(k, _)| k.as_str()).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let again = !seen.insert(&expression.key);
            if let Some(i) = places.get(expression.key.as_str()).filter(|_| again) {
                let text = "exists in both matchLabelKeys and labelSelector";
                errors.invalid(&path.index(*i), expression.key.as_str(), text);
            }
        }
    }
    let mismatching: BTreeSet<&String> = mismatching.iter().collect();
    for (i, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        let at = path.field("matchLabelKeys");
        errors.invalid(&at.index(i), key.as_str(), "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// Adds to each selector of a new pod's affinity and spread constraints what `matchLabelKeys` and
/// `mismatchLabelKeys` mean for this pod's labels.
pub fn merge_label_keys(spec: &mut PodSpec, labels: Option<&BTreeMap<String, String>>) {
    let Some(labels) = labels else { return };
    let affinity = spec.affinity.as_mut();
    let (with, apart) =
        affinity.map_or((None, None), |a| (a.pod_affinity.as_mut(), a.pod_anti_affinity.as_mut()));
    let mut terms: Vec<&mut PodAffinityTerm> = Vec::new();
    if let Some(with) = with {
        terms.extend(with.required_during_scheduling_ignored_during_execution.iter_mut().flatten());
        let weighted = with.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        terms.extend(weighted.map(|t| &mut t.pod_affinity_term));
    }
    if let Some(apart) = apart {
        terms.extend(apart.required_during_scheduling_ignored_during_execution.iter_mut().flatten());
        let weighted = apart.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        terms.extend(weighted.map(|t| &mut t.pod_affinity_term));
    }
    for term in terms {
        let Some(selector) = &mut term.label_selector else { continue };
        add_label_keys(selector, term.match_label_keys.as_deref(), "In", labels);
        add_label_keys(selector, term.mismatch_label_keys.as_deref(), "NotIn", labels);
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let Some(selector) = &mut constraint.label_selector else { continue };
        add_label_keys(selector, constraint.match_label_keys.as_deref(), "In", labels);
    }
}

fn add_label_keys(
    selector: &mut LabelSelector,
    keys: Option<&[String]>,
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    for (key, value) in keys.into_iter().flatten().filter_map(|key| labels.get_key_value(key)) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}
