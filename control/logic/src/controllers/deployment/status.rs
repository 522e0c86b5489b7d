//! What a Deployment's status says: counts, and the conditions that `kubectl rollout status`
//! and `kubectl wait` read, in the words of the stock controller.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::condition;
use serde_json::{Value, json};

use super::counts::{limits, replicas, wanted};
use super::replica_sets::Sets;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Sums over the sets' statuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    specified: i32,
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
}

/// Adds up the sets.
pub(super) fn counts(sets: &Sets) -> Sums {
    let mut sums = Sums::default();
    for set in sets.iter() {
        let status = set.status.clone().unwrap_or_default();
        sums.specified += replicas(set);
        sums.replicas += status.replicas;
        sums.ready += status.ready_replicas.unwrap_or(0);
        sums.available += status.available_replicas.unwrap_or(0);
    }
    sums.updated = sets.new.iter().filter_map(|s| s.status.as_ref()).map(|s| s.replicas).sum();
    sums
}

/// True once all wanted replicas are of the new template and available, and nothing else runs.
pub(super) fn is_complete(deployment: &Deployment, spec: &DeploymentSpec, sums: &Sums) -> bool {
    let wanted = wanted(spec);
    let observed = deployment.status.as_ref().and_then(|s| s.observed_generation);
    sums.updated == wanted
        && sums.replicas == wanted
        && sums.available == wanted
        && observed >= deployment.metadata.generation
}

/// The condition that says that a set has been created.
pub(super) fn created(spec: &DeploymentSpec, name: &str, now: Timestamp) -> Option<DeploymentCondition> {
    let text = format!("Created new replica set \"{name}\"");
    deadline(spec).map(|_| progressing("True", "NewReplicaSetCreated", text, now))
}

/// Brings the status up to date. `created` goes before what the counts say of the progress.
pub(super) fn update(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    created: Option<DeploymentCondition>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let sums = counts(sets);
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone();
    set(&mut conditions, available(spec, &sums, now));
    if let Some(deadline) = deadline(spec) {
        let next = match created {
            Some(condition) => Some(condition),
            None => progress(deployment, spec, sets, &sums, &old, deadline, now),
        };
        if let Some(next) = next {
            set(&mut conditions, next);
        }
        let current = condition::find(conditions.as_ref(), PROGRESSING);
        if let Some(at) = current.and_then(|c| times_out_at(c, deadline)).filter(|at| *at > now) {
            plan.look_again(at);
        }
    }
    replica_failure(sets, &mut conditions);
    let some = |n: i32| (n > 0).then_some(n);
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sums.replicas),
        updated_replicas: some(sums.updated),
        ready_replicas: some(sums.ready),
        available_replicas: some(sums.available),
        unavailable_replicas: some(sums.specified - sums.available),
        collision_count: old.collision_count,
        terminating_replicas: old.terminating_replicas,
        conditions: conditions.filter(|c| !c.is_empty()),
    };
    if deployment.status.as_ref() != Some(&status) {
        plan.act_then(Verb::Patch {
            target: Reference::to(deployment),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "status": replace(&status) })),
        });
    }
}

fn deadline(spec: &DeploymentSpec) -> Option<SignedDuration> {
    let seconds = spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
    Some(SignedDuration::from_secs(seconds.into()))
}

fn available(spec: &DeploymentSpec, sums: &Sums, now: Timestamp) -> DeploymentCondition {
    let (_, unavailable) = limits(spec);
    let (status, reason, text) = if sums.available >= wanted(spec) - unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    condition_of(AVAILABLE, status, reason, text.to_owned(), now)
}

/// The new Progressing condition, if there is news.
fn progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    sums: &Sums,
    old: &DeploymentStatus,
    deadline: SignedDuration,
    now: Timestamp,
) -> Option<DeploymentCondition> {
    let current = condition::find(old.conditions.as_ref(), PROGRESSING);
    let reason = current.and_then(|c| c.reason.as_deref()).unwrap_or_default();
    if spec.paused == Some(true) {
        // A roll-out that has timed out stays so while it is paused.
        let text = "Deployment is paused".to_owned();
        return (reason != TIMED_OUT).then(|| progressing("Unknown", PAUSED, text, now));
    }
    if reason == PAUSED {
        return Some(progressing("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now));
    }
    let subject = match &sets.new {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let was_complete = sums.replicas == sums.updated && reason == NEW_AVAILABLE;
    if was_complete {
        return None;
    }
    if is_complete_by_counts(spec, sums) {
        return Some(progressing(
            "True",
            NEW_AVAILABLE,
            format!("{subject} has successfully progressed."),
            now,
        ));
    }
    if has_progressed(sums, old) {
        return Some(progressing("True", "ReplicaSetUpdated", format!("{subject} is progressing."), now));
    }
    match current {
        None => sets.new.as_ref().map(|set| {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            progressing("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""), now)
        }),
        Some(c) if times_out_at(c, deadline).is_some_and(|at| at <= now) => {
            Some(progressing("False", TIMED_OUT, format!("{subject} has timed out progressing."), now))
        }
        Some(_) => None,
    }
}

fn is_complete_by_counts(spec: &DeploymentSpec, sums: &Sums) -> bool {
    let wanted = wanted(spec);
    sums.updated == wanted && sums.replicas == wanted && sums.available == wanted
}

fn has_progressed(sums: &Sums, old: &DeploymentStatus) -> bool {
    let number = |n: Option<i32>| n.unwrap_or(0);
    sums.updated > number(old.updated_replicas)
        || sums.replicas - sums.updated < number(old.replicas) - number(old.updated_replicas)
        || sums.ready > number(old.ready_replicas)
        || sums.available > number(old.available_replicas)
}

fn times_out_at(current: &DeploymentCondition, deadline: SignedDuration) -> Option<Timestamp> {
    let settled = [NEW_AVAILABLE, TIMED_OUT, PAUSED];
    if settled.contains(&current.reason.as_deref().unwrap_or_default()) {
        return None;
    }
    current.last_update_time.as_ref().map(|t| t.0 + deadline)
}

fn replica_failure(sets: &Sets, conditions: &mut Option<Vec<DeploymentCondition>>) {
    let failure = sets.iter().find_map(|s| {
        let conditions = s.status.as_ref()?.conditions.as_ref();
        condition::find(conditions, REPLICA_FAILURE).cloned()
    });
    match failure {
        Some(c) => set(
            conditions,
            DeploymentCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_update_time: c.last_transition_time.clone(),
                last_transition_time: c.last_transition_time,
            },
        ),
        None => {
            if let Some(list) = conditions {
                list.retain(|c| c.type_ != REPLICA_FAILURE);
            }
        }
    }
}

fn progressing(status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    condition_of(PROGRESSING, status, reason, message, now)
}

fn condition_of(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Sets a condition unless it says nothing new. A step of progress is news though its words are
/// the same: the deadline counts from it.
fn set(conditions: &mut Option<Vec<DeploymentCondition>>, new: DeploymentCondition) {
    if new.reason.as_deref() == Some("ReplicaSetUpdated") {
        condition::set(conditions, new);
    } else {
        condition::set_if_turned(conditions, new);
    }
}

/// A merge patch leaves out what is not named: absent counts must be named as null.
fn replace(status: &DeploymentStatus) -> Value {
    let mut value = json!(status);
    let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
    for field in fields.into_iter().chain(["conditions"]) {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    value
}
