//! Which pods a Job needs next: how many, of which index, and after which pause.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodTemplateSpec};
use proa_api::names::{
    ANNOTATION_JOB_INDEX_FAILURES, ANNOTATION_JOB_INDEX_IGNORED_FAILURES, JOB_COMPLETION_INDEX,
};
use serde_json::{Value, json};

use super::count::{Tally, failures};
use super::failure::{Consequence, consequence};
use super::view::View;
use crate::controllers::claims::Owner;
use crate::world::facts::{Phase, Pod};
use crate::world::plan::Plan;

/// No more pods than this are created or deleted in one go; the next look takes the rest.
const BURST: usize = 500;
/// The pause after the first failure; each further one doubles it.
const BACK_OFF_SECONDS: i64 = 10;
/// No pause is longer.
const MAX_BACK_OFF_SECONDS: i64 = 360;

/// The pods to make and to delete.
#[derive(Debug, Default)]
pub(super) struct Steps<'a> {
    /// One entry per pod: its index, where the Job has indexes.
    pub create: Vec<Option<i32>>,
    pub delete: Vec<&'a Arc<Pod>>,
}

/// Decides. Pods are not made and deleted in one step: what is too many goes first.
pub(super) fn manage<'a>(view: &View<'a>, tally: &Tally<'a>, plan: &mut Plan) -> Steps<'a> {
    let active: Vec<&Arc<Pod>> = view.active().collect();
    let count = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let wanted = if view.is_suspended() { 0 } else { wanted(view, tally, count) };
    let mut delete = excess(view, active, usize::try_from(count.saturating_sub(wanted)).unwrap_or(0));
    delete.truncate(BURST);
    if !delete.is_empty() || view.is_suspended() {
        return Steps { delete, create: Vec::new() };
    }
    let leaving = if view.replaces_ended_only() { view.terminating().count() } else { 0 };
    let missing = wanted - count - i32::try_from(leaving).unwrap_or(i32::MAX);
    let missing = usize::try_from(missing).unwrap_or(0).min(BURST);
    if missing == 0 {
        return Steps::default();
    }
    let per_index = view.spec.backoff_limit_per_index.is_some();
    if !per_index && let Some(at) = pause_ends(view).filter(|at| *at > view.now) {
        plan.look_again(at);
        return Steps::default();
    }
    let create = if view.is_indexed() {
        pending(view, tally, missing, plan).into_iter().map(Some).collect()
    } else {
        vec![None; missing]
    };
    Steps { create, delete: Vec::new() }
}

fn wanted(view: &View<'_>, tally: &Tally<'_>, active: i32) -> i32 {
    match view.spec.completions {
        // Work that ends with its first success: after that, who runs may finish.
        None if tally.succeeded > 0 => active,
        None => view.parallelism(),
        Some(completions) => (completions - tally.succeeded).clamp(0, view.parallelism().max(0)),
    }
}

/// The pods that are too many: those without a place among the indexes, and as many more of those
/// that have come least far.
fn excess<'a>(view: &View<'_>, mut active: Vec<&'a Arc<Pod>>, least: usize) -> Vec<&'a Arc<Pod>> {
    active.sort_by_key(|pod| {
        let ready = pod.ready_since;
        (
            pod.node.is_some(),
            pod.phase,
            ready.is_some(),
            pod.deletion_cost,
            Reverse(ready),
            Reverse(pod.meta.created),
            pod.meta.key.name.clone(),
        )
    });
    let mut delete = Vec::new();
    if view.is_indexed() {
        let mut taken = BTreeSet::new();
        // Of two with one index, the one that has come further stays.
        for at in (0..active.len()).rev() {
            if view.index(active[at]).is_none_or(|index| !taken.insert(index)) {
                delete.push(active.remove(at));
            }
        }
    }
    let more = least.saturating_sub(delete.len()).min(active.len());
    delete.extend(active.drain(..more));
    delete
}

