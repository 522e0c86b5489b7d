//! ReplicaSet: keeps as many pods of a template as its spec says.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>. Pods are
//! adopted when they match the selector and have no controller, and released when they no
//! longer match.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use proa_api::condition;
use proa_api::owner::controller_reference;
use proa_api::selector::Selector;
use serde_json::{Value, json};

use super::facts::{Key, Phase, Pod};
use super::observed::Observed;
use super::plan::{Change, Guard, Plan, Reference, Report, Verb};
use super::wakes::Controller;
use crate::kinds::Part;

/// No more pods than this are created or deleted in one go; the next look takes the rest.
const BURST: usize = 500;

/// Decides what one ReplicaSet needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = seen.replica_sets.get(key) else { return plan };
    let Some(spec) = &set.spec else { return plan };
    let claimed = claim(seen, set, spec, &mut plan);
    let active: Vec<&Arc<Pod>> = claimed.into_iter().filter(|p| p.is_active()).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() {
        if active.len() < wanted {
            create_pods(set, spec, (wanted - active.len()).min(BURST), &mut plan);
        } else if active.len() > wanted {
            let excess = (active.len() - wanted).min(BURST);
            delete_pods(set, pick_excess(seen, &active, excess, now), &mut plan);
        }
    }
    let refused = seen.refused.get(&(Controller::ReplicaSet, key.clone()));
    let status = status(set, spec, &active, refused, now, &mut plan);
    if set.status.as_ref() != Some(&status) {
        plan.act(Verb::Patch {
            target: Reference::to(&**set),
            part: Part::Status,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "status": replace_status(&status) })),
        });
    }
    plan
}

/// The pods that belong to the set after the adoptions and releases that the plan gets.
fn claim<'a>(
    seen: &'a Observed,
    set: &'a ReplicaSet,
    spec: &ReplicaSetSpec,
    plan: &mut Plan,
) -> Vec<&'a Arc<Pod>> {
    let meta = &set.metadata;
    let (namespace, uid) =
        (meta.namespace.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
    let selector = Selector::from_object(Some(&spec.selector));
    let deleting = meta.deletion_timestamp.is_some();
    let mut claimed = Vec::new();
    for pod in owned(seen, uid) {
        if selector.matches(Some(&pod.labels)) {
            claimed.push(pod);
        } else if !deleting && pod.meta.deleted.is_none() {
            let rest: Vec<&OwnerReference> = pod.meta.owners.iter().filter(|o| o.uid != uid).collect();
            plan.act(set_owners(pod, json!(rest)));
        }
    }
    if !deleting {
        for pod in seen.pods.unowned(namespace) {
            if pod.is_active() && selector.matches(Some(&pod.labels)) {
                let mut owners = pod.meta.owners.to_vec();
                owners.push(controller_reference(set));
                plan.act(set_owners(pod, json!(owners)));
                claimed.push(pod);
            }
        }
    }
    claimed
}

/// The pods that the controller with this uid owns.
pub(super) fn owned<'a>(seen: &'a Observed, uid: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
    seen.graph
        .dependents(uid)
        .filter(move |m| &*m.kind.kind == "Pod" && m.controller().is_some_and(|c| c.uid == uid))
        .filter_map(|m| seen.pods.get(&m.key))
}

fn set_owners(pod: &Pod, owners: Value) -> Verb {
    Verb::Patch {
        target: pod.meta.reference(),
        part: Part::Main,
        guard: Guard::unchanged(&pod.meta.resource_version),
        change: Change::Merge(json!({ "metadata": { "ownerReferences": owners } })),
    }
}

fn create_pods(set: &ReplicaSet, spec: &ReplicaSetSpec, count: usize, plan: &mut Plan) {
    let template = spec.template.clone().unwrap_or_default();
    let template_meta = template.metadata.unwrap_or_default();
    let mut meta = json!({
        "generateName": format!("{}-", set.metadata.name.as_deref().unwrap_or_default()),
        "namespace": set.metadata.namespace,
        "ownerReferences": [controller_reference(set)],
    });
    let kept = [
        ("labels", template_meta.labels.map(|l| json!(l))),
        ("annotations", template_meta.annotations.map(|a| json!(a))),
        ("finalizers", template_meta.finalizers.map(|f| json!(f))),
    ];
    for (field, value) in kept {
        if let Some(value) = value {
            meta[field] = value;
        }
    }
    let body = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template.spec.unwrap_or_default() });
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    for _ in 0..count {
        let verb =
            Verb::Create { api_version: "v1", kind: "Pod", namespace: namespace.clone(), body: body.clone() };
        let report = Report {
            about: Reference::to(set),
            done: Some(("SuccessfulCreate", "Created pod: {}".to_owned())),
            failed: Some(("FailedCreate", "Error creating: {}".to_owned())),
        };
        plan.act_and_report(verb, report);
    }
}

