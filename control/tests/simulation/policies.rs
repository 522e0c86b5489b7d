//! What limits users and operators: budgets that evictions have to respect, and quotas.
//!
//! Nothing but evictions takes pods away here, so what a budget promises can be checked at each.

use k8s_openapi::api::core::v1::ResourceQuota;
use proa_kinds::Part;
use proa_kinds::admission::quota::{Claim, Count};
use serde_json::{Value, json};

use super::api::{Api, kind_name, reference, text};
use super::{Users, World, is_ready};

impl World {
    /// A user or an operator does something.
    pub fn disturb_policies(&mut self, app: &str) {
        if self.api.get("apps/v1 Deployment", "default", app).is_none() {
            self.create_covered(app);
        } else if self.api.get("policy/v1 PodDisruptionBudget", "default", app).is_none() {
            self.create_budget(app);
        } else if self.random.one_in(10) {
            self.change_budget(app);
        } else if self.random.one_in(6) {
            self.change_quota();
        } else {
            self.evict(app);
        }
    }

    fn create_covered(&mut self, app: &str) {
        let template = json!({
            "metadata": {"labels": {"app": app}},
            "spec": {"containers": [{"name": "c", "image": "v0", "resources": {"requests": {"cpu": "500m"}}}]},
        });
        let selector = json!({"matchLabels": {"app": app}});
        let replicas = 2 + self.random.below(5);
        let spec = json!({"replicas": replicas, "selector": selector, "template": template});
        let body = json!({"metadata": {"name": app}, "spec": spec});
        self.api.create("apps/v1", "Deployment", "default", body).unwrap();
        self.create_budget(app);
    }

    fn create_budget(&mut self, app: &str) {
        if self.api.get("policy/v1 PodDisruptionBudget", "default", app).is_some() {
            return;
        }
        let selector = json!({"matchLabels": {"app": app}});
        let spec = match app {
            "a" => json!({"minAvailable": 2, "selector": selector}),
            "b" => json!({"maxUnavailable": "50%", "selector": selector}),
            _ => {
                json!({"minAvailable": "60%", "selector": selector, "unhealthyPodEvictionPolicy": "AlwaysAllow"})
            }
        };
        let body = json!({"metadata": {"name": app}, "spec": spec});
        self.api.create("policy/v1", "PodDisruptionBudget", "default", body).unwrap();
    }

    fn change_budget(&mut self, app: &str) {
        let budget = self.api.get("policy/v1 PodDisruptionBudget", "default", app).cloned().unwrap();
        let mut new = budget.clone();
        let field = if app == "b" { "maxUnavailable" } else { "minAvailable" };
        new["spec"][field] = format!("{}%", 10 * self.random.below(11)).into();
        self.api.update(&reference(&budget), Part::Main, new).unwrap();
    }

    fn change_quota(&mut self) {
        let (least, sets) = if self.users == Users::Everything { (20, "20") } else { (6, "9") };
        let pods = (least + self.random.below(12)).to_string();
        let hard = json!({"pods": pods, "count/replicasets.apps": sets});
        match self.api.get("v1 ResourceQuota", "default", "q").cloned() {
            None => {
                let body = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
                self.api.create("v1", "ResourceQuota", "default", body).unwrap();
            }
            Some(quota) if self.random.one_in(5) => {
                self.api.delete(&reference(&quota), None, None);
            }
            Some(quota) => {
                let mut new = quota.clone();
                new["spec"]["hard"] = hard;
                self.api.update(&reference(&quota), Part::Main, new).unwrap();
            }
        }
    }

