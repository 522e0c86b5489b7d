//! Job: runs pods until enough of them have succeeded, and counts each exactly once.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/job/>. What the Job has come
//! to is judged in `judge.rs`, which pods to make and to delete is decided in `pods.rs`, and the
//! counting is in `count.rs`: a pod that has ended is written down by its uid, then loses the
//! finalizer that holds it, and only then becomes a number. A crash at any point neither loses it
//! nor counts it twice.

mod count;
mod failure;
mod judge;
mod pods;
mod status;
#[cfg(test)]
mod tests;
mod verdict;
mod view;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use proa_api::condition;
use proa_api::names::FINALIZER_JOB_TRACKING;
use proa_api::owner::refers_to;

use self::view::View;
use super::claims::{Owner, remove_finalizer};
use crate::world::facts::{Key, Pod, time};
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Verb};

/// What `managedBy` says if it says nothing.
const SELF: &str = "kubernetes.io/job-controller";

/// Decides what one Job needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(job) = seen.jobs.get(key) else { return plan };
    let Some(spec) = &job.spec else { return plan };
    if let Some(at) = finished_at(job) {
        expire(job, spec, at, now, &mut plan);
    }
    if spec.managed_by.as_deref().is_some_and(|by| by != SELF) {
        return plan;
    }
    let owner = Owner::of(&**job, spec.selector.as_ref()).with_finalizer(FINALIZER_JOB_TRACKING);
    let pods = owner.claim(seen, |_| true, &mut plan);
    if job.metadata.deletion_timestamp.is_some() || finished_at(job).is_some() {
        let_go(&pods, &owner, &mut plan);
        return plan;
    }
    let view = View { job, spec, status: job.status.clone().unwrap_or_default(), pods, now };
    decide(seen, &view, &owner, &mut plan);
    plan
}

fn decide(seen: &Observed, view: &View<'_>, owner: &Owner, plan: &mut Plan) {
    let tally = count::tally(seen, view);
    let mut verdict = judge::judge(view, &tally, plan);
    let steps = match &verdict {
        Some(_) => pods::Steps { delete: view.active().collect(), ..pods::Steps::default() },
        None => pods::manage(view, &tally, plan),
    };
    if verdict.is_none() {
        verdict = judge::completion(view, &tally, &steps);
    }
    let counted = count::write_down(view, &tally, verdict.as_ref());
    status::update(view, &tally, &counted, verdict.as_ref(), plan);
    // No pod is let go before it is written down.
    for (index, pod) in counted.released.iter().enumerate() {
        let verb = remove_finalizer(pod, FINALIZER_JOB_TRACKING);
        if index == 0 { plan.act_then(verb) } else { plan.act(verb) }
    }
    // Whom the Job itself has no use for any more, as when it is suspended, has not failed it: not
    // held any more, it is not counted.
    let spared = steps.delete.iter().filter(|p| verdict.is_none() && view.holds(p));
    let spared: Vec<Verb> = spared.map(|p| remove_finalizer(p, FINALIZER_JOB_TRACKING)).collect();
    let chained = !spared.is_empty();
    spared.into_iter().for_each(|verb| plan.act(verb));
    let first = plan.actions.len();
    for pod in steps.delete {
        owner.delete(pod, plan);
    }
    if let Some(delete) = plan.actions.get_mut(first) {
        delete.chained |= chained;
    }
    for body in pods::bodies(view, &tally, owner, &steps.create) {
        owner.create(body, plan);
    }
}

/// Lets go of the pods of a Job that has ended or is on its way out.
fn let_go(pods: &[&Arc<Pod>], owner: &Owner, plan: &mut Plan) {
    for pod in pods.iter().filter(|p| p.meta.has_finalizer(FINALIZER_JOB_TRACKING)) {
        plan.act(remove_finalizer(pod, FINALIZER_JOB_TRACKING));
    }
    for pod in pods.iter().filter(|p| p.is_active()) {
        owner.delete(pod, plan);
    }
}

/// When the Job ended, if it has.
pub(super) fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ended = ["Complete", "Failed"].into_iter().filter_map(|type_| condition::find(conditions, type_));
    let ended = ended.filter(|c| c.status == "True");
    ended.map(|c| time(&c.last_transition_time).unwrap_or(Timestamp::UNIX_EPOCH)).next()
}

/// Deletes a Job that has ended, with its pods, when its time has come.
fn expire(job: &Job, spec: &JobSpec, finished_at: Timestamp, now: Timestamp, plan: &mut Plan) {
    let Some(seconds) = spec.ttl_seconds_after_finished else { return };
    let at = finished_at + SignedDuration::from_secs(seconds.into());
    if job.metadata.deletion_timestamp.is_some() {
        return;
    }
    if at > now {
        plan.look_again(at);
        return;
    }
    plan.act(Verb::Delete {
        target: Reference::to(job),
        resource_version: job.metadata.resource_version.clone(),
        propagation: Some("Foreground"),
        grace_period_seconds: None,
        unless: Vec::new(),
    });
}

/// Decides about a pod that a Job's finalizer holds: if the Job is gone, nobody counts it.
pub fn reconcile_orphan(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = seen.pods.get(key) else { return plan };
    let held = pod.meta.has_finalizer(FINALIZER_JOB_TRACKING);
    let job = pod.meta.controller().filter(|owner| refers_to::<Job>(owner));
    if held && job.is_none_or(|job| seen.graph.get(&job.uid).is_none()) {
        plan.act(remove_finalizer(pod, FINALIZER_JOB_TRACKING));
    }
    plan
}
