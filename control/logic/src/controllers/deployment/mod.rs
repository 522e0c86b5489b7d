//! Deployment: rolls a pod template out by scaling ReplicaSets, one per template.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>. What to scale
//! to is decided in `rollout.rs` (towards a new template) and `scale.rs` (towards another number
//! of replicas), both on plain numbers; what the user sees of it in `status.rs`.

mod counts;
mod replica_sets;
mod rollout;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use proa_api::names;
use serde_json::json;

use self::counts::{Sizes, limits, replica_counts, replicas, wanted};
use self::replica_sets::{Sets, sets_of};
use super::claims::owned;
use super::templates;
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Report, Verb};
use crate::world::workloads::recreates;
use proa_kinds::Part;

/// Decides what one Deployment needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(deployment) = seen.deployments.get(key) else { return plan };
    let Some(spec) = &deployment.spec else { return plan };
    if deployment.metadata.deletion_timestamp.is_some() {
        let sets = sets_of(seen, deployment, spec, &mut Plan::default());
        status::update(deployment, spec, &sets, None, now, &mut plan);
        return plan;
    }
    let sets = sets_of(seen, deployment, spec, &mut plan);
    if !plan.actions.is_empty() {
        // What is adopted or released counts only once it is.
        return plan;
    }
    let paused = spec.paused == Some(true);
    if paused || is_scaling(spec, &sets) {
        replica_sets::sync_revision(deployment, &sets, &mut plan);
        let sizes = scale::sizes(&replica_counts(spec, &sets));
        resize(deployment, spec, &sets, &sizes, &mut plan);
        if paused {
            clean_up(spec, &sets, &mut plan);
        }
        status::update(deployment, spec, &sets, None, now, &mut plan);
        return plan;
    }
    if recreates(deployment) {
        recreate(seen, deployment, spec, sets, now, &mut plan)
    } else {
        roll(seen, deployment, spec, sets, now, &mut plan)
    }
    plan
}

fn roll(
    seen: &Observed,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: Sets,
    now: Timestamp,
    plan: &mut Plan,
) {
    let Some(_) = &sets.new else {
        create_new(seen, deployment, spec, &sets, now, plan);
        return;
    };
    replica_sets::sync_revision(deployment, &sets, plan);
    let counts = replica_counts(spec, &sets);
    let sizes = rollout::sizes(&counts);
    finish(deployment, spec, &sets, &sizes, now, plan);
}

fn recreate(
    seen: &Observed,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: Sets,
    now: Timestamp,
    plan: &mut Plan,
) {
    let old_sizes: Vec<i32> = sets.old.iter().map(|_| 0).collect();
    let scaled_down = sets.old.iter().any(|s| replicas(s) > 0);
    let still_running = sets.old.iter().any(|s| {
        let uid = s.metadata.uid.as_deref().unwrap_or_default();
        owned(seen, uid).any(|p| !p.is_finished())
    });
    if scaled_down || still_running {
        replica_sets::sync_revision(deployment, &sets, plan);
        let new = sets.new.as_ref().map_or(0, |s| replicas(s));
        resize(deployment, spec, &sets, &Sizes { new, old: old_sizes }, plan);
        status::update(deployment, spec, &sets, None, now, plan);
        return;
    }
    if sets.new.is_none() {
        create_new(seen, deployment, spec, &sets, now, plan);
        return;
    }
    replica_sets::sync_revision(deployment, &sets, plan);
    let sizes = Sizes { new: wanted(spec), old: old_sizes };
    finish(deployment, spec, &sets, &sizes, now, plan);
}

fn finish(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    sizes: &Sizes,
    now: Timestamp,
    plan: &mut Plan,
) {
    resize(deployment, spec, sets, sizes, plan);
    if status::is_complete(deployment, spec, &status::counts(sets)) {
        clean_up(spec, sets, plan);
    }
    status::update(deployment, spec, sets, None, now, plan);
}

/// True if the wanted number has changed since the sets were last sized.
fn is_scaling(spec: &DeploymentSpec, sets: &Sets) -> bool {
    let counts = replica_counts(spec, sets);
    counts
        .new
        .iter()
        .chain(&counts.old)
        .any(|s| s.replicas > 0 && s.desired.is_some_and(|d| d != counts.wanted))
}

