//! Pods that are hard to place: of different priorities, apart from each other, spread evenly, held
//! back by gates; and nodes that are cordoned and tainted. What the scheduler promises is checked in
//! `oracle` and at each bind.

use proa_kinds::Part;
use serde_json::{Value, json};

use super::api::{reference, text};
use super::{NODES, Users, World};

/// A ReplicaSet: its name, the priority and the CPU of its pods, and how many there are at most.
type Sort = (&'static str, i64, &'static str, usize);

const SORTS: [Sort; 6] = [
    ("low", 0, "500m", 12),
    ("shy", 500, "500m", 3),
    ("high", 100, "2", 4),
    ("top", 1000, "3", 3),
    ("apart", 10, "100m", 4),
    ("even", 2000, "100m", 6),
];
/// How many of each there are in the end: as many as there is room for.
const LAST: [usize; 6] = [2, 1, 1, 1, 3, 4];

impl World {
    pub fn start_scheduling(&mut self) {
        for (name, value, ..) in SORTS {
            let policy = if name == "shy" { "Never" } else { "PreemptLowerPriority" };
            let class = json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy});
            self.api.create("scheduling.k8s.io/v1", "PriorityClass", "", class).unwrap();
        }
    }

    pub fn disturb_scheduling(&mut self) {
        match self.random.below(12) {
            0..8 => {
                let (name, ..) = SORTS[self.random.below(SORTS.len())];
                let most = SORTS.iter().find(|s| s.0 == name).map_or(1, |s| s.3);
                let replicas = self.random.below(most + 1);
                self.set_replicas(name, replicas);
            }
            8 => self.change_gated(),
            9 => self.change_protection(),
            _ => self.change_node(),
        }
    }

    fn set_replicas(&mut self, name: &str, replicas: usize) {
        let Some(set) = self.api.get("apps/v1 ReplicaSet", "default", name).cloned() else {
            let spec = json!({
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec(name)},
            });
            let body = json!({"metadata": {"name": name}, "spec": spec});
            // A quota may be in the way.
            let _set = self.api.create("apps/v1", "ReplicaSet", "default", body);
            return;
        };
        let mut new = set.clone();
        new["spec"]["replicas"] = replicas.into();
        self.api.update(&reference(&set), Part::Main, new).unwrap();
    }

    /// A pod that waits for somebody's word, and gets it.
    fn change_gated(&mut self) {
        match self.api.get("v1 Pod", "default", "gated").cloned() {
            None => {
                let mut spec = pod_spec("low");
                spec["schedulingGates"] = json!([{"name": "example.com/one"}, {"name": "example.com/two"}]);
                let body = json!({"metadata": {"name": "gated", "labels": {"app": "gated"}}, "spec": spec});
                // A quota may be in the way.
                let _pod = self.api.create("v1", "Pod", "default", body);
            }
            Some(pod) => self.open_gate(&pod),
        }
    }

    fn open_gate(&mut self, pod: &Value) {
        let gates = pod["spec"]["schedulingGates"].as_array().cloned().unwrap_or_default();
        if gates.is_empty() {
            if pod["spec"]["nodeName"].is_string() {
                self.api.meet("a gate was opened");
                self.api.delete(&reference(pod), None, None);
            }
            return;
        }
        let mut new = pod.clone();
        new["spec"]["schedulingGates"] = json!(gates[1..]);
        self.api.update(&reference(pod), Part::Main, new).unwrap();
    }

    /// A budget for those that are sent away first.
    fn change_protection(&mut self) {
        match self.api.get("policy/v1 PodDisruptionBudget", "default", "low").cloned() {
            None => {
                let spec = json!({"minAvailable": 4, "selector": {"matchLabels": {"app": "low"}}});
                let body = json!({"metadata": {"name": "low"}, "spec": spec});
                self.api.create("policy/v1", "PodDisruptionBudget", "default", body).unwrap();
            }
            Some(budget) => {
                let mut new = budget.clone();
                new["spec"]["minAvailable"] = self.random.below(8).into();
                self.api.update(&reference(&budget), Part::Main, new).unwrap();
            }
        }
    }

    /// An operator cordons or taints a node, or takes that back.
    fn change_node(&mut self) {
        let Some(node) = self.api.get("v1 Node", "", NODES[self.random.below(NODES.len())]).cloned() else {
            return;
        };
        let mut new = node.clone();
        if self.random.one_in(2) {
            new["spec"]["unschedulable"] = self.random.one_in(2).into();
        } else {
            let own = |t: &Value| t["key"] == "example.com/kept";
            let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            let name = text(&node, "/metadata/name").to_owned();
            if taints.iter().any(own) {
                self.tainted.remove(&name);
                taints.retain(|t| !own(t));
            } else {
                self.tainted.insert(name);
                taints.push(json!({"key": "example.com/kept", "effect": "NoSchedule"}));
            }
            new["spec"]["taints"] = json!(taints);
        }
        self.api.update(&reference(&node), Part::Main, new).unwrap();
    }

    /// What an operator taints stays so until an operator takes it back.
    pub fn check_taints(&self) {
        for node in self.api.list("v1 Node") {
            let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
            let name = text(node, "/metadata/name");
            let is_tainted = taints.any(|t| t["key"] == "example.com/kept");
            assert_eq!(is_tainted, self.tainted.contains(name), "{name}:\n{}", self.api.tail(20));
        }
    }

    /// There is room for all, and nothing is held back.
    pub fn stop_scheduling(&mut self) {
        self.tainted.clear();
        for ((name, ..), last) in SORTS.into_iter().zip(LAST) {
            // Others have taken the room of the larger ones.
            let is_small = name == "apart" || name == "even";
            let last = if self.users == Users::Everything && !is_small { 0 } else { last };
            if self.api.get("apps/v1 ReplicaSet", "default", name).is_some() {
                self.set_replicas(name, last);
            }
        }
        for node in NODES {
            let Some(node) = self.api.get("v1 Node", "", node).cloned() else { continue };
            let mut new = node.clone();
            new["spec"]["unschedulable"] = false.into();
            if let Some(taints) = new["spec"]["taints"].as_array_mut() {
                taints.retain(|t| t["key"] != "example.com/kept");
            }
            self.api.update(&reference(&node), Part::Main, new).unwrap();
        }
        for _ in 0..2 {
            if let Some(pod) = self.api.get("v1 Pod", "default", "gated").cloned() {
                self.open_gate(&pod);
            }
        }
    }

    /// Nobody waits for a node any more.
    pub fn check_scheduling_at_rest(&self) {
        for pod in self.api.list("v1 Pod") {
            let waits = text(pod, "/spec/nodeName").is_empty() && !self.is_forsaken(pod);
            assert!(!waits, "{} has no node: {pod:#}\n{}", text(pod, "/metadata/name"), self.api.tail(60));
        }
    }
}

fn pod_spec(name: &str) -> Value {
    let (_, _, cpu, _) = SORTS.into_iter().find(|(sort, ..)| *sort == name).expect("a sort");
    let requests = json!({"requests": {"cpu": cpu}});
    let own = json!({"matchLabels": {"app": name}});
    let mut spec = json!({
        "priorityClassName": name,
        "containers": [{"name": "c", "image": "v0", "resources": requests}],
    });
    match name {
        "apart" => {
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": own}]}});
        }
        "even" => {
            spec["topologySpreadConstraints"] = json!([{
                "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": own,
            }]);
        }
        _ => {}
    }
    spec
}
