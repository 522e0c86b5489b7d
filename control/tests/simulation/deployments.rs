//! Deployments and Services: what users do to them, and what must hold of them at every step and at
//! rest.

use std::collections::{BTreeMap, BTreeSet};

use proa_kinds::Part;
use serde_json::{Value, json};

use super::api::{reference, text};
use super::{Users, World, is_ready};

/// How often ReplicaSets have made and taken away pods, to show that none is made twice.
#[derive(Default)]
pub struct Once {
    /// How much of the log has been looked through.
    read: usize,
    sets: BTreeMap<String, Turnover>,
}

/// The coming and going of the pods of one ReplicaSet, by its uid.
#[derive(Default)]
struct Turnover {
    replicas: i64,
    /// By how much its size has grown and shrunk, all together.
    grown: i64,
    shrunk: i64,
    made: BTreeSet<String>,
    taken: BTreeSet<String>,
}

impl World {
    pub fn change_deployment(&mut self, app: &str) {
        let Some(object) = self.api.get("apps/v1 Deployment", "default", app).cloned() else {
            let replicas = self.random.below(6);
            let body = json!({
                "metadata": {"name": app},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": app}},
                    "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
                    "template": {
                        "metadata": {"labels": {"app": app}},
                        "spec": {"containers": [{"name": "c", "image": "v0", "resources": {"requests": {"cpu": "500m"}}}]},
                    },
                },
            });
            self.api.create("apps/v1", "Deployment", "default", body).unwrap();
            self.widen(app);
            return;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        let mut new = object.clone();
        match self.random.below(8) {
            0..3 => new["spec"]["replicas"] = self.random.below(7).into(),
            3..6 => {
                let image = format!("v{}", self.random.below(4));
                new["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
            }
            6 if !self.calm => new["spec"]["paused"] = (self.random.one_in(2)).into(),
            7 if !self.calm && self.random.one_in(3) => {
                let policy = ["Background", "Foreground", "Orphan"][self.random.below(3)];
                self.api.delete(&reference(&object), Some(policy), None);
                self.bounds.remove(app);
                return;
            }
            _ => return,
        }
        self.api.update(&reference(&object), Part::Main, new).unwrap();
        self.widen(app);
    }

    pub fn change_service(&mut self, app: &str) {
        match self.api.get("v1 Service", "default", app).cloned() {
            None => {
                let spec = json!({"selector": {"app": app}, "ports": [{"port": 80}]});
                self.api
                    .create("v1", "Service", "default", json!({"metadata": {"name": app}, "spec": spec}))
                    .unwrap();
            }
            Some(service) if self.random.one_in(3) => {
                self.api.delete(&reference(&service), None, None);
            }
            Some(_) => {}
        }
    }

    pub fn check_deployment(&self, deployment: &Value) {
        let (name, uid) = (text(deployment, "/metadata/name"), text(deployment, "/metadata/uid"));
        let wanted = deployment["spec"]["replicas"].as_i64().unwrap();
        let sets: Vec<&Value> = self
            .api
            .list("apps/v1 ReplicaSet")
            .filter(|s| text(s, "/metadata/ownerReferences/0/uid") == uid)
            .collect();
        let owned = |pod: &Value| {
            sets.iter().any(|s| s["metadata"]["uid"] == pod["metadata"]["ownerReferences"][0]["uid"])
        };
        let pods: Vec<&Value> = self.api.list("v1 Pod").filter(|p| owned(p)).collect();
        // A paused roll-out keeps its surge, and one that was paused at once never starts.
        let is_paused = deployment["spec"]["paused"] == true;
        // A quarter of six, rounded up.
        let surge = if is_paused { 2 } else { 0 };
        let count = pods.len() as i64;
        let unstarted = is_paused && sets.is_empty();
        assert!(
            unstarted || (wanted..=wanted + surge).contains(&count),
            "{count} pods of {name}: {deployment:#}"
        );
        assert_eq!(deployment["status"]["observedGeneration"], deployment["metadata"]["generation"]);
        if deployment["spec"]["paused"] != true {
            let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
            for pod in pods {
                assert_eq!(&pod["spec"]["containers"][0]["image"], image, "pods of {name}");
            }
            assert_eq!(deployment["status"]["availableReplicas"].as_i64().unwrap_or(0), wanted, "{name}");
        }
    }

    pub fn check_service(&self, service: &Value) {
        let (name, uid) = (text(service, "/metadata/name"), &service["metadata"]["uid"]);
        let namespace = text(service, "/metadata/namespace");
        let app = text(service, "/spec/selector/app");
        if app.is_empty() {
            return;
        }
        let ready: BTreeSet<&str> = self
            .api
            .list("v1 Pod")
            .filter(|p| p["metadata"]["labels"]["app"] == app && is_ready(p))
            .filter(|p| text(p, "/metadata/namespace") == namespace)
            .map(|p| text(p, "/status/podIP"))
            .collect();
        let mut shown = BTreeSet::new();
        for slice in self.api.list("discovery.k8s.io/v1 EndpointSlice") {
            if slice["metadata"]["ownerReferences"][0]["uid"] == *uid {
                for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                    assert!(shown.insert(text(endpoint, "/addresses/0")), "twice in the slices of {name}");
                }
            }
        }
        assert_eq!(shown, ready, "slices of {name}");
        let endpoints = self.api.get("v1 Endpoints", namespace, name).expect("Endpoints of the Service");
        let addresses =
            endpoints.pointer("/subsets/0/addresses").and_then(Value::as_array).map_or(0, Vec::len);
        assert_eq!(addresses, ready.len(), "Endpoints of {name}");
    }

