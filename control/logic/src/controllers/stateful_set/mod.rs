//! StatefulSet: pods with names that stay, made, replaced and removed in order.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>. With
//! `OrderedReady` each look does at most one thing, and only when all pods before it run; with
//! `Parallel` pods are made and removed at once. What a pod is made of is in `pod.rs`, what the
//! status says in `status.rs`.

mod pod;
mod status;
#[cfg(test)]
mod tests;
mod view;
mod volume_claims;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use self::view::View;
use super::claims::{Owner, deletion, deletion_as_seen};
use super::revisions::{self, LABEL_REVISION, Source};
use super::templates::resolve;
use crate::world::facts::{Key, Phase, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Problem, Verb};

/// Decides what one StatefulSet needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = seen.stateful_sets.get(key) else { return plan };
    let Some(spec) = &set.spec else { return plan };
    let owner = Owner::of(&**set, Some(&spec.selector));
    let old = set.status.clone().unwrap_or_default();
    let collisions = old.collision_count.unwrap_or(0);
    let source = Source { owner: &owner, meta: &set.metadata, template: &spec.template, collisions };
    let Ok(revisions) = revisions::sync(seen, &source, &mut plan) else {
        plan.act(status::patch(set, json!({ "collisionCount": collisions + 1 })));
        return plan;
    };
    let known = |name: &str| revisions.all.iter().any(|r| r.metadata.name.as_deref() == Some(name));
    let current = old.current_revision.filter(|name| known(name)).unwrap_or_else(|| revisions.name.clone());
    let ordinal = |pod: &Pod| ordinal(&key.name, &pod.meta.key.name);
    let claimed = owner.claim(seen, |pod| ordinal(pod).is_some(), &mut plan);
    let pods = claimed.into_iter().filter_map(|pod| Some((ordinal(pod)?, pod))).collect();
    let view = View { seen, set, spec, revisions: &revisions, current: &current, pods, now };
    if set.metadata.deletion_timestamp.is_none() {
        let settled = volume_claims::keep(&view, &owner, &mut plan)
            && bring_up(&view, &owner, &mut plan)
            && take_down(&view, &owner, &mut plan);
        if settled {
            roll(&view, &owner, &mut plan);
        }
        let mut live: BTreeSet<&str> =
            view.pods.values().filter_map(|p| p.labels.get(LABEL_REVISION)).map(String::as_str).collect();
        live.insert(&current);
        revisions::clean_up(&revisions, &live, spec.revision_history_limit, &mut plan);
    }
    status::update(&view, &mut plan);
    plan
}

/// The ordinal in the name of a pod of the set.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let text = pod.strip_prefix(set)?.strip_prefix('-')?;
    text.parse::<i32>().ok().filter(|n| *n >= 0 && n.to_string() == text)
}

/// Makes the pods that are missing. False if something has to happen before anything else does.
fn bring_up(view: &View<'_>, owner: &Owner, plan: &mut Plan) -> bool {
    for ordinal in view.ordinals() {
        let Some(pod) = view.pods.get(&ordinal) else {
            create(view, owner, ordinal, plan);
            if view.is_ordered() {
                return false;
            }
            continue;
        };
        if pod.is_finished() {
            if let Some(until) = held_until(pod).filter(|until| view.now < *until) {
                plan.look_again(until);
            } else if pod.meta.deleted.is_none() {
                plan.problems.push(recreation(pod, owner));
                delete(owner, pod, deletion(pod), plan);
            }
            if view.is_ordered() {
                return false;
            }
            continue;
        }
        if let Some(verb) = pod::name_labels(pod) {
            plan.act(verb);
        }
        if view.is_ordered() && !view.is_available(pod) {
            if let Some(at) = view.available_at(pod) {
                plan.look_again(at);
            }
            return false;
        }
    }
    true
}

/// When a pod that has failed may be made again: a node that rejects it at once would have made an
/// endless rush.
fn held_until(pod: &Pod) -> Option<Timestamp> {
    const PAUSE: SignedDuration = SignedDuration::from_secs(10);
    (pod.phase == Phase::Failed).then(|| pod.meta.created + PAUSE)
}

