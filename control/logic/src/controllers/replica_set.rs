//! ReplicaSet and ReplicationController: keep as many pods of a template as the spec says.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>. Which
//! pods belong to it is decided in `claims.rs`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proa_api::condition;
use proa_api::selector::Selector;
use serde_json::{Value, json};

use super::claims::{Owner, owned};
use crate::world::controller::Controller;
use crate::world::facts::{Key, Phase, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Verb};
use proa_kinds::Part;

/// No more pods than this are created or deleted in one go; the next look takes the rest.
const BURST: usize = 500;

/// So many failed pods are made good at once; from then on each failure doubles the time from the last
/// one to the next, which a node that rejects every pod would have made an endless rush.
const FAILURES_AT_ONCE: u32 = 5;
/// No longer than this.
const LONGEST_BACK_OFF_SECONDS: i64 = 300;

/// Decides what one ReplicaSet needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let Some(set) = seen.replica_sets.get(key) else { return Plan::default() };
    let Some(spec) = &set.spec else { return Plan::default() };
    let replicas = Replicas {
        owner: Owner::of(&**set, Some(&spec.selector)),
        wanted: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.as_ref(),
        metadata: &set.metadata,
        status: set.status.clone().unwrap_or_default(),
        refused: seen.refused.get(&(Controller::ReplicaSet, key.clone())),
    };
    keep(seen, &replicas, now)
}

/// Decides what one ReplicationController needs.
pub fn reconcile_replication_controller(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let Some(controller) = seen.replication_controllers.get(key) else { return Plan::default() };
    let Some(spec) = &controller.spec else { return Plan::default() };
    let selector = spec.selector.clone().unwrap_or_default();
    let replicas = Replicas {
        owner: Owner::by_labels(&**controller, &selector),
        wanted: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.as_ref(),
        metadata: &controller.metadata,
        status: controller.status.clone().map(same_status).unwrap_or_default(),
        refused: seen.refused.get(&(Controller::ReplicationController, key.clone())),
    };
    keep(seen, &replicas, now)
}

/// What ReplicaSets and ReplicationControllers have in common, which is all but their types and
/// how they write their selectors.
struct Replicas<'a> {
    owner: Owner,
    wanted: i32,
    min_ready_seconds: i32,
    template: Option<&'a PodTemplateSpec>,
    metadata: &'a ObjectMeta,
    status: ReplicaSetStatus,
    refused: Option<&'a String>,
}

/// The status of a ReplicationController is that of a ReplicaSet, field by field.
fn same_status(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    };
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|list| list.into_iter().map(condition).collect()),
        terminating_replicas: None,
    }
}

fn keep(seen: &Observed, set: &Replicas<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let owner = &set.owner;
    let claimed = owner.claim(seen, |_| true, &mut plan);
    let held_until = held_until(&claimed);
    let active: Vec<&Arc<Pod>> = claimed.into_iter().filter(|p| p.is_active()).collect();
    let wanted = usize::try_from(set.wanted).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() {
        if active.len() < wanted && held_until.is_some_and(|until| now < until) {
            held_until.into_iter().for_each(|until| plan.look_again(until));
        } else if active.len() < wanted {
            create_pods(set, (wanted - active.len()).min(BURST), &mut plan);
        } else if active.len() > wanted {
            let excess = (active.len() - wanted).min(BURST);
            // A pod that has become ready meanwhile may be one to keep.
            let excess = pick_excess(seen, &active, excess, now);
            excess.into_iter().for_each(|p| owner.delete_as_seen(p, &mut plan));
        }
    }
    let status = status(set, &active, now, &mut plan);
    if set.status != status {
        plan.act(Verb::Patch {
            target: owner.reference.clone(),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "status": replace_status(&status) })),
        });
    }
    plan
}

/// When pods may be made in the place of those that have failed, if there are many.
fn held_until(pods: &[&Arc<Pod>]) -> Option<Timestamp> {
    let failed = pods.iter().filter(|pod| pod.phase == Phase::Failed);
    let (count, last) =
        failed.fold((0u32, None), |(count, last), pod| (count + 1, last.max(Some(pod.meta.created))));
    let doubled = count.checked_sub(FAILURES_AT_ONCE)?;
    let seconds = 1i64.checked_shl(doubled).unwrap_or(i64::MAX).clamp(1, LONGEST_BACK_OFF_SECONDS);
    last.map(|last| last + SignedDuration::from_secs(seconds))
}

