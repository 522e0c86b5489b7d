//! DaemonSet: keeps one pod of a template on every node that is fit for it.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/>. A pod is bound
//! by the scheduler like any other; it names its node by an affinity. Which nodes are fit is
//! decided in `fit.rs`, how a new template replaces an old one in `rollout.rs`.

mod fit;
mod rollout;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use proa_api::names;
use serde_json::json;

use self::fit::Fit;
use self::view::{Site, Steps, View};
use super::claims::Owner;
use super::revisions::{self, LABEL_REVISION, Source};
use crate::world::facts::{Key, Node, Phase, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Verb, difference};
use proa_kinds::Part;

/// A pod that has failed is left alone for this long, so that a node that refuses it is not kept
/// busy with its successors.
const FAILED_POD_REST: SignedDuration = SignedDuration::from_secs(10);
/// No more pods than this are created or deleted in one go; the next look takes the rest.
const BURST: usize = 250;
/// Label of a pod: how many templates its DaemonSet had had when it was made.
const LABEL_TEMPLATE_GENERATION: &str = "pod-template-generation";

/// Decides what one DaemonSet needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = seen.daemon_sets.get(key) else { return plan };
    let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
        return plan;
    };
    let owner = Owner::of(&**set, Some(&spec.selector));
    let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let source = Source { owner: &owner, meta: &set.metadata, template: &spec.template, collisions };
    let Ok(revisions) = revisions::sync(seen, &source, &mut plan) else {
        patch_status(set, json!({ "collisionCount": collisions + 1 }), &mut plan);
        return plan;
    };
    let pods = owner.claim(seen, |_| true, &mut plan);
    let view = View { spec, revisions: &revisions, sites: sites(seen, spec, pods), now };
    let mut steps = manage(&view, &owner, &mut plan);
    rollout::add(&view, &mut steps);
    execute(set, &view, &owner, steps, &mut plan);
    let live = view.sites.values().flat_map(|s| &s.pods).filter_map(|p| p.labels.get(LABEL_REVISION));
    revisions::clean_up(
        &revisions,
        &live.map(String::as_str).collect(),
        spec.revision_history_limit,
        &mut plan,
    );
    update_status(set, &view, &mut plan);
    plan
}

/// Every node, with the pods that are there or on their way to it.
fn sites<'a>(
    seen: &'a Observed,
    spec: &DaemonSetSpec,
    pods: Vec<&'a Arc<Pod>>,
) -> BTreeMap<&'a str, Site<'a>> {
    let site = |node: &'a Arc<Node>| Site { node: Some(node), fit: fit::judge(spec, node), pods: Vec::new() };
    let mut sites: BTreeMap<&str, Site<'_>> =
        seen.nodes.iter().map(|(name, node)| (&**name, site(node))).collect();
    for pod in pods {
        // What has ended and is only waiting to be gone takes no place.
        if pod.is_finished() && pod.meta.deleted.is_some() {
            continue;
        }
        let Some(name) = pod.target_node() else { continue };
        let gone = || Site { node: None, fit: Fit::Never, pods: Vec::new() };
        sites.entry(name).or_insert_with(gone).pods.push(pod);
    }
    for site in sites.values_mut() {
        site.pods.sort_by_key(|p| (p.node.is_none(), p.meta.created, p.meta.key.name.clone()));
    }
    sites
}

/// One pod where there is to be one, none where there is to be none.
fn manage<'a>(view: &View<'a>, owner: &Owner, plan: &mut Plan) -> Steps<'a> {
    let mut steps = Steps::default();
    for (name, site) in &view.sites {
        match site.fit {
            Fit::Runs if site.pods.is_empty() => {
                steps.create.insert(*name);
            }
            Fit::Runs | Fit::Stays => tidy(view, site, owner, &mut steps, plan),
            // Pods that are bound to a node that is gone are collected with it.
            Fit::Never => {
                let there = |p: &&Arc<Pod>| site.node.is_some() || p.node.is_none();
                steps.delete.extend(site.staying().filter(there).map(|p| (&p.meta.key, p)));
            }
        }
    }
    steps
}