/// Removes the pods that are too many, the last first. False if that goes on.
fn take_down(view: &View<'_>, owner: &Owner, plan: &mut Plan) -> bool {
    let condemned = view.condemned();
    let first_unhealthy = condemned.iter().find(|p| !view.is_available(p)).map(|p| &p.meta.uid);
    for pod in &condemned {
        let leaving = pod.meta.deleted.is_some();
        if view.is_ordered() {
            // One that does not run yet is waited for, unless it is the only trouble there is.
            let may_go = view.is_available(pod) || first_unhealthy == Some(&pod.meta.uid);
            if !leaving && may_go {
                delete(owner, pod, deletion(pod), plan);
            }
            return false;
        }
        if !leaving {
            delete(owner, pod, deletion(pod), plan);
        }
    }
    condemned.is_empty()
}

/// Replaces pods of older templates, the last first, as many at once as may be unavailable.
fn roll(view: &View<'_>, owner: &Owner, plan: &mut Plan) {
    if !view.rolls() {
        return;
    }
    let rolling = view.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let limit = rolling.and_then(|r| r.max_unavailable.as_ref());
    let limit = limit.map_or(1, |limit| resolve(limit, view.wanted(), false)).max(1);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let pods: Vec<(i32, &Arc<Pod>)> =
        view.ordinals().rev().filter_map(|n| Some((n, *view.pods.get(&n)?))).collect();
    let missing = view.ordinals().len() - pods.len();
    let mut unavailable = missing + pods.iter().filter(|(_, p)| !view.is_available(p)).count();
    for at in pods.iter().filter_map(|(_, p)| view.available_at(p)).filter(|at| *at > view.now) {
        plan.look_again(at);
    }
    let outdated = |(n, pod): &&(i32, &Arc<Pod>)| {
        *n >= view.partition() && !view.is_newest(pod) && pod.meta.deleted.is_none() && !pod.is_finished()
    };
    for (_, pod) in pods.iter().filter(outdated) {
        if !view.is_available(pod) {
            // It is no loss, unless it has come up meanwhile.
            delete(owner, pod, deletion_as_seen(pod), plan);
        } else if unavailable < limit {
            unavailable += 1;
            delete(owner, pod, deletion(pod), plan);
        }
    }
}

fn create(view: &View<'_>, owner: &Owner, ordinal: i32, plan: &mut Plan) {
    let before = plan.actions.len();
    if !volume_claims::ensure(view, owner, ordinal, plan) {
        return;
    }
    let body = pod::body(view, owner, ordinal);
    let (set, name) = (&owner.reference.name, format!("{}-{ordinal}", owner.reference.name));
    let done = ("SuccessfulCreate", format!("create Pod {name} in StatefulSet {set} successful"));
    let failed = ("FailedCreate", format!("create Pod {name} in StatefulSet {set} failed error: {{}}"));
    let has_new_claims = plan.actions.len() > before;
    plan.act_and_report(owner.creation(body), owner.report(done, failed));
    if let Some(pod) = plan.actions.last_mut() {
        pod.chained = has_new_claims;
    }
}

fn delete(owner: &Owner, pod: &Pod, verb: Verb, plan: &mut Plan) {
    let (set, name) = (&owner.reference.name, &pod.meta.key.name);
    let done = ("SuccessfulDelete", format!("delete Pod {name} in StatefulSet {set} successful"));
    let failed = ("FailedDelete", format!("delete Pod {name} in StatefulSet {set} failed error: {{}}"));
    plan.act_and_report(verb, owner.report(done, failed));
}

fn recreation(pod: &Pod, owner: &Owner) -> Problem {
    let failed = pod.phase == Phase::Failed;
    let (reason, state) =
        if failed { ("RecreatingFailedPod", "failed") } else { ("RecreatingTerminatedPod", "terminated") };
    let (namespace, set) = (&owner.reference.namespace, &owner.reference.name);
    Problem {
        about: owner.reference.clone(),
        warning: failed,
        reason,
        message: format!("StatefulSet {namespace}/{set} is recreating {state} Pod {}", pod.meta.key.name),
    }
}
