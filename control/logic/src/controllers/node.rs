//! Node: notices when a node no longer answers, keeps pods off it, and moves them away in time.
//!
//! Rules: <https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller> and
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>. A node's
//! heartbeat is its Lease in `kube-node-lease`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::placement::tolerates;
use serde_json::{Value, json};

use super::namespace::now_json;
use crate::world::facts::{Key, Node, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Verb};
use proa_kinds::Part;

/// Pods stay this long on a node that does not answer, unless they say otherwise.
const STAY: SignedDuration = SignedDuration::from_secs(300);
/// A node that pods name and that does not exist may still register: pods wait this long.
const VANISHED_GRACE: SignedDuration = SignedDuration::from_secs(40);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Decides what one node needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(node) = seen.nodes.get(&key.name) else { return plan };
    if node.meta.deleted.is_some() {
        return plan;
    }
    let heard = seen.heartbeats.get(&key.name).copied().unwrap_or(node.meta.created);
    let reported = node.condition("Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
    let silent_at =
        heard.max(reported.unwrap_or(heard)).max(node.meta.created) + seen.settings.node_monitor_grace_period;
    let silent = now >= silent_at;
    if silent {
        mark_unknown(node, now, &mut plan);
    } else {
        plan.look_again(silent_at);
    }
    let ready = if silent { "Unknown" } else { node.condition("Ready").map_or("Unknown", |c| &c.status) };
    let taints = taints(node, ready, now);
    if taints != node.taints {
        plan.act_then(Verb::Patch {
            target: node.meta.reference(),
            part: Part::Main,
            // Others set taints too, and a list is written as a whole.
            guard: Guard::unchanged(&node.meta.resource_version),
            change: Change::Merge(json!({ "spec": { "taints": taints } })),
        });
    }
    // A node that still answers speaks for its pods itself.
    if silent {
        mark_pods_not_ready(seen, node, now, &mut plan);
    }
    evict(seen, node, &taints, now, &mut plan);
    plan
}

/// All that the node last said is no longer known to be so.
fn mark_unknown(node: &Node, now: Timestamp, plan: &mut Plan) {
    let pressures = PRESSURES.iter().take(3).map(|(condition, _)| *condition);
    let mut changed: Vec<Value> = Vec::new();
    for type_ in std::iter::once("Ready").chain(pressures) {
        let old = node.condition(type_);
        if old.is_some_and(|c| c.status == "Unknown") || (old.is_none() && type_ != "Ready") {
            continue;
        }
        let (reason, message) = if old.is_some() {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        } else {
            ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        };
        changed.push(json!({
            "type": type_, "status": "Unknown", "reason": reason, "message": message,
            "lastTransitionTime": now_json(now),
        }));
    }
    if changed.is_empty() {
        return;
    }
    plan.act(Verb::Patch {
        target: node.meta.reference(),
        part: Part::STATUS,
        guard: Guard::unchanged(&node.meta.resource_version),
        change: Change::Conditions(changed),
    });
    plan.problems.push(Problem {
        about: node.meta.reference(),
        warning: false,
        reason: "NodeNotReady",
        message: format!("Node {} status is now: NodeNotReady", node.meta.key.name),
    });
}

