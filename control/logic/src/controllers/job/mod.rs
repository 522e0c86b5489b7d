//! Job: runs pods until enough of them have succeeded, and counts each exactly once.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/job/>. What the Job has come
//! to is judged in `verdict.rs`, which pods to make and to delete is decided in `pods.rs`, and the
//! counting is in `count.rs`: a pod that has ended is written down by its uid, then loses the
//! finalizer that holds it, and only then becomes a number. A crash at any point neither loses it
//! nor counts it twice.

mod count;
mod failure;
mod pods;
mod status;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use proa_api::condition;
use proa_api::names::FINALIZER_JOB_TRACKING;

use super::claims::{Owner, remove_finalizer};
use crate::world::facts::{Key, Phase, Pod, time};
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Verb};

pub use proa_kinds::built_in::job::Indexes;

/// What `managedBy` says if it says nothing.
const SELF: &str = "kubernetes.io/job-controller";

/// All that a decision about one Job reads.
struct View<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    /// Its status as it was.
    status: JobStatus,
    pods: Vec<&'a Arc<Pod>>,
    now: Timestamp,
}

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
    let mut verdict = verdict::judge(view, &tally, plan);
    let steps = match &verdict {
        Some(_) => pods::Steps { delete: view.active().collect(), ..pods::Steps::default() },
        None => pods::manage(view, &tally, plan),
    };
    if verdict.is_none() {
        verdict = verdict::completion(view, &tally, &steps);
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
    let job = pod.meta.controller().filter(|c| c.kind == "Job");
    if held && job.is_none_or(|job| seen.graph.get(&job.uid).is_none()) {
        plan.act(remove_finalizer(pod, FINALIZER_JOB_TRACKING));
    }
    plan
}

impl<'a> View<'a> {
    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(i32::MAX)
    }

    fn parallelism(&self) -> i32 {
        self.spec.parallelism.unwrap_or(1)
    }

    /// The pods that neither have ended nor are on their way out.
    fn active(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().copied().filter(|p| p.is_active())
    }

    /// The pods that are on their way out and have not ended.
    fn terminating(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().copied().filter(|p| p.meta.deleted.is_some() && !p.is_finished() && !p.stopped)
    }

    /// True if a pod is replaced only once it has ended, not when it is on its way out.
    fn replaces_ended_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    /// True if the pod has still to be counted.
    fn holds(&self, pod: &Pod) -> bool {
        pod.meta.has_finalizer(FINALIZER_JOB_TRACKING)
    }

    /// True if the pod counts as a failed one. One that is deleted may never say how it ended; one
    /// that was let go before is none of the attempts.
    fn has_failed(&self, pod: &Pod) -> bool {
        match pod.phase {
            _ if pod.meta.deleted.is_some() && !self.holds(pod) => false,
            Phase::Failed => true,
            Phase::Succeeded => false,
            _ => pod.stopped || pod.meta.deleted.is_some() && !self.replaces_ended_only(),
        }
    }

    /// When a pod that counts as failed or has succeeded ended.
    fn ended_at(&self, pod: &Pod) -> Timestamp {
        let at = pod.end.as_ref().map(|end| end.at).or(pod.leaving_since);
        at.unwrap_or(self.now).min(self.now)
    }

    /// The index of a pod, if it is one of the Job's.
    fn index(&self, pod: &Pod) -> Option<i32> {
        pod.notes.as_ref().and_then(|n| n.index).filter(|index| *index < self.completions())
    }
}
