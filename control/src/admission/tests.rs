//! What admission makes of objects that depend on others, as clients see it.

use std::sync::Arc;

use expect_test::{Expect, expect};
use proa_api::Refusal;
use proa_logic::kinds;
use serde_json::{Value, json};

use crate::registry::{Caller, DeleteOptions, Registry, RegistryConfig, Target, Warnings, WriteOptions};
use crate::store::Object;

const PLAIN: WriteOptions =
    WriteOptions { dry_run: false, field_manager: String::new(), warnings: Warnings::NONE };

struct World {
    registry: Registry,
    caller: Caller,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let registry = Registry::open(&path, kinds::built_in(), RegistryConfig::default()).unwrap();
        let world = World { registry, caller: Caller::system("test"), _dir: dir };
        world.made("v1 Namespace default", json!({})).await;
        world
    }

    /// Creates `API-VERSION KIND NAME`.
    async fn create(&self, what: &str, rest: Value, options: &WriteOptions) -> Result<Arc<Object>, Refusal> {
        let mut words = what.split(' ');
        let (version, kind) = (words.next().unwrap(), words.next().unwrap());
        let kind = self.registry.kinds().by_kind(version, kind).unwrap().clone();
        let mut body = rest;
        body["metadata"]["name"] = words.next().unwrap().into();
        self.registry.create(&self.caller, &kind, "default", body, options).await
    }

    async fn made(&self, what: &str, rest: Value) -> Value {
        self.create(what, rest, &PLAIN).await.unwrap().value()
    }

    async fn refused(&self, what: &str, rest: Value, why: Expect) {
        let refusal = self.create(what, rest, &PLAIN).await.expect_err("a refusal");
        why.assert_eq(&format!("{} {refusal}", refusal.code()));
    }

    async fn deleted(&self, what: &str, name: &str) {
        let (version, kind) = what.split_once(' ').unwrap();
        let kind = self.registry.kinds().by_kind(version, kind).unwrap().clone();
        let options = DeleteOptions::default();
        self.registry.delete(&self.caller, &kind, "default", name, &options).await.unwrap();
    }

    async fn pod(&self, name: &str, spec: Value) -> Result<Value, Refusal> {
        let made = self.create(&format!("v1 Pod {name}"), pod(spec), &PLAIN).await;
        made.map(|object| object.value())
    }

    async fn change(&self, what: &str, target: Target, change: Value) -> Result<Value, Refusal> {
        let mut words = what.split(' ');
        let (version, kind) = (words.next().unwrap(), words.next().unwrap());
        let kind = self.registry.kinds().by_kind(version, kind).unwrap().clone();
        let patch = move |current: &Value| {
            let mut new = current.clone();
            merge(&mut new, &change);
            Ok(new)
        };
        let name = words.next().unwrap();
        let patched = self.registry.patch(&self.caller, &kind, "default", name, target, &patch, &PLAIN).await;
        patched.map(|object| object.value())
    }
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            change.iter().for_each(|(key, value)| merge(target.entry(key).or_insert(Value::Null), value));
        }
        (target, change) => *target = change.clone(),
    }
}

fn pod(spec: Value) -> Value {
    let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
    merge(&mut whole, &spec);
    json!({ "spec": whole })
}

fn priority(pod: &Value) -> [&Value; 3] {
    ["priorityClassName", "priority", "preemptionPolicy"].map(|member| &pod["spec"][member])
}