/// The taints that the node's state asks for beside those that others have set. Those that send
/// pods away say since when, so that tolerations for a time are counted from there.
fn taints(node: &Node, ready: &str, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "True" => {}
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    if node.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (condition, taint) in PRESSURES {
        if node.condition(condition).is_some_and(|c| c.status == "True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, t)| *t == key)
    };
    let mut taints = node.taints.clone();
    taints.retain(|t| !ours(&t.key) || wanted.contains(&(t.key.as_str(), t.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = (key != UNSCHEDULABLE).then_some(Time(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None });
        }
    }
    for taint in taints.iter_mut().filter(|t| t.effect == "NoExecute") {
        taint.time_added.get_or_insert(Time(now));
    }
    taints
}

/// Nobody should be sent to pods on a node that does not answer.
fn mark_pods_not_ready(seen: &Observed, node: &Node, now: Timestamp, plan: &mut Plan) {
    for pod in seen.pods.on_node(&node.meta.key.name).filter(|p| p.ready_since.is_some()) {
        plan.act(Verb::Patch {
            target: pod.meta.reference(),
            part: Part::STATUS,
            guard: Guard::unchanged(&pod.meta.resource_version),
            change: Change::Conditions(vec![json!({
                "type": "Ready", "status": "False", "lastTransitionTime": now_json(now),
            })]),
        });
        plan.problems.push(Problem {
            about: pod.meta.reference(),
            warning: true,
            reason: "NodeNotReady",
            message: "Node is not ready".to_owned(),
        });
    }
}

/// Deletes pods that do not stand a `NoExecute` taint, when their time has come.
fn evict(seen: &Observed, node: &Node, taints: &[Taint], now: Timestamp, plan: &mut Plan) {
    let taints: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
    if taints.is_empty() {
        return;
    }
    for pod in seen.pods.on_node(&node.meta.key.name).filter(|p| p.meta.deleted.is_none()) {
        let Some(at) = taints.iter().filter_map(|t| leaves_at(pod, t, now)).min() else { continue };
        if at > now {
            plan.look_again(at);
            continue;
        }
        let text = "Taint manager: deleting due to NoExecute taint";
        plan.act(disrupt(pod, "DeletionByTaintManager", text, now));
        plan.act(Verb::Delete {
            target: pod.meta.reference(),
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
            unless: Vec::new(),
        });
        plan.problems.push(Problem {
            about: pod.meta.reference(),
            warning: false,
            reason: "TaintManagerEviction",
            message: format!("Marking for deletion Pod {}/{}", pod.meta.key.namespace, pod.meta.key.name),
        });
    }
}

/// Says on a pod that it ends through no fault of its own.
fn disrupt(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Verb {
    Verb::Patch {
        target: pod.meta.reference(),
        part: Part::STATUS,
        guard: Guard::NONE,
        change: Change::Conditions(vec![json!({
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": now_json(now),
        })]),
    }
}

/// When the pod has to leave because of this taint; never, if it stands it for good. The time
/// that it is tolerated begins with the taint, or with the pod if that came later.
fn leaves_at(pod: &Pod, taint: &Taint, now: Timestamp) -> Option<Timestamp> {
    let since = taint.time_added.as_ref().map_or(now, |t| t.0);
    let since = since.max(pod.started.unwrap_or(pod.meta.created));
    let tolerations: Vec<&Toleration> = pod.tolerations.iter().filter(|t| tolerates(t, taint)).collect();
    if tolerations.is_empty() {
        // What admission gives to every pod that says nothing of a node that does not answer.
        let silent_node = taint.key == NOT_READY || taint.key == UNREACHABLE;
        return Some(if silent_node { since + STAY } else { since });
    }
    let seconds = tolerations.iter().filter_map(|t| t.toleration_seconds).min()?;
    Some(since + SignedDuration::from_secs(seconds.max(0)))
}

/// Decides about the pods of a node that does not exist: once it is clear that it does not come
/// back, they are deleted without asking it.
pub fn reconcile_pod_garbage(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(since) = seen.vanished.get(&key.name) else { return plan };
    if now < *since + VANISHED_GRACE {
        plan.look_again(*since + VANISHED_GRACE);
        return plan;
    }
    for pod in seen.pods.on_node(&key.name) {
        if !pod.is_finished() {
            plan.act(disrupt(pod, "DeletionByPodGC", "PodGC: node no longer exists", now));
        }
        // Whoever holds the pod learns how it ended; its node cannot say it any more.
        if !pod.is_finished() && !pod.meta.finalizers.is_empty() {
            plan.act(Verb::Patch {
                target: pod.meta.reference(),
                part: Part::STATUS,
                guard: Guard::NONE,
                change: Change::Merge(json!({ "status": { "phase": "Failed" } })),
            });
        }
        plan.act(Verb::Delete {
            target: pod.meta.reference(),
            resource_version: None,
            propagation: None,
            grace_period_seconds: Some(0),
            unless: vec![Reference::named("v1", "Node", "", &key.name)],
        });
    }
    plan
}
