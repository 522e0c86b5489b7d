//! Whether a pod may be evicted: the budgets that cover it decide.
//!
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>. Fed by the registry
//! with the pod and the PodDisruptionBudgets of its namespace. A budget pays for a healthy pod by
//! counting one disruption less and noting the pod, in one write that expects the budget as it
//! was seen; its controller makes up the balance once the pod is on its way out.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, StatusCause, StatusDetails, Time};
use proa_api::Refusal;
use proa_api::condition;
use proa_api::selector::Selector;
use proa_api::status::Resource;

/// More pods than this in `disruptedPods` mean that the controller does not keep up.
const DISRUPTED_MAX: usize = 2000;
/// When a client that came too early should come again.
const RETRY_SECONDS: i32 = 10;
const ALLOWED: &str = "DisruptionAllowed";
const SYNC_FAILED: &str = "SyncFailed";

/// How a pod may be evicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is not in the way of any budget, as long as it is as it was seen.
    Free,
    /// Once this budget is written: it has paid.
    Paid(Box<PodDisruptionBudget>),
}

/// Decides about the eviction of `pod`. `budgets` are those of its namespace.
///
/// # Errors
/// 429 while its budget does not allow it or is not yet computed, 500 if it has several.
pub fn decide(pod: &Pod, budgets: Vec<PodDisruptionBudget>, now: Timestamp) -> Result<Verdict, Refusal> {
    // Such a pod serves nobody any more, or not yet.
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let idle = matches!(phase, Some("Succeeded" | "Failed" | "Pending"));
    if idle || pod.metadata.deletion_timestamp.is_some() {
        return Ok(Verdict::Free);
    }
    let labels = pod.metadata.labels.as_ref();
    let covers = |budget: &PodDisruptionBudget| {
        Selector::from_object(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())).matches(labels)
    };
    let mut covering: Vec<PodDisruptionBudget> = budgets.into_iter().filter(covers).collect();
    if covering.len() > 1 {
        return Err(several());
    }
    let Some(mut budget) = covering.pop() else { return Ok(Verdict::Free) };
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    if !condition::is_true(conditions, "Ready") && lets_unhealthy_go(&budget) {
        return Ok(Verdict::Free);
    }
    pay(&mut budget, pod.metadata.name.as_deref().unwrap_or_default(), now)?;
    Ok(Verdict::Paid(Box::new(budget)))
}

/// True if a pod that is not ready costs the budget nothing: it is not among the healthy ones.
fn lets_unhealthy_go(budget: &PodDisruptionBudget) -> bool {
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let met = status.current_healthy >= status.desired_healthy && status.desired_healthy > 0;
    policy == Some("AlwaysAllow") || met
}

fn pay(budget: &mut PodDisruptionBudget, pod_name: &str, now: Timestamp) -> Result<(), Refusal> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Err(not_yet(&name));
    }
    let budgets = Resource { group: "policy", plural: "poddisruptionbudget" };
    if status.disruptions_allowed < 0 {
        return Err(Refusal::forbidden(budgets, &name, "pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Refusal::forbidden(budgets, &name, why));
    }
    if status.disruptions_allowed == 0 {
        return Err(refused(cause(&name, status), None));
    }
    status.disruptions_allowed -= 1;
    if status.disruptions_allowed == 0 {
        note_allowed(status, now);
    }
    // The controller counts the pod as gone from here on, unless it outlives its time.
    status.disrupted_pods.get_or_insert_default().insert(pod_name.to_owned(), Time(now));
    Ok(())
}

/// Why a budget allows nothing.
fn cause(name: &str, status: &PodDisruptionBudgetStatus) -> String {
    let known = status.conditions.iter().flatten().find(|condition| condition.type_ == ALLOWED);
    match known {
        Some(condition) if condition.reason == SYNC_FAILED => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            condition.message
        ),
        _ if status.current_healthy > status.desired_healthy => {
            format!("The disruption budget {name} does not allow evicting pods currently")
        }
        _ => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status.desired_healthy, status.current_healthy
        ),
    }
}

fn not_yet(name: &str) -> Refusal {
    let cause = format!("The disruption budget {name} is still being processed by the server.");
    refused(cause, Some(RETRY_SECONDS))
}

fn refused(cause: String, retry_after_seconds: Option<i32>) -> Refusal {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut refusal = Refusal::new(429, "TooManyRequests", text);
    refusal.0.details = Some(StatusDetails {
        causes: Some(vec![StatusCause {
            reason: Some("DisruptionBudget".to_owned()),
            message: Some(cause),
            field: None,
        }]),
        retry_after_seconds,
        ..StatusDetails::default()
    });
    refusal
}

fn several() -> Refusal {
    let text =
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let mut refusal = Refusal::new(500, "", text);
    refusal.0.reason = None;
    refusal
}

