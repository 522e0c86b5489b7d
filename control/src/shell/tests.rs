//! The controllers and the scheduler on a real registry, with a node played by the test.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use proa_kinds::{Kind, Part, built_in};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ShellConfig, run};
use crate::registry::{
    Caller, DeleteOptions, ListOptions, Registry, RegistryConfig, WatchOptions, WriteOptions,
};
use crate::watch::WatchItem;
use crate::write::stage::{Attempt, Stage, Verdict};

struct World {
    registry: Registry,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    async fn start() -> World {
        let dir = tempfile::tempdir().unwrap();
        let registry =
            Registry::open(&dir.path().join("store.redb"), built_in::table(), RegistryConfig::default())
                .unwrap();
        let shutdown = CancellationToken::new();
        let config = ShellConfig { ca_pem: "PEM".into(), identity: "test".into(), ..ShellConfig::default() };
        let world = World { registry, shutdown, _dir: dir };
        for name in ["kube-system", "default", "kube-node-lease"] {
            world.create("v1", "Namespace", "", json!({"metadata": {"name": name}})).await;
        }
        tokio::spawn(run(world.registry.clone(), config, world.shutdown.clone()));
        world
            .until("default account", || world.get("v1", "ServiceAccount", "default", "default").is_some())
            .await;
        world
    }

    async fn create(&self, api_version: &str, kind: &str, namespace: &str, mut body: Value) -> Value {
        body["apiVersion"] = api_version.into();
        body["kind"] = kind.into();
        let kind = self.registry.kinds().by_kind(api_version, kind).unwrap().clone();
        let caller = Caller::system("test");
        let options = WriteOptions::default();
        self.registry.create(&caller, &kind, namespace, body, &options).await.unwrap().value()
    }

    async fn patch(&self, of: &Value, part: Part, change: impl Fn(&mut Value) + Send + Sync) {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let kind =
            self.registry.kinds().by_kind(&text(&of["apiVersion"]), &text(&of["kind"])).unwrap().clone();
        let (namespace, name) = (text(&of["metadata"]["namespace"]), text(&of["metadata"]["name"]));
        let (caller, options, registry) = (Caller::system("test"), WriteOptions::default(), &self.registry);
        loop {
            let mut new = registry.get(&kind, &namespace, &name).unwrap().value();
            change(&mut new);
            match registry.update(&caller, &kind, &namespace, &name, part.clone(), new, &options).await {
                // A controller came between.
                Err(refusal) if refusal.code() == 409 => {}
                done => break drop(done.unwrap()),
            }
        }
    }

    async fn delete(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) {
        let kind = self.registry.kinds().by_kind(api_version, kind).unwrap().clone();
        self.registry.delete(&Caller::system("test"), &kind, namespace, name, &options).await.unwrap();
    }

    fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = self.registry.kinds().by_kind(api_version, kind).unwrap().clone();
        self.registry.get(&kind, namespace, name).ok().map(|o| o.value())
    }

    fn list(&self, api_version: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let kind = self.registry.kinds().by_kind(api_version, kind).unwrap().clone();
        let list = self.registry.list(&kind, Some(namespace), &ListOptions::default()).unwrap();
        list.items.iter().map(|o| o.value()).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn add_node(&self) {
        let status = json!({
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "500", "ephemeral-storage": "10Gi"},
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "500", "ephemeral-storage": "10Gi"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": jiff::Timestamp::now().to_string()}],
        });
        let node = self.create("v1", "Node", "", json!({"metadata": {"name": "n1"}, "status": status})).await;
        self.patch(&node, Part::STATUS, |n| n["status"] = status.clone()).await;
    }

    /// Does once what a node does: pods that are bound become ready, those on their way out go.
    async fn play_node(&self, namespace: &str) {
        for (index, pod) in self.list("v1", "Pod", namespace).iter().enumerate() {
            let name = pod["metadata"]["name"].as_str().unwrap();
            if pod["metadata"]["deletionTimestamp"].is_string() {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                self.delete("v1", "Pod", namespace, name, now).await;
            } else if pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] != "Running" {
                self.patch(pod, Part::STATUS, |p| {
                    let ip = format!("10.42.0.{}", index + 2);
                    p["status"]["phase"] = "Running".into();
                    p["status"]["podIP"] = ip.clone().into();
                    p["status"]["podIPs"] = json!([{"ip": ip}]);
                    let now =
                        jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap().to_string();
                    p["status"]["conditions"] =
                        json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
                })
                .await;
            }
        }
    }

    async fn play_until(&self, namespace: &str, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            self.play_node(namespace).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn messages(&self, namespace: &str, reason: &str) -> Vec<String> {
        let events = self.list("v1", "Event", namespace);
        let told = events.iter().filter(|e| e["reason"] == reason);
        told.map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 80}]}]},
            },
        },
    })
}

