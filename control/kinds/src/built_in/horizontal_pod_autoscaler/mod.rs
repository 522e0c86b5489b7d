//! HorizontalPodAutoscaler: how many pods a workload has, between two bounds, follows from metrics.
//!
//! Stored is `autoscaling/v2`; [`v1`] is another view of the same objects. The rules are those of
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/>.

pub(super) mod columns;
#[cfg(test)]
mod tests;
pub mod v1;
mod validate;

use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use proa_api::field::{FieldErrors, Path};

use crate::Kind;
use crate::rules::{TypedRules, row};
use crate::syntax::NOT_NEGATIVE;

/// The target of the metric that an autoscaler without any has, in percent of the request.
const DEFAULT_CPU_UTILIZATION: i32 = 80;
const DEFAULT_PERIOD_SECONDS: i32 = 15;

/// The rules of HorizontalPodAutoscalers.
pub struct HorizontalPodAutoscalers;

/// The row of HorizontalPodAutoscalers.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        has_generation: true,
        columns: columns::columns(),
        ..row::<HorizontalPodAutoscalers>()
    }
}

impl TypedRules for HorizontalPodAutoscalers {
    type Object = HorizontalPodAutoscaler;
    const HAS_STATUS: bool = true;

    fn default(autoscaler: &mut HorizontalPodAutoscaler) {
        autoscaler.status.get_or_insert_default();
        let spec = autoscaler.spec.get_or_insert_default();
        spec.min_replicas.get_or_insert(1);
        let metrics = spec.metrics.get_or_insert_default();
        if metrics.is_empty() {
            metrics.push(cpu_utilization(DEFAULT_CPU_UTILIZATION));
        }
        if let Some(behavior) = &mut spec.behavior {
            default_rules(behavior.scale_up.get_or_insert_default(), true);
            default_rules(behavior.scale_down.get_or_insert_default(), false);
        }
    }

    fn validate(autoscaler: &HorizontalPodAutoscaler, errors: &mut FieldErrors) {
        validate::spec(&autoscaler.spec.clone().unwrap_or_default(), errors);
    }

    fn validate_create(autoscaler: &HorizontalPodAutoscaler, errors: &mut FieldErrors) {
        let Some(spec) = &autoscaler.spec else { return };
        validate::target_version(&spec.scale_target_ref, errors);
        validate::described_versions(spec, errors);
    }

    fn validate_update(
        old: &HorizontalPodAutoscaler,
        new: &HorizontalPodAutoscaler,
        errors: &mut FieldErrors,
    ) {
        let (Some(old), Some(new)) = (&old.spec, &new.spec) else { return };
        // An object that was stored with a version that is refused now can still be changed.
        let same = |a: &Option<String>, b: &Option<String>| {
            a.as_deref().unwrap_or_default() == b.as_deref().unwrap_or_default()
        };
        let (before, after) = (&old.scale_target_ref, &new.scale_target_ref);
        if before.kind != after.kind || !same(&before.api_version, &after.api_version) {
            validate::target_version(after, errors);
        }
        let mut known = FieldErrors::new();
        validate::described_versions(old, &mut known);
        if known.is_empty() {
            validate::described_versions(new, errors);
        }
    }

    fn validate_status_update(
        _old: &HorizontalPodAutoscaler,
        new: &HorizontalPodAutoscaler,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let path = Path::root("status");
        let counts = [
            ("currentReplicas", status.current_replicas.unwrap_or(0)),
            ("desiredReplicas", status.desired_replicas),
        ];
        for (field, count) in counts {
            if count < 0 {
                errors.invalid(&path.field(field), count, NOT_NEGATIVE);
            }
        }
    }
}

/// The metric that says how much of the requested CPU is to be used.
fn cpu_utilization(percent: i32) -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(percent),
        ..MetricTarget::default()
    };
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
        ..MetricSpec::default()
    }
}

/// Rules that state a part are filled up with the rest. The window for scaling down stays absent:
/// it is the controller's setting.
fn default_rules(rules: &mut HPAScalingRules, up: bool) {
    let policy = |type_: &str, value| HPAScalingPolicy {
        type_: type_.to_owned(),
        value,
        period_seconds: DEFAULT_PERIOD_SECONDS,
    };
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    if up {
        rules.stabilization_window_seconds.get_or_insert(0);
    }
    rules.policies.get_or_insert_with(|| match up {
        true => vec![policy("Pods", 4), policy("Percent", 100)],
        false => vec![policy("Percent", 100)],
    });
}
