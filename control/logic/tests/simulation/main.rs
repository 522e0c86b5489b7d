//! A seeded simulation of the control plane: the real controllers and scheduler on a model of
//! the API, with nodes that start pods and users who change their minds.
//!
//! Chance picks who steps next and what goes wrong: watches lag, writes are refused or come too
//! late, the controllers restart, nodes go silent or vanish. Then the faults stop and the world
//! must come to rest in the state that the specs ask for. A failure prints its seed;
//! `PROA_SIM_SEED` replays it, `PROA_SIM_STEPS` sets the length, `PROA_SIM_RUNS` how many seeds.

mod api;
mod control;
mod policies;
mod random;
mod storage;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proa_logic::kinds::Part;
use serde_json::{Value, json};

use api::{Api, reference, text};
use control::Control;
use random::Random;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const APPS: [&str; 3] = ["a", "b", "c"];

struct World {
    api: Api,
    control: Control,
    random: Random,
    /// Nodes that do nothing.
    silent: BTreeSet<&'static str>,
    addresses: u32,
    /// Per Deployment, the most pods that any of its specs since it was at rest allows, and the
    /// fewest available ones.
    bounds: BTreeMap<String, (i64, i64)>,
    /// True while nothing but the roll-out itself takes pods away.
    calm: bool,
    /// What users change.
    users: Users,
    /// What has been seen of the workloads.
    ledger: workloads::Ledger,
    /// What has been seen of claims and volumes.
    storage: storage::Ledger,
}