fn create_pods(set: &Replicas<'_>, count: usize, plan: &mut Plan) {
    let mut body = set.owner.pod(&set.template.cloned().unwrap_or_default());
    body["metadata"]["generateName"] = format!("{}-", set.owner.reference.name).into();
    for _ in 0..count {
        set.owner.create(body.clone(), plan);
    }
}

/// The pods to delete first: those that are not bound, not running, not ready, cheap to lose,
/// doubled up on a node, ready for a short time, often restarted, young.
fn pick_excess<'a>(
    seen: &Observed,
    active: &[&'a Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<&'a Arc<Pod>> {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    let owner = active.first().and_then(|p| p.meta.controller()).map(|c| c.uid.as_str()).unwrap_or_default();
    // Pods of the other sets of the same Deployment count as neighbours too.
    let deployment = seen.graph.get(owner).and_then(|m| m.controller()).map(|c| c.uid.as_str());
    let siblings = deployment.into_iter().flat_map(|uid| seen.graph.dependents(uid));
    let related = siblings.flat_map(|set| owned(seen, &set.uid)).filter(|p| p.is_active());
    let alone = active.iter().copied().filter(|_| deployment.is_none());
    for node in related.chain(alone).filter_map(|p| p.node.as_deref()) {
        *on_node.entry(node).or_default() += 1;
    }
    let mut order: Vec<&'a Arc<Pod>> = active.to_vec();
    order.sort_by_cached_key(|pod| {
        let neighbours = pod.node.as_deref().and_then(|n| on_node.get(n)).copied().unwrap_or(0);
        (
            pod.node.is_some(),
            pod.phase,
            pod.ready_since.is_some(),
            pod.deletion_cost,
            Reverse(neighbours),
            pod.ready_since.map(|t| age_class(t, now)),
            Reverse(pod.restarts),
            age_class(pod.meta.created, now),
            pod.meta.key.name.clone(),
        )
    });
    order.truncate(count);
    order
}

/// Ages are compared on a logarithmic scale, so that pods of about the same age are equal and
/// the choice does not always fall on the newest.
fn age_class(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0).unsigned_abs();
    u64::BITS - seconds.leading_zeros()
}

fn status(set: &Replicas<'_>, active: &[&Arc<Pod>], now: Timestamp, plan: &mut Plan) -> ReplicaSetStatus {
    let template_labels = set.template.and_then(|t| t.metadata.as_ref()?.labels.clone());
    let template_labels = Selector::from_map(template_labels.iter().flatten());
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|p| test(p)).count()).unwrap_or(i32::MAX)
    };
    let wait = set.min_ready_seconds;
    let ready = count(&|p| p.ready_since.is_some());
    let available = count(&|p| p.available_at(wait).is_some_and(|at| at <= now));
    for at in active.iter().filter_map(|p| p.available_at(wait)).filter(|at| *at > now) {
        plan.look_again(at);
    }
    let labelled = count(&|p| template_labels.matches(Some(&p.labels)));
    let old = set.status.clone();
    let mut conditions = old.conditions;
    match set.refused {
        Some(text) => condition::set_if_turned(
            &mut conditions,
            ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some("FailedCreate".to_owned()),
                message: Some(text.clone()),
                last_transition_time: Some(Time(now)),
            },
        ),
        None => {
            if let Some(list) = &mut conditions {
                list.retain(|c| c.type_ != "ReplicaFailure");
            }
        }
    }
    let some = |n: i32| (n > 0).then_some(n);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(labelled),
        ready_replicas: some(ready),
        available_replicas: some(available),
        observed_generation: set.metadata.generation,
        conditions: conditions.filter(|c| !c.is_empty()),
        terminating_replicas: old.terminating_replicas,
    }
}

/// A merge patch leaves out what is not named: absent counts must be named as null.
fn replace_status(status: &ReplicaSetStatus) -> Value {
    let mut value = json!(status);
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "conditions"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    value
}

/// The rank of phases in [`pick_excess`] is the order of [`Phase`].
const _: () = assert!((Phase::Pending as u8) < (Phase::Running as u8));
