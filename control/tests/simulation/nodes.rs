//! The nodes: they renew their Leases, start and stop pods, fall silent, vanish and come back.

use jiff::SignedDuration;
use proa_kinds::Part;
use serde_json::{Value, json};

use super::api::{reference, text};
use super::{NODES, World, is_ready, workloads};

impl World {
    pub fn disturb_node(&mut self) {
        let node = NODES[self.random.below(NODES.len())];
        match self.random.below(4) {
            0 => {
                if let Some(object) = self.api.get("v1 Node", "", node).cloned() {
                    self.api.delete(&reference(&object), None, None);
                }
                self.silent.insert(node);
            }
            1 => {
                self.silent.remove(node);
                if self.api.get("v1 Node", "", node).is_none() {
                    self.register(node);
                }
            }
            2 => self.pass(SignedDuration::from_secs(45)),
            _ => {
                self.silent.insert(node);
            }
        }
    }

    pub fn register(&mut self, node: &str) {
        self.tainted.remove(node);
        let allocatable = json!({"cpu": "4", "memory": "4Gi", "pods": "30"});
        let zone = if node == NODES[0] { "z1" } else { "z2" };
        let labels = json!({"kubernetes.io/hostname": node, "topology.kubernetes.io/zone": zone});
        let body =
            json!({"metadata": {"name": node, "labels": labels}, "status": {"allocatable": allocatable}});
        self.api.create("v1", "Node", "", body).unwrap();
        self.heartbeat(node);
    }

    /// Says that the node is ready and renews its Lease.
    pub fn heartbeat(&mut self, node: &str) {
        let time = self.api.time();
        let micros = format!("{}.000000Z", time.trim_end_matches('Z'));
        let lease =
            json!({"metadata": {"name": node}, "spec": {"holderIdentity": node, "renewTime": micros}});
        match self.api.get("coordination.k8s.io/v1 Lease", "kube-node-lease", node).cloned() {
            None => {
                self.api.create("coordination.k8s.io/v1", "Lease", "kube-node-lease", lease).unwrap();
            }
            Some(mut old) => {
                old["spec"]["renewTime"] = micros.into();
                self.api.update(&reference(&old), Part::Main, old.clone()).unwrap();
            }
        }
        let Some(object) = self.api.get("v1 Node", "", node).cloned() else { return };
        let ready = object.pointer("/status/conditions/0/status").and_then(Value::as_str) == Some("True");
        if !ready {
            let mut new = object.clone();
            new["status"]["allocatable"] = json!({"cpu": "4", "memory": "4Gi", "pods": "30"});
            new["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time, "lastHeartbeatTime": time}]);
            self.api.update(&reference(&object), Part::STATUS, new).unwrap();
        }
    }

    /// One node does one thing.
    pub fn step_nodes(&mut self) {
        let node = NODES[self.random.below(NODES.len())];
        if !self.silent.contains(node) && self.api.get("v1 Node", "", node).is_some() {
            self.heartbeat(node);
            if self.random.one_in(2) && self.provision(node) {
                return;
            }
            let pods: Vec<Value> =
                self.api.list("v1 Pod").filter(|p| text(p, "/spec/nodeName") == node).cloned().collect();
            let todo: Vec<Value> = pods.into_iter().filter(|p| self.needs_node(p)).collect();
            if !todo.is_empty() {
                let pod = todo[self.random.below(todo.len())].clone();
                self.play(&pod);
            }
        }
    }

    pub fn needs_node(&self, pod: &Value) -> bool {
        if pod["metadata"]["deletionTimestamp"].is_string() {
            return pod["metadata"]["deletionGracePeriodSeconds"] != 0;
        }
        !workloads::has_ended(pod) && (!is_ready(pod) || workloads::is_task(pod)) && self.has_claims(pod)
    }

    pub fn play(&mut self, pod: &Value) {
        if workloads::is_task(pod) && self.play_task(pod) {
            return;
        }
        if pod["metadata"]["deletionTimestamp"].is_string() {
            self.api.delete(&reference(pod), None, Some(0));
            return;
        }
        self.mount(pod);
        self.addresses += 1;
        let mut new = pod.clone();
        let ip = format!("10.42.{}.{}", self.addresses / 250, 1 + self.addresses % 250);
        let ip = pod.pointer("/status/podIP").and_then(Value::as_str).map_or(ip, str::to_owned);
        if pod["status"]["startTime"].is_null() {
            new["status"]["startTime"] = self.api.time().into();
        }
        new["status"]["phase"] = "Running".into();
        new["status"]["podIP"] = ip.clone().into();
        new["status"]["podIPs"] = json!([{"ip": ip}]);
        new["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": self.api.time()}]);
        self.api.update(&reference(pod), Part::STATUS, new).unwrap();
    }
}
