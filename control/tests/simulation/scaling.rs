//! Autoscaling: a load that users change, shared by the pods that are ready, measured now and then,
//! and an autoscaler that follows it.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1 as core;
use proa_kinds::Part;
use proa_logic::world::autoscaling::sample::{Adapters, Pod, Sample, Used};
use proa_logic::world::plan::{Plan, Verb};
use proa_logic::world::{Key, Observed};
use serde_json::{Value, json};

use super::api::{Api, reference, text};
use super::{World, is_ready};

const KIND: &str = "autoscaling/v2 HorizontalPodAutoscaler";
/// What is scaled.
const APP: &str = "c";
/// What a pod is to use, in thousandths of a CPU: half of what it asks for.
const TARGET: i64 = 250;

impl World {
    /// A user changes the autoscaler, or the load changes.
    pub fn disturb_scaling(&mut self) {
        self.load = 100 * self.random.below(18) as i64;
        match self.api.get(KIND, "default", APP).cloned() {
            None => {
                let metric = json!({"type": "Resource", "resource": {
                    "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
                let spec = json!({
                    "minReplicas": 1, "maxReplicas": 5, "metrics": [metric],
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": APP},
                });
                let body = json!({"metadata": {"name": APP}, "spec": spec});
                self.api.create("autoscaling/v2", "HorizontalPodAutoscaler", "default", body).unwrap();
            }
            Some(autoscaler) if self.random.one_in(8) => {
                self.api.delete(&reference(&autoscaler), None, None);
            }
            Some(autoscaler) => {
                let mut new = autoscaler.clone();
                let least = 1 + self.random.below(3);
                new["spec"]["minReplicas"] = least.into();
                new["spec"]["maxReplicas"] = (least + self.random.below(3)).into();
                self.api.update(&reference(&autoscaler), Part::Main, new).unwrap();
            }
        }
    }

    /// What the pods use now, as far as it is measured.
    pub fn sample(&self, plane: usize) -> Sample {
        let now = self.planes[plane].now(&self.api);
        let pods: Vec<&Value> = self.api.list("v1 Pod").collect();
        let of_app = |pod: &&&Value| pod["metadata"]["labels"]["app"] == APP && is_ready(pod);
        let sharing = pods.iter().filter(of_app).count() as i64;
        let measured = pods.iter().map(|pod| {
            let key = Key::new(text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
            let used = of_app(&pod).then(|| {
                let cpu = BTreeMap::from([("cpu".to_owned(), self.load / sharing)]);
                let window = SignedDuration::from_secs(15);
                Used { at: now, window, containers: BTreeMap::from([("c".to_owned(), cpu)]) }
            });
            let typed: core::Pod = serde_json::from_value((*pod).clone()).unwrap();
            (key, Pod::of(typed, used))
        });
        Sample { at: now, pods: measured.collect(), adapters: Adapters::default() }
    }

    /// There are as many pods as the load calls for.
    pub fn check_scaling_at_rest(&self) {
        for autoscaler in self.api.list(KIND) {
            let Some(deployment) = self.api.get("apps/v1 Deployment", "default", APP) else { continue };
            let replicas = deployment["spec"]["replicas"].as_i64().unwrap();
            let number = |field: &str| autoscaler["spec"][field].as_i64().unwrap();
            let (least, most) = (number("minReplicas"), number("maxReplicas"));
            if replicas == 0 || deployment["spec"]["paused"] == true {
                continue;
            }
            assert!((least..=most).contains(&replicas), "{replicas} replicas: {autoscaler:#}");
            assert_eq!(autoscaler["status"]["currentReplicas"], replicas, "{autoscaler:#}");
            assert_eq!(autoscaler["status"]["desiredReplicas"], replicas, "{autoscaler:#}");
            let ratio = self.load as f64 / (replicas * TARGET) as f64;
            let wanted = ((self.load + TARGET - 1) / TARGET).clamp(least, most);
            assert!(
                (ratio - 1.0).abs() <= 0.11
                    || (wanted - replicas).abs() <= i64::from(ratio > 0.85 && ratio < 1.15),
                "{replicas} replicas and not {wanted} under a load of {}: {autoscaler:#}",
                self.load
            );
        }
    }
}

/// No autoscaler asks for a size outside of its bounds.
pub fn check_plan(api: &mut Api, seen: &Observed, key: &Key, plan: &Plan) {
    for action in &plan.actions {
        if let Verb::Scale { to, .. } = &action.verb
            && let Some(spec) = seen.horizontal_pod_autoscalers.get(key).and_then(|a| a.spec.as_ref())
        {
            let least = spec.min_replicas.unwrap_or(1);
            assert!((least..=spec.max_replicas).contains(to), "{to} of {least} to {}", spec.max_replicas);
            api.meet("an autoscaler scales");
        }
    }
}