    /// A spec that the user has just written widens what the roll-out may do until it is at rest.
    pub fn widen(&mut self, app: &str) {
        let Some(object) = self.api.get("apps/v1 Deployment", "default", app) else { return };
        let wanted = object["spec"]["replicas"].as_i64().unwrap();
        let (most, fewest) = self.bounds.get(app).copied().unwrap_or((0, 0));
        self.bounds.insert(app.to_owned(), (most.max(wanted + 1), fewest.min(wanted - 1)));
    }

    pub fn check_bounds(&mut self) {
        if !self.calm {
            return;
        }
        for (app, (most, fewest)) in &mut self.bounds {
            let pods: Vec<&Value> =
                self.api.list("v1 Pod").filter(|p| p["metadata"]["labels"]["app"] == **app).collect();
            let alive = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()).count() as i64;
            let ready = pods.iter().filter(|p| is_ready(p)).count() as i64;
            let tail = || self.api.tail(60);
            assert!(alive <= *most, "{app} has {alive} pods where at most {most} may be:\n{}", tail());
            assert!(ready >= *fewest, "{app} has {ready} ready pods, not {fewest} at least:\n{}", tail());
            // At rest with its last spec: from here on only that one counts.
            let Some(object) = self.api.get("apps/v1 Deployment", "default", app) else { continue };
            let status = &object["status"];
            let wanted = object["spec"]["replicas"].as_i64().unwrap();
            let number = |field: &str| status[field].as_i64().unwrap_or(0);
            // Pods that a set has decided on come before it says that it has seen its spec.
            let sets =
                self.api.list("apps/v1 ReplicaSet").filter(|s| s["metadata"]["labels"]["app"] == **app);
            let mut all = sets.chain([object]);
            if all.all(|o| o["status"]["observedGeneration"] == o["metadata"]["generation"])
                && number("updatedReplicas") == wanted
                && number("replicas") == wanted
                && number("availableReplicas") == wanted
                && alive == wanted
                && ready == wanted
            {
                (*most, *fewest) = (wanted + 1, wanted - 1);
            }
        }
    }

    /// While nobody else takes pods away, a ReplicaSet makes and takes away no more of them than
    /// its size has grown and shrunk, whoever leads meanwhile.
    pub fn check_once(&mut self) {
        if !self.calm || self.users != Users::Deployments {
            return;
        }
        for entry in &self.api.log[self.once.read..] {
            let object = &entry.object;
            if entry.kind == "apps/v1 ReplicaSet" && !entry.deleted {
                let set = self.once.sets.entry(text(object, "/metadata/uid").to_owned()).or_default();
                let replicas = object["spec"]["replicas"].as_i64().unwrap();
                set.grown += (replicas - set.replicas).max(0);
                set.shrunk += (set.replicas - replicas).max(0);
                set.replicas = replicas;
            } else if entry.kind == "v1 Pod" {
                let owner = text(object, "/metadata/ownerReferences/0/uid");
                let Some(set) = self.once.sets.get_mut(owner) else { continue };
                let uid = text(object, "/metadata/uid").to_owned();
                if object["metadata"]["deletionTimestamp"].is_string() {
                    set.taken.insert(uid.clone());
                }
                set.made.insert(uid);
                let (made, taken) = (set.made.len() as i64, set.taken.len() as i64);
                assert!(made <= set.grown, "{made} pods are made of {}:\n{}", set.grown, self.api.tail(40));
                assert!(taken <= set.shrunk, "{taken} pods go of {}:\n{}", set.shrunk, self.api.tail(40));
            }
        }
        self.once.read = self.api.log.len();
    }
}
