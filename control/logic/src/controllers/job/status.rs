//! What a Job's status says, and the Events that go with it.

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::condition;
use serde_json::json;

use super::count::{Counted, Tally};
use super::verdict::Verdict;
use super::view::View;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Report, Verb, difference};
use proa_kinds::Part;

/// Brings the status up to date. The change is refused if the Job is not the one that was decided
/// upon: what has been counted since must not be counted again.
pub(super) fn update(
    view: &View<'_>,
    tally: &Tally<'_>,
    counted: &Counted<'_>,
    verdict: Option<&Verdict>,
    plan: &mut Plan,
) {
    let mut status = numbers(view, tally, counted);
    let told = match verdict {
        None => suspension(view, &mut status),
        Some(verdict) => {
            set(view, &mut status, verdict.target, "True", &verdict.reason, &verdict.message);
            let all_ended = !counted.holds
                && counted.released.is_empty()
                && counted.uncounted_failed.is_empty()
                && counted.uncounted_succeeded.is_empty()
                && view.active().next().is_none()
                && view.terminating().next().is_none();
            if all_ended { finish(view, &mut status, verdict, plan) } else { None }
        }
    };
    let Some(change) = difference(&json!(view.status), &json!(status)) else { return };
    let version = view.job.metadata.resource_version.as_deref().unwrap_or_default();
    let verb = Verb::Patch {
        target: Reference::to(view.job),
        part: Part::STATUS,
        guard: Guard::unchanged(version),
        change: Change::Merge(json!({ "status": change })),
    };
    let done = told.map(|(reason, text): (_, &str)| (reason, text.to_owned()));
    plan.act_and_report(verb, Report { about: Reference::to(view.job), done, failed: None });
}

fn numbers(view: &View<'_>, tally: &Tally<'_>, counted: &Counted<'_>) -> JobStatus {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let some = |n: i32| (n > 0).then_some(n);
    let list = |set: &std::collections::BTreeSet<String>| {
        (!set.is_empty()).then(|| set.iter().cloned().collect::<Vec<_>>())
    };
    let mut status = view.status.clone();
    if status.start_time.is_none() && !view.is_suspended() {
        status.start_time = Some(Time(view.now));
    }
    status.active = some(count(view.active().count()));
    status.ready = Some(count(view.active().filter(|p| p.ready_since.is_some()).count()));
    status.terminating = Some(count(view.terminating().count()));
    status.failed = some(tally.counted_failed);
    status.succeeded = some(tally.counted_succeeded);
    if view.is_indexed() {
        status.succeeded = some(counted.indexes.total());
        status.completed_indexes = Some(counted.indexes.to_string()).filter(|text| !text.is_empty());
        if view.spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(tally.failed_indexes.to_string()).filter(|text| !text.is_empty());
        }
    }
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        failed: list(&counted.uncounted_failed),
        succeeded: list(&counted.uncounted_succeeded),
    });
    status
}

/// Says whether the Job is held back, and starts its clock anew when it is not any more.
fn suspension(view: &View<'_>, status: &mut JobStatus) -> Option<(&'static str, &'static str)> {
    let before = condition::find(status.conditions.as_ref(), "Suspended").map(|c| c.status.as_str());
    if view.is_suspended() && before != Some("True") {
        set(view, status, "Suspended", "True", "JobSuspended", "Job suspended");
        return Some(("Suspended", "Job suspended"));
    }
    if !view.is_suspended() && before == Some("True") {
        set(view, status, "Suspended", "False", "JobResumed", "Job resumed");
        status.start_time = Some(Time(view.now));
        return Some(("Resumed", "Job resumed"));
    }
    None
}

fn finish(
    view: &View<'_>,
    status: &mut JobStatus,
    verdict: &Verdict,
    plan: &mut Plan,
) -> Option<(&'static str, &'static str)> {
    if verdict.is_success() {
        set(view, status, "Complete", "True", &verdict.reason, &verdict.message);
        status.completion_time = Some(Time(view.now));
        return Some(("Completed", "Job completed"));
    }
    set(view, status, "Failed", "True", &verdict.reason, &verdict.message);
    plan.problems.push(Problem {
        about: Reference::to(view.job),
        warning: true,
        reason: failure_reason(&verdict.reason),
        message: verdict.message.clone(),
    });
    None
}

/// The reasons of Events are constants.
fn failure_reason(reason: &str) -> &'static str {
    let known = ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "FailedIndexes"];
    known.into_iter().find(|k| *k == reason).unwrap_or("MaxFailedIndexesExceeded")
}

fn set(view: &View<'_>, status: &mut JobStatus, type_: &str, is: &str, reason: &str, message: &str) {
    let now = Some(Time(view.now));
    let old = condition::find(status.conditions.as_ref(), type_);
    if old.is_some_and(|c| c.status == is && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let new = JobCondition {
        type_: type_.to_owned(),
        status: is.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: now.clone(),
        last_transition_time: now,
    };
    condition::set(&mut status.conditions, new);
}
