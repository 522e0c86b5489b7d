//! What is wrong with the spec of an autoscaler, in the words of the stock server.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec,
    MetricIdentifier, MetricSpec, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;

use crate::built_in::pod::resources::resource_name;
use crate::meta::path_segment;
use crate::syntax::{self, report};

const SPEC: Path<'static> = Path::root("spec");
const MAX_PERIOD_SECONDS: i32 = 1800;
const MAX_WINDOW_SECONDS: i32 = 3600;
const SOURCE_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const NO_SOURCE: &str = "must populate information for the given metric source";
const NO_TARGET: &str = "must set either a target raw value or a target utilization";
const TWO_TARGETS: &str = "may not set both a target raw value and a target utilization";

/// All that does not depend on what was stored before.
pub(super) fn spec(spec: &HorizontalPodAutoscalerSpec, errors: &mut FieldErrors) {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    if least < 0 {
        errors.invalid(&SPEC.field("minReplicas"), least, "must be greater than or equal to 0");
    }
    if most < 1 {
        errors.invalid(&SPEC.field("maxReplicas"), most, "must be greater than 0");
    }
    if most < least {
        errors.invalid(&SPEC.field("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    reference(&spec.scale_target_ref, &SPEC.field("scaleTargetRef"), errors);
    let path = SPEC.field("metrics");
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    for (i, one) in metrics.iter().enumerate() {
        metric(one, &path.index(i), errors);
    }
    // Nothing is measured of a workload without pods but what lies outside of them.
    if least == 0 && !metrics.iter().any(|m| matches!(m.type_.as_str(), "Object" | "External")) {
        errors.forbidden(
            &path,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    let path = SPEC.field("behavior");
    if let Some(behavior) = &spec.behavior {
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                scaling_rules(rules, &path.field(field), errors);
            }
        }
    }
}

/// Whether the API version of the workload names a group. ReplicationControllers have none.
pub(super) fn target_version(target: &CrossVersionObjectReference, errors: &mut FieldErrors) {
    let core = target.kind == "ReplicationController";
    version(target, core, &SPEC.field("scaleTargetRef"), errors);
}

/// Whether the API versions of the objects that are measured can be read.
pub(super) fn described_versions(spec: &HorizontalPodAutoscalerSpec, errors: &mut FieldErrors) {
    let path = SPEC.field("metrics");
    for (i, metric) in spec.metrics.iter().flatten().enumerate() {
        if let Some(source) = &metric.object {
            let at = path.index(i);
            let at = at.field("object");
            version(&source.described_object, true, &at.field("describedObject"), errors);
        }
    }
}

fn version(
    target: &CrossVersionObjectReference,
    core_allowed: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let path = path.field("apiVersion");
    let version = target.api_version.as_deref().unwrap_or_default();
    if version.matches('/').count() > 1 {
        errors.invalid(&path, version, format!("unexpected GroupVersion string: {version}"));
    } else if !core_allowed && !version.contains('/') {
        errors.invalid(&path, version, "apiVersion must specify API group");
    }
}

fn reference(target: &CrossVersionObjectReference, path: &Path<'_>, errors: &mut FieldErrors) {
    for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
        let path = path.field(field);
        if value.is_empty() {
            errors.required(&path, "");
        } else {
            report(path_segment(value, false), &path, value, errors);
        }
    }
}

fn metric(metric: &MetricSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let type_ = metric.type_.as_str();
    if type_.is_empty() {
        errors.required(&path.field("type"), "must specify a metric source type");
    }
    if !SOURCE_TYPES.contains(&type_) {
        errors.not_supported(&path.field("type"), type_, &SOURCE_TYPES);
    }
    let present: Vec<&str> = [
        ("object", metric.object.is_some()),
        ("external", metric.external.is_some()),
        ("pods", metric.pods.is_some()),
        ("resource", metric.resource.is_some()),
        ("containerResource", metric.container_resource.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, is_some)| is_some.then_some(field))
    .collect();
    // Of several sources only the first is looked into.
    if let Some(first) = present.first() {
        source(metric, &path.field(first), errors);
    }
    let expected = match type_ {
        "ContainerResource" => "containerResource".to_owned(),
        other => other.to_lowercase(),
    };
    if !SOURCE_TYPES.contains(&type_) {
        errors.not_supported(&path.field("type"), type_, &SOURCE_TYPES);
    } else if !present.contains(&expected.as_str()) {
        errors.required(&path.field(&expected), NO_SOURCE);
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| **field != expected) {
            errors.forbidden(&path.field(other), "must populate the given metric source only");
        }
    }
}

fn source(metric: &MetricSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.field("target");
    if let Some(source) = &metric.object {
        reference(&source.described_object, &path.field("describedObject"), errors);
        identifier(&source.metric, &path.field("metric"), errors);
        target(&source.target, &at, errors);
        if source.target.value.is_none() && source.target.average_value.is_none() {
            errors.required(&at.field("averageValue"), "must set either a target value or averageValue");
        }
    } else if let Some(source) = &metric.external {
        identifier(&source.metric, &path.field("metric"), errors);
        target(&source.target, &at, errors);
        match (&source.target.value, &source.target.average_value) {
            (None, None) => errors.required(
                &at.field("averageValue"),
                "must set either a target value for metric or a per-pod target",
            ),
            (Some(_), Some(_)) => errors.forbidden(
                &at.field("value"),
                "may not set both a target value for metric and a per-pod target",
            ),
            _ => {}
        }
    } else if let Some(source) = &metric.pods {
        identifier(&source.metric, &path.field("metric"), errors);
        target(&source.target, &at, errors);
        if source.target.average_value.is_none() {
            errors.required(&at.field("averageValue"), "must specify a positive target averageValue");
        }
    } else if let Some(source) = &metric.resource {
        if source.name.is_empty() {
            errors.required(&path.field("name"), "must specify a resource name");
        }
        resource_target(&source.target, &at, errors);
    } else if let Some(source) = &metric.container_resource {
        match source.name.as_str() {
            "" => errors.required(&path.field("name"), "must specify a resource name"),
            name => resource_name(name, &path.field("name"), errors),
        }
        match source.container.as_str() {
            "" => errors.required(&path.field("container"), "must specify a container"),
            name => report(syntax::label(name), &path.field("container"), name, errors),
        }
        resource_target(&source.target, &at, errors);
    }
}

fn resource_target(wanted: &MetricTarget, path: &Path<'_>, errors: &mut FieldErrors) {
    target(wanted, path, errors);
    match (wanted.average_utilization, &wanted.average_value) {
        (None, None) => errors.required(&path.field("averageUtilization"), NO_TARGET),
        (Some(_), Some(_)) => errors.forbidden(&path.field("averageValue"), TWO_TARGETS),
        _ => {}
    }
}

fn identifier(metric: &MetricIdentifier, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.field("name");
    match metric.name.as_str() {
        "" => errors.required(&path, "must specify a metric name"),
        name => report(path_segment(name, false), &path, name, errors),
    }
}

fn target(target: &MetricTarget, path: &Path<'_>, errors: &mut FieldErrors) {
    let type_ = target.type_.as_str();
    if type_.is_empty() {
        errors.required(&path.field("type"), "must specify a metric target type");
    }
    if !matches!(type_, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&path.field("type"), type_, "must be either Utilization, Value, or AverageValue");
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(value) = value.as_ref().filter(|value| !is_positive(value)) {
            errors.invalid(&path.field(field), value.0.as_str(), "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(&path.field("averageUtilization"), percent, "must be greater than 0");
    }
}

fn is_positive(value: &Quantity) -> bool {
    Amount::parse(&value.0).is_ok_and(|amount| amount > Amount::ZERO)
}

fn scaling_rules(rules: &HPAScalingRules, path: &Path<'_>, errors: &mut FieldErrors) {
    let window = path.field("stabilizationWindowSeconds");
    match rules.stabilization_window_seconds {
        Some(seconds) if seconds < 0 => {
            errors.invalid(&window, seconds, "must be greater than or equal to zero");
        }
        Some(seconds) if seconds > MAX_WINDOW_SECONDS => {
            errors.invalid(&window, seconds, format!("must be less than or equal to {MAX_WINDOW_SECONDS}"));
        }
        _ => {}
    }
    const SELECT: [&str; 3] = ["Disabled", "Max", "Min"];
    if let Some(select) = rules.select_policy.as_deref().filter(|s| !SELECT.contains(s)) {
        errors.not_supported(&path.field("selectPolicy"), select, &SELECT);
    }
    let at = path.field("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.required(&at, "must specify at least one Policy");
    }
    for (i, one) in policies.iter().enumerate() {
        policy(one, &at.index(i), errors);
    }
    if let Some(tolerance) = &rules.tolerance
        && Amount::parse(&tolerance.0).is_ok_and(Amount::is_negative)
    {
        errors.invalid(&path.field("tolerance"), tolerance.0.as_str(), "must be greater than or equal to 0");
    }
}

fn policy(policy: &HPAScalingPolicy, path: &Path<'_>, errors: &mut FieldErrors) {
    const TYPES: [&str; 2] = ["Percent", "Pods"];
    if !TYPES.contains(&policy.type_.as_str()) {
        errors.not_supported(&path.field("type"), policy.type_.as_str(), &TYPES);
    }
    if policy.value <= 0 {
        errors.invalid(&path.field("value"), policy.value, "must be greater than zero");
    }
    let (at, period) = (path.field("periodSeconds"), policy.period_seconds);
    if period <= 0 {
        errors.invalid(&at, period, "must be greater than zero");
    }
    if period > MAX_PERIOD_SECONDS {
        errors.invalid(&at, period, format!("must be less than or equal to {MAX_PERIOD_SECONDS}"));
    }
}