/// The first indexes without a pod whose pause is over.
fn pending(view: &View<'_>, tally: &Tally<'_>, most: usize, plan: &mut Plan) -> Vec<i32> {
    let mut busy: BTreeSet<i32> = view.active().filter_map(|p| view.index(p)).collect();
    if view.replaces_ended_only() {
        busy.extend(view.terminating().filter_map(|p| view.index(p)));
    }
    let open = |index: &i32| {
        !busy.contains(index) && !tally.indexes.contains(*index) && !tally.failed_indexes.contains(*index)
    };
    let mut ready = Vec::new();
    for index in (0..view.completions()).filter(open).take(most) {
        let again = tally.last_failed.get(&index).map(|p| view.ended_at(p) + pause(failures(p) + 1));
        match again.filter(|at| *at > view.now) {
            Some(at) => plan.look_again(at),
            None => ready.push(index),
        }
    }
    ready
}

/// When the pause after the failures since the last success ends.
fn pause_ends(view: &View<'_>) -> Option<Timestamp> {
    let succeeded = view.pods.iter().filter(|p| p.phase == Phase::Succeeded);
    let success = succeeded.map(|p| view.ended_at(p)).max();
    let failed = view.pods.iter().filter(|p| view.has_failed(p)).map(|p| view.ended_at(p));
    let since: Vec<Timestamp> = failed.filter(|at| success.is_none_or(|success| *at > success)).collect();
    let last = since.iter().max()?;
    Some(*last + pause(i32::try_from(since.len()).unwrap_or(i32::MAX)))
}

/// The pause after so many failures.
fn pause(failures: i32) -> SignedDuration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(16);
    SignedDuration::from_secs((BACK_OFF_SECONDS << doublings).min(MAX_BACK_OFF_SECONDS))
}

/// The pods to make.
pub(super) fn bodies(
    view: &View<'_>,
    tally: &Tally<'_>,
    owner: &Owner,
    create: &[Option<i32>],
) -> Vec<Value> {
    if create.is_empty() {
        return Vec::new();
    }
    let name = &owner.reference.name;
    let mut template = view.spec.template.clone();
    if view.is_indexed() {
        add_index_variable(&mut template);
    }
    let plain = owner.pod(&template);
    let body = |index: &Option<i32>| {
        let mut body = plain.clone();
        let Some(index) = index else {
            body["metadata"]["generateName"] = format!("{name}-").into();
            return body;
        };
        body["metadata"]["generateName"] = format!("{name}-{index}-").into();
        body["metadata"]["labels"][JOB_COMPLETION_INDEX] = index.to_string().into();
        body["metadata"]["annotations"][JOB_COMPLETION_INDEX] = index.to_string().into();
        if body["spec"]["hostname"].as_str().unwrap_or_default().is_empty() {
            body["spec"]["hostname"] = format!("{name}-{index}").into();
        }
        if view.spec.backoff_limit_per_index.is_some() {
            add_failures(view, tally, *index, &mut body);
        }
        body
    };
    create.iter().map(body).collect()
}

/// Notes on a pod how often its index has failed, so that it need not be remembered elsewhere.
fn add_failures(view: &View<'_>, tally: &Tally<'_>, index: i32, body: &mut Value) {
    let (mut counted, mut ignored) = (0, 0);
    if let Some(last) = tally.last_failed.get(&index) {
        let notes = last.notes.as_deref().cloned().unwrap_or_default();
        let policy = view.spec.pod_failure_policy.as_ref();
        let is_ignored = consequence(policy, last) == Consequence::Ignore;
        counted = notes.failures + i32::from(!is_ignored);
        ignored = notes.ignored_failures + i32::from(is_ignored);
    }
    let annotations = &mut body["metadata"]["annotations"];
    annotations[ANNOTATION_JOB_INDEX_FAILURES] = json!(counted.to_string());
    if ignored > 0 {
        annotations[ANNOTATION_JOB_INDEX_IGNORED_FAILURES] = json!(ignored.to_string());
    }
}

/// Tells each container its pod's index.
fn add_index_variable(template: &mut PodTemplateSpec) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let Some(pod) = &mut template.spec else { return };
    let containers = pod.init_containers.iter_mut().flatten().chain(&mut pod.containers);
    let silent = |c: &&mut Container| !c.env.iter().flatten().any(|e| e.name == NAME);
    for container in containers.filter(silent) {
        let field = ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: format!("metadata.labels['{JOB_COMPLETION_INDEX}']"),
        };
        container.env.get_or_insert_default().push(EnvVar {
            name: NAME.to_owned(),
            value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
            ..EnvVar::default()
        });
    }
}