/// Deletes what has ended and what is too many.
fn tidy<'a>(view: &View<'a>, site: &Site<'a>, owner: &Owner, steps: &mut Steps<'a>, plan: &mut Plan) {
    let mut running = Vec::new();
    for pod in site.staying() {
        match (pod.phase, &pod.end) {
            (Phase::Failed, Some(end)) if end.at + FAILED_POD_REST > view.now => {
                plan.look_again(end.at + FAILED_POD_REST);
            }
            (Phase::Failed | Phase::Succeeded, _) => {
                plan.problems.push(ended(pod, owner));
                steps.delete.insert(&pod.meta.key, pod);
            }
            _ => running.push(pod),
        }
    }
    if !rollout::surges(view) {
        steps.delete.extend(running.iter().skip(1).map(|p| (&p.meta.key, *p)));
        return;
    }
    // One of the old template and one of the new may stand side by side.
    let (mut new, mut old) = (None, None);
    for pod in running {
        let place = if view.is_new(pod) { &mut new } else { &mut old };
        if place.is_some() {
            steps.delete.insert(&pod.meta.key, pod);
        } else {
            *place = Some(pod);
        }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (old.ready_since.is_none() || view.is_available(new))
    {
        steps.delete.insert(&old.meta.key, old);
    }
}

fn ended(pod: &Pod, owner: &Owner) -> Problem {
    let failed = pod.phase == Phase::Failed;
    let (state, reason, verb) = if failed {
        ("failed", "FailedDaemonPod", "kill")
    } else {
        ("succeeded", "SucceededDaemonPod", "delete")
    };
    let (namespace, name) = (&pod.meta.key.namespace, &pod.meta.key.name);
    let node = pod.node.as_deref().unwrap_or_default();
    Problem {
        about: owner.reference.clone(),
        warning: failed,
        reason,
        message: format!("Found {state} daemon pod {namespace}/{name} on node {node}, will try to {verb} it"),
    }
}

fn execute(set: &DaemonSet, view: &View<'_>, owner: &Owner, steps: Steps<'_>, plan: &mut Plan) {
    let template = template(set, view);
    for node in steps.create.iter().take(BURST) {
        let mut template = template.clone();
        fit::pin(template.spec.get_or_insert_default(), node);
        let mut body = owner.pod(&template);
        body["metadata"]["generateName"] = format!("{}-", owner.reference.name).into();
        owner.create(body, plan);
    }
    for pod in steps.delete.values().take(BURST) {
        if view.is_available(pod) {
            owner.delete(pod, plan);
        } else {
            owner.delete_as_seen(pod, plan);
        }
    }
}

/// The template with what every pod of the set carries.
fn template(set: &DaemonSet, view: &View<'_>) -> PodTemplateSpec {
    let mut template = view.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(LABEL_REVISION.to_owned(), view.revisions.hash.clone());
    let annotations = set.metadata.annotations.as_ref();
    if let Some(generation) = annotations.and_then(|a| a.get(names::ANNOTATION_TEMPLATE_GENERATION)) {
        labels.insert(LABEL_TEMPLATE_GENERATION.to_owned(), generation.clone());
    }
    let tolerations = fit::tolerations(template.spec.as_ref());
    template.spec.get_or_insert_default().tolerations = Some(tolerations);
    template
}

fn update_status(set: &DaemonSet, view: &View<'_>, plan: &mut Plan) {
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|s| s.collision_count),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for site in view.sites.values().filter(|s| s.node.is_some()) {
        let first = site.pods.first();
        if site.fit != Fit::Runs {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = first else { continue };
        status.current_number_scheduled += 1;
        updated += i32::from(view.is_new(pod));
        status.number_ready += i32::from(pod.ready_since.is_some());
        match view.available_at(pod) {
            Some(at) if at <= view.now => available += 1,
            Some(at) => plan.look_again(at),
            None => {}
        }
    }
    let some = |n: i32| (n > 0).then_some(n);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    if let Some(change) = difference(&json!(set.status.clone().unwrap_or_default()), &json!(status)) {
        patch_status(set, change, plan);
    }
}

fn patch_status(set: &DaemonSet, status: serde_json::Value, plan: &mut Plan) {
    plan.act(Verb::Patch {
        target: Reference::to(set),
        part: Part::STATUS,
        guard: Guard::NONE,
        change: Change::Merge(json!({ "status": status })),
    });
}
