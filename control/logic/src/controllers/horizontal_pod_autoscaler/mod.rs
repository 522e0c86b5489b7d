//! HorizontalPodAutoscaler: scales a workload so that what is measured of its pods comes to what
//! the autoscaler's spec asks for.
//!
//! Rules: <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>. Each look at
//! the pods ([`Sample`]) is decided upon once: a second decision on the same figures would scale
//! twice for one reason. What a decision must know of those before it ([`Memory`]) comes in with
//! what is seen and goes out with the plan.
//!
//! - `target`: the workload and its scale
//! - `metrics`: how many replicas the metrics call for
//! - `calculate`: the same, of one metric
//! - `limit`: how fast the number may change

mod calculate;
mod limit;
mod metrics;
mod target;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::condition;
use serde_json::{Value, json};

use crate::world::autoscaling::Settings;
use crate::world::autoscaling::memory::Memory;
use crate::world::autoscaling::sample::Sample;
use crate::world::controller::Controller;
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Report, Verb};
use proa_kinds::Part;
use target::Scale;

/// One decision under way.
struct Turn<'a> {
    seen: &'a Observed,
    key: &'a Key,
    about: Reference,
    spec: &'a HorizontalPodAutoscalerSpec,
    sample: &'a Sample,
    settings: &'a Settings,
    now: Timestamp,
    memory: Memory,
    status: HorizontalPodAutoscalerStatus,
    problems: Vec<Problem>,
}

/// Decides what one autoscaler needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let before = seen.autoscaling.memory.get(key);
    let Some(autoscaler) = seen.horizontal_pod_autoscalers.get(key) else {
        plan.memory = before.map(|_| Memory::default());
        return plan;
    };
    let (Some(spec), Some(sample)) = (&autoscaler.spec, &seen.autoscaling.sample) else { return plan };
    if autoscaler.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let mut turn = Turn {
        seen,
        key,
        about: Reference::to(&**autoscaler),
        spec,
        sample,
        settings: &seen.settings.autoscaler,
        now,
        memory: before.cloned().unwrap_or_default(),
        status: autoscaler.status.clone().unwrap_or_default(),
        problems: Vec::new(),
    };
    if turn.memory.decided.is_some_and(|at| at >= sample.at) {
        if let Some(refusal) = seen.refused.get(&(Controller::HorizontalPodAutoscaler, key.clone())) {
            let text = format!("the HPA controller was unable to update the target scale: {refusal}");
            turn.condition("AbleToScale", false, "FailedUpdateScale", text);
            turn.write_status(autoscaler, &mut plan);
        }
        return plan;
    }
    turn.memory.decided = Some(sample.at);
    if let Some((scale, size, reason)) = turn.decide() {
        let told = format!("New size: {size}; reason: {reason}");
        let report = Report {
            about: turn.about.clone(),
            failed: Some(("FailedRescale", format!("{told}; error: {{}}"))),
            done: Some(("SuccessfulRescale", told)),
        };
        let verb = Verb::Scale { target: scale.reference, from: scale.spec_replicas, to: size };
        plan.act_and_report(verb, report);
    }
    turn.write_status(autoscaler, &mut plan);
    plan.problems = turn.problems;
    plan.memory = Some(turn.memory).filter(|memory| Some(memory) != before);
    plan
}

impl Turn<'_> {
    /// The new size of the workload and the reason for it, if it is to change.
    fn decide(&mut self) -> Option<(Scale, i32, String)> {
        let scale = match target::scale(self.seen, &self.key.namespace, &self.spec.scale_target_ref) {
            Ok(scale) => scale,
            Err(why) => {
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                self.condition("AbleToScale", false, "FailedGetScale", text);
                self.warn("FailedGetScale", why);
                return None;
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", able.to_owned());
        let current = scale.spec_replicas;
        self.memory.begin(current, self.now);
        let (least, most) = (self.spec.min_replicas.unwrap_or(1), self.spec.max_replicas);
        let mut statuses = None;
        let (desired, reason) = if current == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", text.to_owned());
            (current, String::new())
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let called_for = self.called_for(&scale);
            statuses = called_for.statuses;
            let Some((wanted, metric)) = called_for.replicas else {
                self.set_status(current, self.status.desired_replicas, statuses);
                return None;
            };
            let reason = if wanted > current {
                format!("{metric} above target")
            } else {
                "All metrics below target".to_owned()
            };
            (self.limited(current, wanted), reason)
        };
        if desired != current {
            let text = format!("the HPA controller was able to update the target scale to {desired}");
            self.condition("AbleToScale", true, "SucceededRescale", text);
            self.memory.scaled(self.spec.behavior.as_ref(), current, desired, self.now);
            self.status.last_scale_time = Some(Time(self.now));
        }
        self.set_status(current, desired, statuses);
        (desired != current).then_some((scale, desired, reason))
    }

    fn set_status(&mut self, current: i32, desired: i32, statuses: Option<Vec<metrics::Status>>) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
        self.status.current_metrics = statuses;
    }

    fn condition(&mut self, type_: &str, status: bool, reason: &str, message: String) {
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(self.now)),
        };
        condition::set(&mut self.status.conditions, condition);
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.problems.push(Problem { about: self.about.clone(), warning: true, reason, message });
    }

    /// Writes the status if it is another one than before, after the scaling that it tells of.
    fn write_status(&mut self, autoscaler: &HorizontalPodAutoscaler, plan: &mut Plan) {
        if autoscaler.status.as_ref() == Some(&self.status) {
            return;
        }
        let mut status = json!(self.status);
        // A merge patch leaves alone what it does not name.
        for field in ["currentMetrics", "lastScaleTime"] {
            if status.get(field).is_none() {
                status[field] = Value::Null;
            }
        }
        plan.act_then(Verb::Patch {
            target: self.about.clone(),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "status": status })),
        });
    }
}