/// Says in the status whether a pod may go.
pub fn note_allowed(status: &mut PodDisruptionBudgetStatus, now: Timestamp) {
    let reason = if status.disruptions_allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    note(status, reason, String::new(), now);
}

/// Says in the status why it could not be computed. Nothing may go meanwhile.
pub fn note_failure(status: &mut PodDisruptionBudgetStatus, why: String, now: Timestamp) {
    status.disruptions_allowed = 0;
    note(status, SYNC_FAILED, why, now);
}

fn note(status: &mut PodDisruptionBudgetStatus, reason: &str, message: String, now: Timestamp) {
    let mut new = Condition {
        type_: ALLOWED.to_owned(),
        status: if status.disruptions_allowed > 0 { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: status.observed_generation,
        last_transition_time: Time(now),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == ALLOWED) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn budget(name: &str, spec: Value, status: Value) -> PodDisruptionBudget {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        let metadata = json!({"name": name, "generation": 2});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    fn status(allowed: i32, healthy: i32, desired: i32) -> Value {
        json!({
            "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired,
            "expectedPods": 3, "observedGeneration": 2,
        })
    }

    fn pod(phase: &str, ready: &str, app: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": app}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn check(pod: &Pod, budgets: &[PodDisruptionBudget], expected: Expect) {
        let text = match decide(pod, budgets.to_vec(), Timestamp::UNIX_EPOCH) {
            Ok(Verdict::Free) => "free".to_owned(),
            Ok(Verdict::Paid(budget)) => {
                format!("paid: {}", serde_json::to_string(&budget.status).unwrap())
            }
            Err(refusal) => {
                let details = refusal.0.details.clone().unwrap_or_default();
                let causes = details.causes.unwrap_or_default();
                let cause = causes.first().and_then(|cause| cause.message.clone()).unwrap_or_default();
                format!("{} {refusal} {cause} {:?}", refusal.code(), details.retry_after_seconds)
            }
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_budget_pays_for_healthy_pods() {
        let one = |spec: Value, status: Value| [budget("b", spec, status)];
        let running = pod("Running", "True", "a");
        let sick = pod("Running", "False", "a");
        check(&running, &[], expect!["free"]);
        check(&pod("Running", "True", "b"), &one(json!({}), status(0, 2, 2)), expect!["free"]);
        check(
            &running,
            &one(json!({}), status(1, 3, 2)),
            expect![[
                r#"paid: {"conditions":[{"lastTransitionTime":"1970-01-01T00:00:00Z","message":"","observedGeneration":2,"reason":"InsufficientPods","status":"False","type":"DisruptionAllowed"}],"currentHealthy":3,"desiredHealthy":2,"disruptedPods":{"p":"1970-01-01T00:00:00Z"},"disruptionsAllowed":0,"expectedPods":3,"observedGeneration":2}"#
            ]],
        );
        check(
            &running,
            &one(json!({}), status(0, 2, 2)),
            expect![
                "429 Cannot evict pod as it would violate the pod's disruption budget. The disruption budget b needs 2 healthy pods and has 2 currently None"
            ],
        );
        check(&sick, &one(json!({}), status(0, 2, 2)), expect!["free"]);
        check(
            &sick,
            &one(json!({}), status(0, 1, 2)),
            expect![
                "429 Cannot evict pod as it would violate the pod's disruption budget. The disruption budget b needs 2 healthy pods and has 1 currently None"
            ],
        );
        let always = json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"});
        check(&sick, &one(always.clone(), status(0, 1, 2)), expect!["free"]);
        check(
            &running,
            &one(always, status(0, 1, 2)),
            expect![
                "429 Cannot evict pod as it would violate the pod's disruption budget. The disruption budget b needs 2 healthy pods and has 1 currently None"
            ],
        );
        for phase in ["Pending", "Succeeded", "Failed"] {
            check(&pod(phase, "False", "a"), &one(json!({}), status(0, 1, 2)), expect!["free"]);
        }
        let mut late = status(1, 3, 2);
        late["observedGeneration"] = 1.into();
        check(
            &running,
            &one(json!({}), late),
            expect![
                "429 Cannot evict pod as it would violate the pod's disruption budget. The disruption budget b is still being processed by the server. Some(10)"
            ],
        );
        let mut failed = status(0, 0, 0);
        failed["conditions"] = json!([{
            "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "why",
            "lastTransitionTime": "2024-01-01T00:00:00Z",
        }]);
        check(
            &running,
            &one(json!({}), failed),
            expect![
                "429 Cannot evict pod as it would violate the pod's disruption budget. The disruption budget b does not allow evicting pods currently because it failed sync: why None"
            ],
        );
        let two = [budget("b", json!({}), status(1, 3, 2)), budget("c", json!({}), status(1, 3, 2))];
        check(
            &running,
            &two,
            expect![
                "500 This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.  None"
            ],
        );
    }
}
