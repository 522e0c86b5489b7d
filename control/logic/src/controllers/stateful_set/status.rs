//! What a StatefulSet's status says.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use serde_json::{Value, json};

use super::view::View;
use crate::controllers::revisions::LABEL_REVISION;
use crate::world::facts::{Phase, Pod};
use crate::world::plan::{Change, Guard, Plan, Reference, Verb, difference};
use proa_kinds::Part;

/// Brings the status up to date.
pub(super) fn update(view: &View<'_>, plan: &mut Plan) {
    let old = view.set.status.clone().unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(view.pods.values().filter(|p| test(p)).count()).unwrap_or(i32::MAX)
    };
    let of = |pod: &Pod, revision: &str| {
        pod.meta.deleted.is_none() && pod.labels.get(LABEL_REVISION).is_some_and(|r| r == revision)
    };
    for at in view.pods.values().filter_map(|p| view.available_at(p)).filter(|at| *at > view.now) {
        plan.look_again(at);
    }
    let some = |n: i32| (n > 0).then_some(n);
    let mut status = StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: some(count(&|p| p.phase == Phase::Running && p.ready_since.is_some())),
        // The API wants this one to be there, if only as 0.
        available_replicas: Some(count(&|p| view.is_available(p))),
        current_replicas: some(count(&|p| of(p, view.current))),
        updated_replicas: some(count(&|p| of(p, &view.revisions.name))),
        current_revision: Some(view.current.to_owned()),
        update_revision: Some(view.revisions.name.clone()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions.clone(),
    };
    let wanted = view.wanted();
    let complete = view.rolls()
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.ready_replicas.unwrap_or(0) == wanted
        && status.replicas == wanted;
    if complete {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    if let Some(change) = difference(&json!(old), &json!(status)) {
        plan.act(patch(view.set, change));
    }
}

/// A change of the status.
pub(super) fn patch(set: &StatefulSet, change: Value) -> Verb {
    Verb::Patch {
        target: Reference::to(set),
        part: Part::STATUS,
        guard: Guard::NONE,
        change: Change::Merge(json!({ "status": change })),
    }
}