fn complete(deployment: &Value, replicas: i64) -> bool {
    let status = &deployment["status"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|f| status[*f] == replicas)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_from_create_to_delete() {
    let world = World::start().await;
    world.add_node().await;
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    });
    world.create("v1", "Service", "default", service).await;
    let made = world.create("apps/v1", "Deployment", "default", deployment("web", 3, "a")).await;
    let get = || world.get("apps/v1", "Deployment", "default", "web").unwrap();
    world.play_until("default", "three replicas", || complete(&get(), 3)).await;
    let addresses = || {
        let slices = world.list("discovery.k8s.io/v1", "EndpointSlice", "default");
        let endpoints: Vec<Value> =
            slices.iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default()).collect();
        endpoints.iter().filter(|e| e["conditions"]["ready"] == true).count()
    };
    world.until("three endpoints", || addresses() == 3).await;
    world
        .until("endpoints", || {
            let endpoints = world.get("v1", "Endpoints", "default", "web");
            endpoints.is_some_and(|e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 3))
        })
        .await;

    world
        .patch(&made, Part::Main, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = "b".into())
        .await;
    world.play_until("default", "rolled out", || complete(&get(), 3)).await;
    assert_eq!(get()["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    let progressing = get()["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Progressing")
        .cloned()
        .unwrap();
    assert_eq!(progressing["reason"], "NewReplicaSetAvailable");
    world.play_until("default", "old pods gone", || world.list("v1", "Pod", "default").len() == 3).await;
    for pod in world.list("v1", "Pod", "default") {
        assert_eq!(pod["spec"]["containers"][0]["image"], "b");
    }
    world
        .until("events", || {
            world
                .messages("default", "Scheduled")
                .iter()
                .any(|m| m.starts_with("Successfully assigned default/web-"))
                && world
                    .messages("default", "SuccessfulCreate")
                    .iter()
                    .any(|m| m.starts_with("Created pod: web-"))
                && world.messages("default", "ScalingReplicaSet").iter().any(|m| m.ends_with("from 0 to 3"))
        })
        .await;

    world.delete("apps/v1", "Deployment", "default", "web", DeleteOptions::default()).await;
    world.delete("v1", "Service", "default", "web", DeleteOptions::default()).await;
    world
        .play_until("default", "all gone", || {
            world.list("v1", "Pod", "default").is_empty()
                && world.list("apps/v1", "ReplicaSet", "default").is_empty()
                && world.list("discovery.k8s.io/v1", "EndpointSlice", "default").is_empty()
                && world.list("v1", "Endpoints", "default").is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_emptied_and_goes() {
    let world = World::start().await;
    world.add_node().await;
    world.create("v1", "Namespace", "", json!({"metadata": {"name": "t"}})).await;
    let mut d = deployment("web", 2, "a");
    d["metadata"]["namespace"] = "t".into();
    world.create("apps/v1", "Deployment", "t", d).await;
    world.create("v1", "ConfigMap", "t", json!({"metadata": {"name": "c", "namespace": "t"}})).await;
    world
        .play_until("t", "running", || {
            world.get("apps/v1", "Deployment", "t", "web").is_some_and(|d| complete(&d, 2))
        })
        .await;
    let ca = world.get("v1", "ConfigMap", "t", "kube-root-ca.crt").unwrap();
    assert_eq!(ca["data"]["ca.crt"], "PEM");
    world.delete("v1", "Namespace", "", "t", DeleteOptions::default()).await;
    world.play_until("t", "gone", || world.get("v1", "Namespace", "", "t").is_none()).await;
    assert!(world.list("v1", "Pod", "t").is_empty());
    assert!(world.list("v1", "ConfigMap", "t").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_waits_for_the_pods() {
    let world = World::start().await;
    world.add_node().await;
    world.create("apps/v1", "Deployment", "default", deployment("web", 2, "a")).await;
    world
        .play_until("default", "running", || {
            world.get("apps/v1", "Deployment", "default", "web").is_some_and(|d| complete(&d, 2))
        })
        .await;
    let foreground =
        DeleteOptions { propagation_policy: Some("Foreground".into()), ..DeleteOptions::default() };
    world.delete("apps/v1", "Deployment", "default", "web", foreground).await;
    world
        .until("pods asked to stop", || {
            let pods = world.list("v1", "Pod", "default");
            pods.iter().all(|p| p["metadata"]["deletionTimestamp"].is_string())
        })
        .await;
    assert!(world.get("apps/v1", "Deployment", "default", "web").is_some());
    world
        .play_until("default", "gone", || world.get("apps/v1", "Deployment", "default", "web").is_none())
        .await;
    assert!(world.list("apps/v1", "ReplicaSet", "default").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_pods_are_adopted_again() {
    let world = World::start().await;
    world.add_node().await;
    world.create("apps/v1", "Deployment", "default", deployment("web", 2, "a")).await;
    world
        .play_until("default", "running", || {
            world.get("apps/v1", "Deployment", "default", "web").is_some_and(|d| complete(&d, 2))
        })
        .await;
    let names = || {
        let pods = world.list("v1", "Pod", "default");
        pods.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = names();
    let orphan = || DeleteOptions { propagation_policy: Some("Orphan".into()), ..DeleteOptions::default() };
    world.delete("apps/v1", "Deployment", "default", "web", orphan()).await;
    world.until("deployment gone", || world.get("apps/v1", "Deployment", "default", "web").is_none()).await;
    assert_eq!(names(), before);
    let sets = world.list("apps/v1", "ReplicaSet", "default");
    assert!(sets[0]["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
    world.create("apps/v1", "Deployment", "default", deployment("web", 2, "a")).await;
    world
        .play_until("default", "adopted", || {
            world.get("apps/v1", "Deployment", "default", "web").is_some_and(|d| complete(&d, 2))
        })
        .await;
    assert_eq!(names(), before);
    assert_eq!(world.list("apps/v1", "ReplicaSet", "default").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_a_node_is_told_why_and_bound_when_there_is_one() {
    let world = World::start().await;
    let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "a"}]}});
    world.create("v1", "Pod", "default", pod).await;
    world
        .until("told", || {
            world.messages("default", "FailedScheduling") == ["no nodes available to schedule pods"]
        })
        .await;
    let told = json!(["PodScheduled", "False", "Unschedulable"]);
    world
        .until("the condition", || {
            let pod = world.get("v1", "Pod", "default", "p").unwrap();
            let condition = &pod["status"]["conditions"][0];
            json!([condition["type"], condition["status"], condition["reason"]]) == told
        })
        .await;
    world.add_node().await;
    world
        .until("bound", || world.get("v1", "Pod", "default", "p").unwrap()["spec"]["nodeName"] == "n1")
        .await;
}

/// From the answer to a pod's create to its bind as a watcher of the store sees it. The figure is
/// printed; the bound is loose because the machine may be busy and the build is not optimised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_soon_after_it_is_made() {
    let world = World::start().await;
    world.add_node().await;
    let kind = world.registry.kinds().by_kind("v1", "Pod").unwrap().clone();
    let mut watch = world.registry.watch(&kind, None, WatchOptions::default()).unwrap();
    let mut times = Vec::new();
    for index in 0..100 {
        let pod = json!({
            "metadata": {"name": format!("p{index}"), "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "a"}]},
        });
        world.create("v1", "Pod", "default", pod).await;
        let made = Instant::now();
        loop {
            let Some(WatchItem::Event(_, object, _)) = watch.next().await else { continue };
            if object.value()["spec"]["nodeName"] == "n1" {
                break;
            }
        }
        times.push(made.elapsed());
    }
    times.sort();
    eprintln!("create to bind: p50 {:?}, p99 {:?}", times[50], times[99]);
    assert!(times[50] < Duration::from_millis(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_control_planes_one_leads_and_the_other_takes_over() {
    let world = World::start().await;
    world.add_node().await;
    let other = CancellationToken::new();
    let config = ShellConfig { ca_pem: "PEM".into(), identity: "other".into(), ..ShellConfig::default() };
    let both = tokio::spawn(run(world.registry.clone(), config, other.clone()));
    let holder = || {
        let lease = world.get("coordination.k8s.io/v1", "Lease", "kube-system", "kube-controller-manager");
        lease.map(|l| l["spec"]["holderIdentity"].clone()).unwrap_or_default()
    };
    let pods = || world.list("v1", "Pod", "default").len();
    world.create("apps/v1", "Deployment", "default", deployment("web", 3, "a")).await;
    let is_complete = |replicas| {
        let web = world.get("apps/v1", "Deployment", "default", "web");
        web.is_some_and(|web| complete(&web, replicas))
    };
    world.play_until("default", "the pods of the first", || is_complete(3)).await;
    assert_eq!((holder(), pods()), (json!("test"), 3), "the second has made none");

    world.shutdown.cancel();
    world.until("the second leads", || holder() == "other").await;
    let web = world.get("apps/v1", "Deployment", "default", "web").unwrap();
    world.patch(&web, Part::Main, |web| web["spec"]["replicas"] = json!(5)).await;
    world.play_until("default", "the pods of the second", || is_complete(5)).await;
    assert_eq!(pods(), 5);
    other.cancel();
    both.await.unwrap();
    assert_eq!(holder(), Value::Null, "it was given back");
}

/// Holds EndpointSlices back until it is opened, and notes the namespaces of those that came.
struct Gate {
    opened: CancellationToken,
    came: Mutex<Vec<String>>,
}

impl Stage for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.kind == "EndpointSlice"
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, _new: &'a Value) -> Verdict<'a> {
        self.came.lock().unwrap().push(attempt.namespace.to_owned());
        Verdict::Later(Box::pin(async {
            self.opened.cancelled().await;
            Ok(())
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_with_much_to_do_keeps_no_other_waiting() {
    const SERVICES: usize = 400;
    let world = World::start().await;
    let gate = Arc::new(Gate { opened: CancellationToken::new(), came: Mutex::default() });
    world.registry.add_stage(gate.clone());
    let came = || gate.came.lock().unwrap().clone();
    for namespace in ["aaa", "zzz"] {
        world.create("v1", "Namespace", "", json!({"metadata": {"name": namespace}})).await;
    }
    let spec = json!({"clusterIP": "None", "selector": {"app": "w"}, "ports": [{"port": 80}]});
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": spec});
    for number in 0..SERVICES {
        world.create("v1", "Service", "aaa", service(&format!("s{number}"))).await;
    }
    world.create("v1", "Service", "zzz", service("s")).await;
    world.until("all that is done at once", || came().len() >= 256).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(came().len(), 256, "no more at once");
    gate.opened.cancel();
    world.until("the other namespace", || came().contains(&"zzz".to_owned())).await;
    let place = came().iter().position(|namespace| namespace == "zzz").unwrap();
    assert!(place < 320, "the other namespace had its turn at {place}");
}

/// Tries that are refused come ever more slowly, whoever makes them, and what is refused is no news.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_refused_are_tried_ever_more_slowly() {
    const TRIES: i64 = 8;
    // The sum of the pauses between so many tries, but for the one try that the condition wakes.
    const PAUSES: Duration = Duration::from_millis(5 * ((1 << (TRIES - 2)) - 1));
    let world = World::start().await;
    world.add_node().await;
    let spec = |restart: &str| {
        json!({
            "serviceAccountName": "nobody", "restartPolicy": restart,
            "containers": [{"name": "c", "image": "i"}],
        })
    };
    let template = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": spec("Always")});
    let labels = |app: &str| json!({"matchLabels": {"app": app}});
    let kinds = [
        ("apps/v1", "Deployment", json!({"replicas": 2, "selector": labels("d"), "template": template("d")})),
        ("apps/v1", "ReplicaSet", json!({"replicas": 2, "selector": labels("r"), "template": template("r")})),
        (
            "v1",
            "ReplicationController",
            json!({"replicas": 2, "selector": {"app": "c"}, "template": template("c")}),
        ),
        (
            "apps/v1",
            "StatefulSet",
            json!({"replicas": 2, "selector": labels("s"), "template": template("s")}),
        ),
        ("apps/v1", "DaemonSet", json!({"selector": labels("a"), "template": template("a")})),
        ("batch/v1", "Job", json!({"template": {"spec": spec("Never")}})),
    ];
    let tries = |kind: &str| -> i64 {
        let events = world.list("v1", "Event", "default");
        let name = kind.to_lowercase();
        let of_its_own = format!("{name}-");
        let failed = events.iter().filter(|event| {
            let about = event["involvedObject"]["name"].as_str().unwrap_or_default();
            event["reason"] == "FailedCreate" && (about == name || about.starts_with(&of_its_own))
        });
        failed.map(|event| event["count"].as_i64().unwrap_or(0)).sum()
    };
    for (api_version, kind, spec) in kinds {
        let name = kind.to_lowercase();
        let body = json!({"metadata": {"name": name}, "spec": spec});
        let begun = Instant::now();
        let made = world.create(api_version, kind, "default", body).await;
        let revision =
            || world.get(api_version, kind, "default", &name).unwrap()["metadata"]["resourceVersion"].clone();
        let says_so = || {
            let object = world.get(api_version, kind, "default", &name).unwrap();
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let failure = conditions.iter().find(|c| c["type"] == "ReplicaFailure");
            failure.is_some_and(|failure| failure["reason"] == "FailedCreate")
        };
        let has_condition = kind.starts_with("Repl") || kind == "Deployment";
        world.until("the first tries", || tries(kind) >= 3 && (says_so() || !has_condition)).await;
        let settled = revision();
        world.until("more tries", || tries(kind) >= TRIES).await;
        assert!(begun.elapsed() >= PAUSES, "{kind}: {TRIES} tries in {:?}", begun.elapsed());
        assert_eq!(revision(), settled, "{kind} was written again");
        let options =
            DeleteOptions { propagation_policy: Some("Background".to_owned()), ..DeleteOptions::default() };
        world.delete(api_version, kind, "default", &name, options).await;
        if kind == "Deployment" {
            let uid = &made["metadata"]["uid"];
            world
                .until("its ReplicaSet to go", || {
                    !world
                        .list("apps/v1", "ReplicaSet", "default")
                        .iter()
                        .any(|set| &set["metadata"]["ownerReferences"][0]["uid"] == uid)
                })
                .await;
        }
    }
}
