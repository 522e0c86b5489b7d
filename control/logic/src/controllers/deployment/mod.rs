//! Deployment: rolls a pod template out by scaling ReplicaSets, one per template.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>. What to scale
//! to is decided in `rollout.rs` (towards a new template) and `scale.rs` (towards another number
//! of replicas), both on plain numbers; what the user sees of it in `status.rs`.

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
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::names;
use proa_api::owner::{controller_of, controller_reference};
use proa_api::selector::Selector;
use serde_json::json;

use self::replica_sets::{Sets, sets_of};
use super::claims::owned;
use super::templates::{self, resolve};
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

/// How many replicas each set is to have; the old ones in the order of [`Sets::old`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sizes {
    new: i32,
    old: Vec<i32>,
}

/// All that the arithmetic of rolling and scaling reads.
#[derive(Clone, Debug)]
struct Counts {
    wanted: i32,
    surge: i32,
    unavailable: i32,
    rolling: bool,
    new: Option<SetCounts>,
    /// Oldest first.
    old: Vec<SetCounts>,
}

/// The numbers of one ReplicaSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SetCounts {
    /// In its spec.
    replicas: i32,
    /// In its status.
    available: i32,
    /// Pods that there may be: those in its spec, or those in its status if they are more.
    present: i32,
    /// True if its controller has seen its spec. Before, it may still be making pods that an
    /// earlier one asked for.
    settled: bool,
    /// What the Deployment wanted when it last sized this set.
    desired: Option<i32>,
    /// What the Deployment allowed then, with the surge.
    maximum: Option<i32>,
    /// Seconds since the epoch.
    created: i64,
}

fn replica_counts(spec: &DeploymentSpec, sets: &Sets) -> Counts {
    let (surge, unavailable) = limits(spec);
    let number = |set: &ReplicaSet, name: &str| {
        set.metadata.annotations.as_ref().and_then(|a| a.get(name)).and_then(|v| v.parse().ok())
    };
    let of = |set: &Arc<ReplicaSet>| SetCounts {
        replicas: replicas(set),
        available: set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0),
        present: set.status.as_ref().map_or(0, |s| s.replicas).max(replicas(set)),
        settled: set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation,
        desired: number(set, names::ANNOTATION_DESIRED_REPLICAS),
        maximum: number(set, names::ANNOTATION_MAX_REPLICAS),
        created: set.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
    };
    Counts {
        wanted: wanted(spec),
        surge,
        unavailable,
        rolling: spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("Recreate"),
        new: sets.new.as_ref().map(of),
        old: sets.old.iter().map(of).collect(),
    }
}

/// The replicas wanted.
fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

/// The replicas in a set's spec.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// How many pods above and below the wanted number a roll-out may go. Percents of surge round
/// up, of unavailability down; if both come to nothing, one may be unavailable, or nothing would
/// ever move.
fn limits(spec: &DeploymentSpec) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        return (0, wanted(spec));
    }
    let rolling = strategy.and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    let quarter = IntOrString::String("25%".to_owned());
    let surge = resolve(rolling.max_surge.as_ref().unwrap_or(&quarter), wanted(spec), true);
    let unavailable = resolve(rolling.max_unavailable.as_ref().unwrap_or(&quarter), wanted(spec), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted(spec))) }
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
            part: Part::Status,
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
