//! The counting of a Job's pods.
//!
//! A pod is held by a finalizer until it is counted. First its uid is written down in the status,
//! then the finalizer is taken off, and when that is seen the uid becomes a number. Of an indexed
//! Job the completed indexes are written down at once: an index cannot be counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proa_api::names::FINALIZER_JOB_TRACKING;

use super::failure::{Consequence, consequence};
use super::verdict::Verdict;
use super::view::View;
use crate::world::facts::{Phase, Pod};
use crate::world::observed::Observed;
use proa_kinds::built_in::job::Indexes;

/// No more uids than this stand in a status.
const UNCOUNTED_MAX: usize = 500;

/// What has been counted, and what there is to count.
#[derive(Debug, Default)]
pub(super) struct Tally<'a> {
    /// The numbers in the status, with the uids whose pods have been let go.
    pub counted_succeeded: i32,
    pub counted_failed: i32,
    /// The uids that still wait for their pods to be let go.
    pub uncounted_succeeded: BTreeSet<String>,
    pub uncounted_failed: BTreeSet<String>,
    /// All that have succeeded: the above and those that have ended since.
    pub succeeded: i32,
    /// All that have failed in ways that count.
    pub failed: i32,
    /// The indexes that have been written down as completed.
    pub known_indexes: Indexes,
    /// Those and the ones that have been completed since.
    pub indexes: Indexes,
    /// The indexes that have failed for good, where each has a limit of its own.
    pub failed_indexes: Indexes,
    /// Of each index that waits for its next pod, the last one that failed. It is held until the
    /// next one carries its notes.
    pub last_failed: BTreeMap<i32, &'a Arc<Pod>>,
}

/// Counts the pods.
pub(super) fn tally<'a>(seen: &Observed, view: &View<'a>) -> Tally<'a> {
    let status = &view.status;
    let mut tally = Tally {
        counted_succeeded: status.succeeded.unwrap_or(0),
        counted_failed: status.failed.unwrap_or(0),
        ..Tally::default()
    };
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let held = |uid: &str| seen.graph.get(uid).is_some_and(|m| m.has_finalizer(FINALIZER_JOB_TRACKING));
    for uid in uncounted.succeeded.into_iter().flatten() {
        if held(&uid) {
            tally.uncounted_succeeded.insert(uid);
        } else {
            tally.counted_succeeded += 1;
        }
    }
    for uid in uncounted.failed.into_iter().flatten() {
        if held(&uid) {
            tally.uncounted_failed.insert(uid);
        } else {
            tally.counted_failed += 1;
        }
    }
    let number = |set: &BTreeSet<String>| i32::try_from(set.len()).unwrap_or(i32::MAX);
    tally.succeeded = tally.counted_succeeded + number(&tally.uncounted_succeeded);
    tally.failed = tally.counted_failed + number(&tally.uncounted_failed);
    for pod in &view.pods {
        if !is_new(pod, &tally) {
            continue;
        }
        if pod.phase == Phase::Succeeded {
            tally.succeeded += 1;
        } else if view.has_failed(pod) && counts(view, pod) {
            tally.failed += 1;
        }
    }
    if view.is_indexed() {
        tally_indexes(view, &mut tally);
    }
    tally
}

/// True for a pod that has not been written down.
fn is_new(pod: &Pod, tally: &Tally<'_>) -> bool {
    pod.meta.has_finalizer(FINALIZER_JOB_TRACKING)
        && !tally.uncounted_succeeded.contains(&*pod.meta.uid)
        && !tally.uncounted_failed.contains(&*pod.meta.uid)
}

/// True if the failure of the pod counts. A pod of no index is not the Job's work.
fn counts(view: &View<'_>, pod: &Pod) -> bool {
    let policy = view.spec.pod_failure_policy.as_ref();
    (!view.is_indexed() || view.index(pod).is_some()) && consequence(policy, pod) != Consequence::Ignore
}