/// Patches every set that does not have its size or the notes of it.
fn resize(deployment: &Deployment, spec: &DeploymentSpec, sets: &Sets, sizes: &Sizes, plan: &mut Plan) {
    let new = sets.new.iter().map(|s| (s, sizes.new));
    for (set, size) in new.chain(sets.old.iter().zip(sizes.old.iter().copied())) {
        let before = replicas(set);
        let notes = size_notes(spec);
        let has = |(key, value): (&String, &String)| {
            set.metadata.annotations.as_ref().and_then(|a| a.get(key)) == Some(value)
        };
        // The notes of sets without pods are brought up to date when they are next sized.
        if before == size && (size == 0 || notes.iter().all(has)) {
            continue;
        }
        let patch = if before == size {
            json!({ "metadata": { "annotations": notes } })
        } else {
            json!({ "metadata": { "annotations": notes }, "spec": { "replicas": size } })
        };
        let verb = Verb::Patch {
            target: Reference::to(&**set),
            part: Part::Main,
            guard: Guard::same_generation(set.metadata.generation),
            change: Change::Merge(patch),
        };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let direction = if size > before { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {name} from {before} to {size}");
        let done = (before != size).then_some(("ScalingReplicaSet", text));
        plan.act_and_report(verb, Report { about: Reference::to(deployment), done, failed: None });
    }
}

/// What is noted on a set when it is sized, so that a later change of the wanted number is seen.
fn size_notes(spec: &DeploymentSpec) -> BTreeMap<String, String> {
    let (surge, _) = limits(spec);
    BTreeMap::from([
        (names::ANNOTATION_DESIRED_REPLICAS.to_owned(), wanted(spec).to_string()),
        (names::ANNOTATION_MAX_REPLICAS.to_owned(), wanted(spec).saturating_add(surge).to_string()),
    ])
}

/// Creates the set of the template as it is now.
fn create_new(
    seen: &Observed,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    now: Timestamp,
    plan: &mut Plan,
) {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = templates::hash(&spec.template, collisions);
    let key = Key::of(&deployment.metadata);
    let name = format!("{}-{hash}", key.name);
    if seen.replica_sets.get(&Key::new(&key.namespace, &name)).is_some() {
        // Another template has this hash, or somebody else this name: count on, hash anew.
        plan.act(Verb::Patch {
            target: Reference::to(deployment),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "status": { "collisionCount": collisions + 1 } })),
        });
        return;
    }
    let counts = replica_counts(spec, sets);
    let size = rollout::new_size(&counts);
    let mut body = replica_sets::body(deployment, spec, &name, &hash, size, size_notes(spec));
    let revision = replica_sets::next_revision(sets);
    body["metadata"]["annotations"][names::ANNOTATION_REVISION] = json!(revision.to_string());
    let verb = Verb::Create {
        api_version: "apps/v1",
        kind: "ReplicaSet",
        namespace: key.namespace.to_string(),
        body,
    };
    let done =
        (size > 0).then(|| ("ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {size}")));
    let failed =
        Some(("ReplicaSetCreateError", format!("Failed to create new replica set \"{name}\": {{}}")));
    plan.act_and_report(verb, Report { about: Reference::to(deployment), done, failed });
    replica_sets::note_revision(deployment, revision, plan);
    let created = status::created(spec, &name, now);
    status::update(deployment, spec, sets, created, now, plan);
}

/// Deletes the oldest sets without pods that are beyond the history limit.
fn clean_up(spec: &DeploymentSpec, sets: &Sets, plan: &mut Plan) {
    let limit = spec.revision_history_limit.unwrap_or(10);
    if limit == i32::MAX {
        return;
    }
    let mut old: Vec<&Arc<ReplicaSet>> =
        sets.old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|s| (replica_sets::revision(s), s.metadata.creation_timestamp.clone()));
    let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for set in old.into_iter().take(excess) {
        let status = set.status.clone().unwrap_or_default();
        let behind = set.metadata.generation > status.observed_generation;
        if status.replicas == 0 && replicas(set) == 0 && !behind {
            plan.act(Verb::Delete {
                target: Reference::to(&**set),
                resource_version: set.metadata.resource_version.clone(),
                propagation: Some("Background"),
                grace_period_seconds: None,
                unless: Vec::new(),
            });
        }
    }
}
