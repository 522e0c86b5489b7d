//! Outcomes: the plans that the scheduler makes, with the conditions and Events that users know.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::world::facts::Pod;
use crate::world::plan::{Change, Guard, Plan, Problem, Report, Verb};
use proa_kinds::Part;

/// Binds a pod to a node.
pub fn bind(pod: &Pod, node: &str) -> Plan {
    let key = &pod.meta.key;
    let report = Report {
        about: pod.meta.reference(),
        done: Some(("Scheduled", format!("Successfully assigned {}/{} to {node}", key.namespace, key.name))),
        failed: Some(("FailedScheduling", "binding rejected: {}".to_owned())),
    };
    let mut plan = Plan::default();
    plan.act_and_report(Verb::Bind { pod: pod.meta.reference(), node: node.to_owned() }, report);
    plan
}

/// Says on a pod that it fits nowhere.
pub fn unschedulable(pod: &Pod, message: String, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if pod.unschedulable.as_deref() != Some(&message) {
        let condition = condition("PodScheduled", "False", "Unschedulable", &message, now);
        plan.act(patch(pod, Change::Conditions(vec![condition])));
    }
    plan.problems.push(Problem {
        about: pod.meta.reference(),
        warning: true,
        reason: "FailedScheduling",
        message,
    });
    plan
}

/// Says on a pod which node is being made ready for it, if any.
pub fn nominate(plan: &mut Plan, pod: &Pod, node: Option<&str>) {
    plan.act(patch(pod, Change::Merge(json!({ "status": { "nominatedNodeName": node } }))));
}

/// Sends pods away for the sake of another. Those that are leaving already are let be.
pub fn evict(plan: &mut Plan, victims: &[Arc<Pod>], preemptor: &Pod, node: &str, now: Timestamp) {
    let scheduler = preemptor.wishes.as_ref().map_or("", |w| &w.scheduler);
    let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
    let victims = || victims.iter().filter(|v| v.meta.deleted.is_none());
    for victim in victims() {
        let condition = condition("DisruptionTarget", "True", "PreemptionByScheduler", &message, now);
        plan.act(patch(victim, Change::Conditions(vec![condition])));
    }
    for victim in victims() {
        let delete = Verb::Delete {
            target: victim.meta.reference(),
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
            unless: Vec::new(),
        };
        let text = format!("Preempted by pod {} on node {node}", preemptor.meta.uid);
        let about = victim.meta.reference();
        plan.act_and_report(delete, Report { about, done: Some(("Preempted", text)), failed: None });
    }
}

fn patch(pod: &Pod, change: Change) -> Verb {
    Verb::Patch { target: pod.meta.reference(), part: Part::STATUS, guard: Guard::NONE, change }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": Time(now),
    })
}