fn tally_indexes<'a>(view: &View<'a>, tally: &mut Tally<'a>) {
    let completions = view.completions();
    tally.known_indexes = Indexes::of_status(view.status.completed_indexes.as_deref(), completions);
    tally.indexes = tally.known_indexes.clone();
    let new: Vec<&Arc<Pod>> = view.pods.iter().copied().filter(|p| is_new(p, tally)).collect();
    for index in new.iter().filter(|p| p.phase == Phase::Succeeded).filter_map(|p| view.index(p)) {
        tally.indexes.insert(index);
    }
    tally.succeeded = tally.indexes.total();
    if view.spec.backoff_limit_per_index.is_none() {
        return;
    }
    tally.failed_indexes = Indexes::of_status(view.status.failed_indexes.as_deref(), completions);
    for index in new.iter().filter(|p| fails_index(view, p)).filter_map(|p| view.index(p)) {
        tally.failed_indexes.insert(index);
    }
    let active: BTreeSet<i32> = view.active().filter_map(|p| view.index(p)).collect();
    for pod in view.pods.iter().filter(|p| view.has_failed(p)) {
        let Some(index) = view.index(pod) else { continue };
        if tally.indexes.contains(index) || tally.failed_indexes.contains(index) || active.contains(&index) {
            continue;
        }
        let rank = |p: &Pod| (failures(p), view.ended_at(p));
        let last = tally.last_failed.entry(index).or_insert(pod);
        if rank(last) <= rank(pod) {
            *last = pod;
        }
    }
}

/// How many pods of its index have failed before this one, in whatever way.
pub(super) fn failures(pod: &Pod) -> i32 {
    pod.notes.as_ref().map_or(0, |n| n.failures + n.ignored_failures)
}

fn fails_index(view: &View<'_>, pod: &Pod) -> bool {
    if !view.has_failed(pod) {
        return false;
    }
    match consequence(view.spec.pod_failure_policy.as_ref(), pod) {
        Consequence::FailIndex => true,
        Consequence::Ignore => false,
        _ => {
            let before = pod.notes.as_ref().map_or(0, |n| n.failures);
            before >= view.spec.backoff_limit_per_index.unwrap_or(i32::MAX)
        }
    }
}

/// What is to be written down, and which pods can be let go then.
#[derive(Debug, Default)]
pub(super) struct Counted<'a> {
    pub uncounted_succeeded: BTreeSet<String>,
    pub uncounted_failed: BTreeSet<String>,
    pub indexes: Indexes,
    pub released: Vec<&'a Arc<Pod>>,
    /// True if a pod is held still.
    pub holds: bool,
}

/// Writes down the pods that have ended. Once the Job has failed, those that have not ended count
/// as failed too.
pub(super) fn write_down<'a>(view: &View<'a>, tally: &Tally<'a>, verdict: Option<&Verdict>) -> Counted<'a> {
    let mut counted = Counted {
        uncounted_succeeded: tally.uncounted_succeeded.clone(),
        uncounted_failed: tally.uncounted_failed.clone(),
        indexes: tally.known_indexes.clone(),
        ..Counted::default()
    };
    let mut room =
        UNCOUNTED_MAX.saturating_sub(counted.uncounted_succeeded.len() + counted.uncounted_failed.len());
    let job_failed = verdict.is_some_and(|v| !v.is_success());
    for pod in view.pods.iter().copied().filter(|p| p.meta.has_finalizer(FINALIZER_JOB_TRACKING)) {
        let failed = view.has_failed(pod);
        if !may_go(view, tally, verdict, pod, failed) || room == 0 {
            counted.holds = true;
            continue;
        }
        counted.released.push(pod);
        if !is_new(pod, tally) {
            continue;
        }
        let uid = pod.meta.uid.to_string();
        if pod.phase == Phase::Succeeded {
            if !view.is_indexed() {
                counted.uncounted_succeeded.insert(uid);
                room -= 1;
            } else if view.index(pod).is_some_and(|index| counted.indexes.insert(index)) {
                room -= 1;
            }
        } else if (failed || job_failed) && counts(view, pod) {
            counted.uncounted_failed.insert(uid);
            room -= 1;
        }
    }
    counted
}

fn may_go(view: &View<'_>, tally: &Tally<'_>, verdict: Option<&Verdict>, pod: &Pod, failed: bool) -> bool {
    if verdict.is_some() || pod.phase == Phase::Succeeded {
        return true;
    }
    let last = view.index(pod).and_then(|index| tally.last_failed.get(&index));
    failed && last.is_none_or(|last| last.meta.uid != pod.meta.uid)
}