#[tokio::test]
async fn pods_have_the_priority_of_their_class() {
    let world = World::new().await;
    let plain = world.pod("plain", json!({})).await.unwrap();
    assert_eq!(priority(&plain), [&Value::Null, &json!(0), &json!("PreemptLowerPriority")]);
    let class = json!({"value": 7, "preemptionPolicy": "Never", "globalDefault": true});
    world.made("scheduling.k8s.io/v1 PriorityClass low", class).await;
    world.made("scheduling.k8s.io/v1 PriorityClass high", json!({"value": 1000})).await;
    let defaulted = world.pod("defaulted", json!({})).await.unwrap();
    assert_eq!(priority(&defaulted), [&json!("low"), &json!(7), &json!("Never")]);
    let high = world.pod("high", json!({"priorityClassName": "high", "priority": 1000})).await.unwrap();
    assert_eq!(priority(&high), [&json!("high"), &json!(1000), &json!("PreemptLowerPriority")]);
    // A client that knows nothing of the fields leaves them out.
    let change =
        json!({"spec": {"priority": null, "preemptionPolicy": null}, "metadata": {"labels": {"a": "b"}}});
    let changed = world.change("v1 Pod high", Target::Main, change).await.unwrap();
    assert_eq!(priority(&changed), priority(&high));
    world
        .refused(
            "v1 Pod x",
            pod(json!({"priorityClassName": "none"})),
            expect!["403 pods \"x\" is forbidden: no PriorityClass with name none was found"],
        )
        .await;
    world.refused("v1 Pod x", pod(json!({"priority": 5})), expect![[r#"403 pods "x" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 7 from the given PriorityClass name"#]]).await;
    world
        .refused("v1 Pod x", pod(json!({"priorityClassName": "high", "preemptionPolicy": "Never"})), expect![[r#"403 pods "x" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name"#]])
        .await;
    let second = json!({"value": 8, "globalDefault": true});
    world.refused("scheduling.k8s.io/v1 PriorityClass second", second, expect![[r#"403 priorityclasses.scheduling.k8s.io "second" is forbidden: PriorityClass low is already marked as default. Only one default can exist"#]]).await;
    let refusal =
        world.change("scheduling.k8s.io/v1 PriorityClass high", Target::Main, json!({"globalDefault": true}));
    expect![[r#"priorityclasses.scheduling.k8s.io "high" is forbidden: PriorityClass low is already marked as default. Only one default can exist"#]].assert_eq(&refusal.await.unwrap_err().to_string());
    world
        .change("scheduling.k8s.io/v1 PriorityClass low", Target::Main, json!({"description": "d"}))
        .await
        .unwrap();
}

#[tokio::test]
async fn runtime_classes_are_merged_into_pods() {
    let world = World::new().await;
    let class = json!({
        "handler": "h", "overhead": {"podFixed": {"cpu": "100m"}},
        "scheduling": {"nodeSelector": {"wasm": "yes"}, "tolerations": [{"key": "wasm", "operator": "Exists"}]},
    });
    world.made("node.k8s.io/v1 RuntimeClass mine", class).await;
    let made = world.pod("a", json!({"runtimeClassName": "mine", "nodeSelector": {"a": "b"}})).await.unwrap();
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "100m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"a": "b", "wasm": "yes"}));
    assert_eq!(made["spec"]["tolerations"][0]["key"], "wasm");
    world.pod("b", json!({"runtimeClassName": "mine", "overhead": {"cpu": 0.1}})).await.unwrap();
    for usual in ["wasmtime", "spin", "crun"] {
        world.pod(usual, json!({"runtimeClassName": usual})).await.unwrap();
    }
    world
        .refused(
            "v1 Pod x",
            pod(json!({"runtimeClassName": "none"})),
            expect![[r#"403 pods "x" is forbidden: pod rejected: RuntimeClass "none" not found"#]],
        )
        .await;
    world.refused("v1 Pod x", pod(json!({"overhead": {"cpu": "1"}})), expect![[r#"403 pods "x" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"#]]).await;
    let other = pod(json!({"runtimeClassName": "mine", "overhead": {"cpu": "1"}}));
    world.refused("v1 Pod x", other, expect![[r#"403 pods "x" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"#]]).await;
    let elsewhere = pod(json!({"runtimeClassName": "mine", "nodeSelector": {"wasm": "no"}}));
    world.refused("v1 Pod x", elsewhere, expect![[r#"403 pods "x" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[wasm] = yes; pod.spec.nodeSelector[wasm] = no"#]]).await;
}

#[tokio::test]
async fn evictions_ask_the_budget() {
    let world = World::new().await;
    let evict = async |name: &str, options: Value, write: &WriteOptions| {
        let eviction = json!({"metadata": {"name": name}, "deleteOptions": options});
        world.registry.evict(&world.caller, "default", name, &eviction, write).await
    };
    let running =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for name in ["a", "b", "c"] {
        let mut pod = pod(json!({"nodeName": "n"}));
        pod["metadata"]["labels"] = json!({"app": "a"});
        world.made(&format!("v1 Pod {name}"), pod).await;
        world.change(&format!("v1 Pod {name}"), Target::Status, running.clone()).await.unwrap();
    }
    let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}});
    world.made("policy/v1 PodDisruptionBudget b", json!({ "spec": spec })).await;
    let refusal = evict("a", json!({}), &PLAIN).await.unwrap_err();
    expect![[r#"429 Cannot evict pod as it would violate the pod's disruption budget. {"causes":[{"message":"The disruption budget b is still being processed by the server.","reason":"DisruptionBudget"}],"retryAfterSeconds":10}"#]].assert_eq(&format!("{} {refusal} {}", refusal.code(), json!(refusal.0.details)));
    let status = json!({"status": {
        "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3, "observedGeneration": 1,
    }});
    let budget = "policy/v1 PodDisruptionBudget b";
    world.change(budget, Target::Status, status.clone()).await.unwrap();
    let stale = evict("a", json!({"preconditions": {"uid": "other"}}), &PLAIN).await.unwrap_err();
    assert_eq!(stale.code(), 409, "{stale}");
    let dry = WriteOptions { dry_run: true, field_manager: String::new(), warnings: Warnings::NONE };
    evict("a", json!({}), &dry).await.unwrap();
    let same = world.change(budget, Target::Main, json!({})).await.unwrap();
    assert_eq!(same["status"], status["status"]);
    // Of two at once, the budget pays for one.
    let (none, plain) = (json!({}), PLAIN);
    let (one, two) = tokio::join!(evict("a", none.clone(), &plain), evict("b", none, &plain));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let gone = if one.is_ok() { "a" } else { "b" };
    let pod = world.change(&format!("v1 Pod {gone}"), Target::Status, json!({})).await.unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let condition = &pod["status"]["conditions"][1];
    assert_eq!(condition["reason"], "EvictionByEvictionAPI", "{pod}");
    let after = world.change(budget, Target::Main, json!({})).await.unwrap();
    assert!(after["status"]["disruptedPods"][gone].is_string(), "{after}");
    assert_eq!(after["status"]["conditions"][0]["reason"], "InsufficientPods");
    let refusal = evict("c", json!({}), &PLAIN).await.unwrap_err();
    expect![[r#"429 Cannot evict pod as it would violate the pod's disruption budget. {"causes":[{"message":"The disruption budget b does not allow evicting pods currently","reason":"DisruptionBudget"}]}"#]].assert_eq(&format!("{} {refusal} {}", refusal.code(), json!(refusal.0.details)));
}

#[tokio::test]
async fn quotas_are_never_exceeded() {
    let world = World::new().await;
    let quota = "v1 ResourceQuota q";
    world
        .made(quota, json!({"spec": {"hard": {"pods": "5", "services": "1", "count/configmaps": "2"}}}))
        .await;
    let counted = world.registry.recount(&world.caller, "default", "q").await.unwrap().unwrap().value();
    assert_eq!(counted["status"]["used"], json!({"pods": "0", "services": "0", "count/configmaps": "0"}));
    assert!(
        world.registry.recount(&world.caller, "default", "q").await.unwrap().is_none(),
        "nothing to write"
    );
    let names: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
    let made = futures::future::join_all(names.iter().map(|name| world.pod(name, json!({})))).await;
    let taken: Vec<&String> =
        names.iter().zip(&made).filter(|(_, made)| made.is_ok()).map(|(n, _)| n).collect();
    assert_eq!(taken.len(), 5);
    world.refused("v1 Pod x", pod(json!({})), expect![[r#"403 pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"#]]).await;
    let dry = WriteOptions { dry_run: true, field_manager: String::new(), warnings: Warnings::NONE };
    assert_eq!(world.create("v1 Pod x", pod(json!({})), &dry).await.unwrap_err().code(), 403);
    let used = async || world.change(quota, Target::Main, json!({})).await.unwrap()["status"]["used"].clone();
    // One ends, one is deleted: there is room for two.
    let ended = json!({"status": {"phase": "Succeeded"}});
    world.change(&format!("v1 Pod {}", taken[0]), Target::Status, ended).await.unwrap();
    world.deleted("v1 Pod", taken[1]).await;
    assert_eq!(used().await["pods"], "3");
    world.deleted("v1 Pod", taken[0]).await;
    assert_eq!(used().await["pods"], "3", "it was let go when it ended");
    for n in 0..2 {
        world.made(&format!("v1 ConfigMap c{n}"), json!({})).await;
    }
    world.refused("v1 ConfigMap c2", json!({}), expect![[r#"403 configmaps "c2" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2"#]]).await;
    world.made("v1 Service s", json!({"spec": {"ports": [{"port": 80}]}})).await;
    world.refused("v1 Service t", json!({"spec": {"ports": [{"port": 80}]}}), expect![[r#"403 services "t" is forbidden: exceeded quota: q, requested: services=1, used: services=1, limited: services=1"#]]).await;
    assert_eq!(used().await, json!({"pods": "3", "services": "1", "count/configmaps": "2"}));
    let counted = world.registry.recount(&world.caller, "default", "q").await.unwrap();
    assert!(counted.is_none(), "what was settled is what is counted");
    let more = json!({"spec": {"hard": {"pods": "9", "services": "1", "count/configmaps": "2"}}});
    world.change(quota, Target::Main, more).await.unwrap();
    world.registry.recount(&world.caller, "default", "q").await.unwrap().unwrap();
    world.pod("x", json!({})).await.unwrap();
}

#[tokio::test]
async fn limit_ranges_give_and_refuse() {
    let world = World::new().await;
    let item = json!({
        "type": "Container", "default": {"memory": "512Mi"}, "defaultRequest": {"memory": "256Mi"},
        "max": {"memory": "1Gi"},
    });
    world.made("v1 LimitRange l", json!({"spec": {"limits": [item]}})).await;
    let given = world.pod("a", json!({})).await.unwrap();
    let resources = &given["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"memory": "512Mi"}, "requests": {"memory": "256Mi"}}));
    assert_eq!(given["status"]["qosClass"], "Burstable");
    let text = given["metadata"]["annotations"]["kubernetes.io/limit-ranger"].as_str().unwrap();
    expect!["LimitRanger plugin set: memory request for container c; memory limit for container c"]
        .assert_eq(text);
    let large =
        json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "2Gi"}}}]});
    world
        .refused(
            "v1 Pod x",
            pod(large),
            expect![[
                r#"403 pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi"#
            ]],
        )
        .await;
    let item = json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}});
    world.made("v1 LimitRange claims", json!({"spec": {"limits": [item]}})).await;
    let claim =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    world.refused("v1 PersistentVolumeClaim x", claim, expect![[r#"403 persistentvolumeclaims "x" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"#]]).await;
}