fn delete_pods<'a>(set: &ReplicaSet, pods: impl IntoIterator<Item = &'a Arc<Pod>>, plan: &mut Plan) {
    for pod in pods {
        let verb = Verb::Delete {
            target: pod.meta.reference(),
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
            unless: Vec::new(),
        };
        let report = Report {
            about: Reference::to(set),
            done: Some(("SuccessfulDelete", "Deleted pod: {}".to_owned())),
            failed: Some(("FailedDelete", "Error deleting: {}".to_owned())),
        };
        plan.act_and_report(verb, report);
    }
}

/// The pods to delete first: those that are not bound, not running, not ready, cheap to lose,
/// doubled up on a node, ready for a short time, often restarted, young.
fn pick_excess<'a>(
    seen: &Observed,
    active: &[&'a Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<&'a Arc<Pod>> {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    let owner = active.first().and_then(|p| p.meta.controller()).map(|c| c.uid.as_str()).unwrap_or_default();
    // Pods of the other sets of the same Deployment count as neighbours too.
    let deployment = seen.graph.get(owner).and_then(|m| m.controller()).map(|c| c.uid.as_str());
    let siblings = deployment.into_iter().flat_map(|uid| seen.graph.dependents(uid));
    let related = siblings.flat_map(|set| owned(seen, &set.uid)).filter(|p| p.is_active());
    let alone = active.iter().copied().filter(|_| deployment.is_none());
    for node in related.chain(alone).filter_map(|p| p.node.as_deref()) {
        *on_node.entry(node).or_default() += 1;
    }
    let mut order: Vec<&'a Arc<Pod>> = active.to_vec();
    order.sort_by_cached_key(|pod| {
        let neighbours = pod.node.as_deref().and_then(|n| on_node.get(n)).copied().unwrap_or(0);
        (
            pod.node.is_some(),
            pod.phase,
            pod.ready_since.is_some(),
            pod.deletion_cost,
            Reverse(neighbours),
            pod.ready_since.map(|t| age_class(t, now)),
            Reverse(pod.restarts),
            age_class(pod.meta.created, now),
            pod.meta.key.name.clone(),
        )
    });
    order.truncate(count);
    order
}

/// Ages are compared on a logarithmic scale, so that pods of about the same age are equal and
/// the choice does not always fall on the newest.
fn age_class(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0).unsigned_abs();
    u64::BITS - seconds.leading_zeros()
}

fn status(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[&Arc<Pod>],
    refused: Option<&String>,
    now: Timestamp,
    plan: &mut Plan,
) -> ReplicaSetStatus {
    let template_labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.clone());
    let template_labels = Selector::from_map(template_labels.iter().flatten());
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|p| test(p)).count()).unwrap_or(i32::MAX)
    };
    let wait = spec.min_ready_seconds.unwrap_or(0);
    let ready = count(&|p| p.ready_since.is_some());
    let available = count(&|p| p.available_at(wait).is_some_and(|at| at <= now));
    for at in active.iter().filter_map(|p| p.available_at(wait)).filter(|at| *at > now) {
        plan.look_again(at);
    }
    let labelled = count(&|p| template_labels.matches(Some(&p.labels)));
    let old = set.status.clone().unwrap_or_default();
    let mut conditions = old.conditions;
    match refused {
        Some(text) => condition::set(
            &mut conditions,
            ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some("FailedCreate".to_owned()),
                message: Some(text.clone()),
                last_transition_time: Some(Time(now)),
            },
        ),
        None => {
            if let Some(list) = &mut conditions {
                list.retain(|c| c.type_ != "ReplicaFailure");
            }
        }
    }
    let some = |n: i32| (n > 0).then_some(n);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(labelled),
        ready_replicas: some(ready),
        available_replicas: some(available),
        observed_generation: set.metadata.generation,
        conditions: conditions.filter(|c| !c.is_empty()),
        terminating_replicas: old.terminating_replicas,
    }
}

/// A merge patch leaves out what is not named: absent counts must be named as null.
fn replace_status(status: &ReplicaSetStatus) -> Value {
    let mut value = json!(status);
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "conditions"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    value
}

/// The rank of phases in [`pick_excess`] is the order of [`Phase`].
const _: () = assert!((Phase::Pending as u8) < (Phase::Running as u8));
