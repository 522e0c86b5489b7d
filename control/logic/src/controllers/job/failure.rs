//! What a Job's `podFailurePolicy` says of a pod that has failed.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};

use crate::world::facts::{End, Pod};

/// What follows from a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// It counts against the limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// Finds the first rule that speaks of the pod. Without a policy, or a rule, it counts.
pub(super) fn consequence(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Consequence {
    let (Some(policy), Some(end)) = (policy, &pod.end) else { return Consequence::Count };
    for (index, rule) in policy.rules.iter().enumerate() {
        let Some(found) = matches(rule, pod, end) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Consequence::Ignore,
            "FailIndex" => Consequence::FailIndex,
            "FailJob" => Consequence::FailJob(format!("{found} matching FailJob rule at index {index}")),
            _ => Consequence::Count,
        };
    }
    Consequence::Count
}

/// What of the pod the rule speaks of, in words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod, end: &End) -> Option<String> {
    let (namespace, name) = (&pod.meta.key.namespace, &pod.meta.key.name);
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) =
            end.exits.iter().find(|(container, code)| speaks_of(codes, container, *code))?;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let condition = patterns.iter().find(|pattern| {
        let status = pattern.status.as_deref().unwrap_or("True");
        end.conditions.iter().any(|(type_, is)| **type_ == *pattern.type_ && &**is == status)
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", condition.type_))
}

fn speaks_of(codes: &PodFailurePolicyOnExitCodesRequirement, container: &str, code: i32) -> bool {
    let listed = codes.values.contains(&code);
    code != 0
        && codes.container_name.as_deref().is_none_or(|name| name == container)
        && if codes.operator == "NotIn" { !listed } else { listed }
}