/// What users change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    /// Deployments and Services.
    Deployments,
    /// The other workloads.
    Workloads,
    /// Budgets and quotas, and what has to keep to them.
    Policies,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn run(users: Users, calm: bool) {
    let first = number("PROA_SIM_SEED", if calm { 1000 } else { 1 });
    let runs = if std::env::var("PROA_SIM_SEED").is_ok() { 1 } else { number("PROA_SIM_RUNS", 12) };
    let steps = number("PROA_SIM_STEPS", 1500);
    for seed in first..first + runs {
        let result = std::panic::catch_unwind(|| World::new(seed, users, calm).run(steps));
        if let Err(panic) = result {
            eprintln!("the simulation failed with PROA_SIM_SEED={seed} PROA_SIM_STEPS={steps}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn converges_after_any_faults() {
    run(Users::Deployments, false);
}

#[test]
fn roll_outs_stay_within_their_bounds() {
    run(Users::Deployments, true);
}

#[test]
fn workloads_converge_after_any_faults() {
    run(Users::Workloads, false);
}

#[test]
fn workloads_keep_their_promises_at_every_step() {
    run(Users::Workloads, true);
}

#[test]
fn policies_are_kept_at_every_step() {
    run(Users::Policies, true);
}

impl World {
    fn new(seed: u64, users: Users, calm: bool) -> Self {
        let mut api = Api::new(Timestamp::from_second(1_800_000_000).unwrap());
        for name in ["default", "kube-node-lease"] {
            api.create("v1", "Namespace", "", json!({"metadata": {"name": name}})).unwrap();
        }
        let control = Control::start(&api);
        let mut world = World {
            api,
            control,
            random: Random(seed),
            silent: BTreeSet::new(),
            addresses: 0,
            bounds: BTreeMap::new(),
            calm,
            users,
            ledger: workloads::Ledger::default(),
            storage: storage::Ledger::default(),
        };
        for node in NODES {
            world.register(node);
        }
        world.start_storage();
        world
    }

    fn run(mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
            self.check_bounds();
            self.check_workloads();
            self.check_quotas();
            self.check_storage();
        }
        self.silent.clear();
        for node in NODES {
            if self.api.get("v1 Node", "", node).is_none() {
                self.register(node);
            }
        }
        self.stop_workloads();
        self.stop_policies();
        self.rest();
        self.check_rest();
        self.check_workloads_at_rest();
        self.check_storage();
        self.check_storage_at_rest();
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..6 => {
                let (kind, count) = (self.random.below(60), 1 + self.random.below(30));
                self.control.watch(&self.api, Some(kind), count);
            }
            6 => self.control.watch(&self.api, None, usize::MAX / 2),
            7..11 => {
                self.control.decide(&self.api, &mut self.random);
            }
            11..15 => {
                let fault = self.random.one_in(10);
                self.control.execute(&mut self.api, &mut self.random, fault);
            }
            15..18 => self.step_nodes(),
            18 => self.api.now += SignedDuration::from_millis(self.random.below(4000) as i64),
            _ => self.disturb(),
        }
    }

    fn disturb(&mut self) {
        if self.random.one_in(12) {
            self.control = Control::start(&self.api);
            return;
        }
        let app = APPS[self.random.below(APPS.len())];
        match self.random.below(10) {
            _ if self.users == Users::Policies => self.disturb_policies(app),
            0..7 if self.users == Users::Workloads => self.change_workload(app),
            0..7 => self.change_deployment(app),
            _ if self.calm => {}
            7 => self.disturb_node(),
            8 => {
                let pods: Vec<Value> = self.api.list("v1 Pod").cloned().collect();
                if !pods.is_empty() {
                    let pod = &pods[self.random.below(pods.len())];
                    self.api.delete(&reference(pod), None, None);
                }
            }
            _ if self.users == Users::Workloads && self.random.one_in(2) => self.delete_a_claim(),
            _ => self.change_service(app),
        }
    }

    fn disturb_node(&mut self) {
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
            2 => self.api.now += SignedDuration::from_secs(45),
            _ => {
                self.silent.insert(node);
            }
        }
    }

    fn change_deployment(&mut self, app: &str) {
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

    fn change_service(&mut self, app: &str) {
        match self.api.get("v1 Service", "default", app).cloned() {
            None => {
                let spec =
                    json!({"selector": {"app": app}, "ports": [{"port": 80}], "clusterIP": "10.43.0.9"});
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

    fn register(&mut self, node: &str) {
        let allocatable = json!({"cpu": "4", "memory": "4Gi", "pods": "20"});
        let labels = json!({"kubernetes.io/hostname": node});
        let body =
            json!({"metadata": {"name": node, "labels": labels}, "status": {"allocatable": allocatable}});
        self.api.create("v1", "Node", "", body).unwrap();
        self.heartbeat(node);
    }

    /// Says that the node is ready and renews its Lease.
    fn heartbeat(&mut self, node: &str) {
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
            new["status"]["allocatable"] = json!({"cpu": "4", "memory": "4Gi", "pods": "20"});
            new["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time, "lastHeartbeatTime": time}]);
            self.api.update(&reference(&object), Part::Status, new).unwrap();
        }
    }

    /// One node does one thing.
    fn step_nodes(&mut self) {
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

    fn needs_node(&self, pod: &Value) -> bool {
        if pod["metadata"]["deletionTimestamp"].is_string() {
            return pod["metadata"]["deletionGracePeriodSeconds"] != 0;
        }
        !workloads::has_ended(pod) && (!is_ready(pod) || workloads::is_task(pod)) && self.has_claims(pod)
    }

    fn play(&mut self, pod: &Value) {
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
        new["status"]["phase"] = "Running".into();
        new["status"]["podIP"] = ip.clone().into();
        new["status"]["podIPs"] = json!([{"ip": ip}]);
        new["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": self.api.time()}]);
        self.api.update(&reference(pod), Part::Status, new).unwrap();
    }

    /// No more faults: everybody works until nothing is left to do.
    fn rest(&mut self) {
        let (mut ticks, mut written) = (0, 0);
        for _ in 0..30_000 {
            self.control.watch(&self.api, None, usize::MAX / 2);
            let decided = self.control.decide(&self.api, &mut self.random);
            let executed = self.control.execute(&mut self.api, &mut self.random, false);
            for node in NODES {
                let object = self.api.get("v1 Node", "", node);
                if object.is_some_and(|n| n.pointer("/status/conditions/0/status") != Some(&"True".into())) {
                    self.heartbeat(node);
                }
            }
            let pods: Vec<Value> = self.api.list("v1 Pod").filter(|p| self.needs_node(p)).cloned().collect();
            let bound: Vec<&Value> = pods.iter().filter(|p| p["spec"]["nodeName"].is_string()).collect();
            bound.iter().for_each(|p| self.play(p));
            let provisioned = storage::provision_everywhere(self);
            if decided || executed || provisioned || !bound.is_empty() {
                continue;
            }
            let news = self.api.log.iter().filter(|e| e.kind != "coordination.k8s.io/v1 Lease").count();
            ticks = if news == written { ticks + 1 } else { 0 };
            written = news;
            if ticks > 40 {
                return;
            }
            // Time passes, and the nodes are heard of.
            self.api.now += SignedDuration::from_secs(11);
            for node in NODES {
                self.heartbeat(node);
            }
        }
        panic!("the world does not come to rest; last writes:\n{}", self.api.tail(30));
    }

    fn check_rest(&self) {
        for (controller, key, plan) in self.control.all_plans(&self.api) {
            // A claim that nobody needs any more says for ever what it waits for.
            let rests = plan.is_empty()
                || plan.actions.is_empty() && controller == proa_logic::controllers::Controller::ClaimBinder;
            assert!(rests, "{controller:?} of {key:?} is not at rest: {plan:?}");
        }
        for deployment in self.api.list("apps/v1 Deployment") {
            self.check_deployment(deployment);
        }
        for service in self.api.list("v1 Service") {
            self.check_service(service);
        }
        for object in self.api.objects.values() {
            let stuck = object["metadata"]["deletionTimestamp"].is_string();
            assert!(!stuck || self.is_held_by_a_pod(object), "still on its way out: {object}");
        }
    }

    fn check_deployment(&self, deployment: &Value) {
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
        let surge = i64::from(deployment["spec"]["paused"] == true);
        let count = pods.len() as i64;
        let unstarted = surge == 1 && sets.is_empty();
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

    fn check_service(&self, service: &Value) {
        let (name, uid) = (text(service, "/metadata/name"), &service["metadata"]["uid"]);
        let ready: BTreeSet<&str> = self
            .api
            .list("v1 Pod")
            .filter(|p| p["metadata"]["labels"]["app"] == name && is_ready(p))
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
        let endpoints = self.api.get("v1 Endpoints", "default", name).expect("Endpoints of the Service");
        let addresses =
            endpoints.pointer("/subsets/0/addresses").and_then(Value::as_array).map_or(0, Vec::len);
        assert_eq!(addresses, ready.len(), "Endpoints of {name}");
    }

    /// A spec that the user has just written widens what the roll-out may do until it is at rest.
    fn widen(&mut self, app: &str) {
        let Some(object) = self.api.get("apps/v1 Deployment", "default", app) else { return };
        let wanted = object["spec"]["replicas"].as_i64().unwrap();
        let (most, fewest) = self.bounds.get(app).copied().unwrap_or((0, 0));
        self.bounds.insert(app.to_owned(), (most.max(wanted + 1), fewest.min(wanted - 1)));
    }

    fn check_bounds(&mut self) {
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
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}
