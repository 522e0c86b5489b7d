//! The workloads beside Deployments: what users do to them, how their pods end, and what must hold
//! of them at every step and at rest.

use std::collections::{BTreeMap, BTreeSet};

use proa_logic::kinds::Part;
use serde_json::{Value, json};

use super::api::{reference, text};
use super::{NODES, World, is_ready};

/// What has been seen so far.
#[derive(Default)]
pub struct Ledger {
    /// DaemonSets that have had a ready pod on every node, by uid.
    complete: BTreeMap<String, bool>,
}

/// True for a pod that runs to an end.
pub fn is_task(pod: &Value) -> bool {
    text(pod, "/metadata/ownerReferences/0/kind") == "Job"
        && !["Failed", "Succeeded"].contains(&text(pod, "/status/phase"))
}

impl World {
    /// A user changes something.
    pub fn change_workload(&mut self, app: &str) {
        self.change_daemon_set(app);
    }

    /// Nothing is started by the clock any more.
    pub fn stop_workloads(&mut self) {}

    /// A node takes a task a step further; false if it has to be started first.
    pub fn play_task(&mut self, _pod: &Value) -> bool {
        false
    }

    fn template(&mut self, app: &str) -> Value {
        let image = format!("v{}", self.random.below(4));
        json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    fn change_daemon_set(&mut self, app: &str) {
        let template = self.template(app);
        let Some(object) = self.api.get("apps/v1 DaemonSet", "default", app).cloned() else {
            let rolling = if app == "a" {
                json!({"maxSurge": 1, "maxUnavailable": 0})
            } else {
                json!({"maxUnavailable": 1})
            };
            let spec = json!({
                "selector": {"matchLabels": {"app": app}},
                "template": template,
                "updateStrategy": {"rollingUpdate": rolling},
                "revisionHistoryLimit": 2,
            });
            let body = json!({"metadata": {"name": app}, "spec": spec});
            self.api.create("apps/v1", "DaemonSet", "default", body).unwrap();
            return;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        if !self.calm && self.random.one_in(8) {
            let policy = ["Background", "Foreground"][self.random.below(2)];
            self.api.delete(&reference(&object), Some(policy), None);
            return;
        }
        let mut new = object.clone();
        new["spec"]["template"] = template;
        self.api.update(&reference(&object), Part::Main, new).unwrap();
    }

    /// What must hold at every step while nobody but the controllers takes pods away.
    pub fn check_workloads(&mut self) {
        if !self.calm {
            return;
        }
        for set in self.api.list("apps/v1 DaemonSet") {
            let (name, uid) = (text(set, "/metadata/name"), text(set, "/metadata/uid"));
            let pods = self.api.list("v1 Pod").filter(|p| text(p, "/metadata/ownerReferences/0/uid") == uid);
            let ready: BTreeSet<&str> =
                pods.filter(|p| is_ready(p)).map(|p| text(p, "/spec/nodeName")).collect();
            let ready = ready.len();
            let complete = self.ledger.complete.entry(uid.to_owned()).or_default();
            *complete |= ready >= NODES.len();
            let fewest = if name == "a" { NODES.len() } else { NODES.len() - 1 };
            assert!(
                !*complete || ready >= fewest,
                "{name} is ready on {ready} nodes, not on {fewest} at least:\n{}",
                self.api.tail(60)
            );
        }
    }

    /// What must hold when nothing is left to do.
    pub fn check_workloads_at_rest(&self) {
        for set in self.api.list("apps/v1 DaemonSet") {
            let (name, uid) = (text(set, "/metadata/name"), text(set, "/metadata/uid"));
            let owned = |o: &&Value| text(o, "/metadata/ownerReferences/0/uid") == uid;
            let pods: Vec<&Value> = self.api.list("v1 Pod").filter(owned).collect();
            let mut nodes: Vec<&str> = pods.iter().map(|p| text(p, "/spec/nodeName")).collect();
            nodes.sort_unstable();
            assert_eq!(nodes, NODES, "nodes of {name}");
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            assert!(pods.iter().all(|p| &p["spec"]["containers"][0]["image"] == image), "images of {name}");
            for count in [
                "desiredNumberScheduled",
                "currentNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
            ] {
                assert_eq!(set["status"][count], 3, "{count} of {name}");
            }
            let revisions: Vec<&Value> = self.api.list("apps/v1 ControllerRevision").filter(owned).collect();
            assert!((1..=3).contains(&revisions.len()), "{} revisions of {name}", revisions.len());
            let newest = revisions.iter().max_by_key(|r| r["revision"].as_i64()).unwrap();
            assert_eq!(&newest["data"]["spec"]["template"]["spec"]["containers"][0]["image"], image);
        }
    }
}