    /// A quota that knows anything knows it exactly, at every step. Of pods that do not go in time
    /// it may not know yet that they count no more.
    pub fn check_quotas(&self) {
        for quota in self.api.list("v1 ResourceQuota") {
            let typed: ResourceQuota = serde_json::from_value(quota.clone()).unwrap();
            let counted = counted(&self.api, &typed);
            for (resource, used) in quota["status"]["used"].as_object().into_iter().flatten() {
                if let Some(counted) = counted["used"].get(resource) {
                    let late =
                        self.api.list("v1 Pod").any(|p| p["metadata"]["deletionTimestamp"].is_string());
                    let number = |v: &Value| v.as_str().and_then(|v| v.parse::<i64>().ok()).unwrap_or(0);
                    let may_be_late = late && number(used) >= number(counted);
                    assert!(used == counted || may_be_late, "{resource}, not {counted}: {quota}");
                }
            }
        }
    }

    /// Nobody is held back any more.
    pub fn stop_policies(&mut self) {
        let quotas: Vec<Value> = self.api.list("v1 ResourceQuota").cloned().collect();
        for quota in quotas {
            self.api.delete(&reference(&quota), None, None);
        }
    }

    /// An operator evicts a pod. What is paid for may come to nothing.
    fn evict(&mut self, app: &str) {
        let pods: Vec<Value> =
            self.api.list("v1 Pod").filter(|p| text(p, "/metadata/labels/app") == app).cloned().collect();
        if pods.is_empty() {
            return;
        }
        let pod = pods[self.random.below(pods.len())].clone();
        let counts = is_ready(&pod) && pod["metadata"]["deletionTimestamp"].is_null();
        let before = self.api.log.len();
        if self.random.one_in(8) {
            self.api.fail_after(1);
        }
        let evicted = self.api.evict(&reference(&pod));
        let is_paid = self.api.log[before..].iter().any(|e| e.kind == "policy/v1 PodDisruptionBudget");
        match evicted {
            Err(refusal) if refusal.code() == 429 => return self.api.meet("a budget refuses"),
            // It failed half way, or the pod has just gone.
            Err(refusal) => assert!([404, 409, 500].contains(&refusal.code()), "{refusal}"),
            Ok(()) => assert!(is_paid || !counts, "a healthy pod goes for free: {pod}"),
        }
        if is_paid && self.users == Users::Policies {
            self.check_paid(app, &pod, &pods);
        }
    }

    /// An eviction that is paid for leaves as many healthy pods as the budget desires.
    fn check_paid(&self, app: &str, pod: &Value, pods: &[Value]) {
        let budget = self.api.get("policy/v1 PodDisruptionBudget", "default", app).unwrap();
        let healthy = |p: &&Value| is_ready(p) && p["metadata"]["deletionTimestamp"].is_null();
        let left = pods.iter().filter(healthy).filter(|p| p["metadata"]["uid"] != pod["metadata"]["uid"]);
        let (left, desired) = (left.count() as i64, budget["status"]["desiredHealthy"].as_i64().unwrap_or(0));
        assert!(left >= desired, "{left} healthy pods are left of {desired} that {app} desires: {budget}");
    }

    /// A refusal is shown on the ReplicaSet while it lasts, and not after.
    pub fn check_policies_at_rest(&mut self) {
        let fails = |set: &Value| {
            let conditions = set["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "ReplicaFailure" && c["reason"] == "FailedCreate")
        };
        let shown = self.api.log.iter().any(|e| e.kind == "apps/v1 ReplicaSet" && fails(&e.object));
        if shown {
            self.api.meet("a refusal is shown");
        }
        for set in self.api.list("apps/v1 ReplicaSet") {
            assert!(!fails(set), "it is refused nothing any more: {set:#}");
        }
    }
}

/// What a quota holds by all that is there.
fn counted(api: &Api, quota: &ResourceQuota) -> Value {
    let mut count = Count::new(quota);
    for (plural, group) in count.kinds() {
        let row = api.kinds().find(|row| row.plural == plural && row.group == group).expect("a kind");
        let kind = kind_name(&row.api_version(), &row.kind);
        let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
        for object in api.list(&kind).filter(|o| text(o, "/metadata/namespace") == namespace) {
            count.add(&Claim::of(&group, &plural, object, api.now));
        }
    }
    json!(count.status())
}
