//! What admission makes of objects that depend on others, as clients see it.

use std::sync::Arc;

use expect_test::{Expect, expect};
use proa_api::Refusal;
use proa_kinds::Part;
use proa_kinds::built_in;
use proa_logic::controllers::node_ipam::Range;
use serde_json::{Value, json};

use crate::registry::{Caller, DeleteOptions, Registry, RegistryConfig, Warnings, WriteOptions};
use crate::store::Object;
use crate::write::stages::StagesConfig;

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
        let pod_range = Range::parse("10.42.0.0/16");
        let stages = StagesConfig { pod_range, ..StagesConfig::default() };
        let config = RegistryConfig { stages, ..RegistryConfig::default() };
        let registry = Registry::open(&path, built_in::table(), config).unwrap();
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

    async fn change(&self, what: &str, part: Part, change: Value) -> Result<Value, Refusal> {
        let mut words = what.split(' ');
        let (version, kind) = (words.next().unwrap(), words.next().unwrap());
        let kind = self.registry.kinds().by_kind(version, kind).unwrap().clone();
        let patch = move |current: &Value| {
            let mut new = current.clone();
            merge(&mut new, &change);
            Ok(new)
        };
        let name = words.next().unwrap();
        let patched = self.registry.patch(&self.caller, &kind, "default", name, part, patch, &PLAIN).await;
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
    let changed = world.change("v1 Pod high", Part::Main, change).await.unwrap();
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
        world.change("scheduling.k8s.io/v1 PriorityClass high", Part::Main, json!({"globalDefault": true}));
    expect![[r#"priorityclasses.scheduling.k8s.io "high" is forbidden: PriorityClass low is already marked as default. Only one default can exist"#]].assert_eq(&refusal.await.unwrap_err().to_string());
    world
        .change("scheduling.k8s.io/v1 PriorityClass low", Part::Main, json!({"description": "d"}))
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
    // It asks for a virtual machine, which nobody here makes.
    world
        .refused(
            "v1 Pod x",
            pod(json!({"runtimeClassName": "kata"})),
            expect![[r#"403 pods "x" is forbidden: pod rejected: RuntimeClass "kata" not found"#]],
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
        world.change(&format!("v1 Pod {name}"), Part::STATUS, running.clone()).await.unwrap();
    }
    let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}});
    world.made("policy/v1 PodDisruptionBudget b", json!({ "spec": spec })).await;
    let refusal = evict("a", json!({}), &PLAIN).await.unwrap_err();
    expect![[r#"429 Cannot evict pod as it would violate the pod's disruption budget. {"causes":[{"message":"The disruption budget b is still being processed by the server.","reason":"DisruptionBudget"}],"retryAfterSeconds":10}"#]].assert_eq(&format!("{} {refusal} {}", refusal.code(), json!(refusal.0.details)));
    let status = json!({"status": {
        "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3, "observedGeneration": 1,
    }});
    let budget = "policy/v1 PodDisruptionBudget b";
    world.change(budget, Part::STATUS, status.clone()).await.unwrap();
    let stale = evict("a", json!({"preconditions": {"uid": "other"}}), &PLAIN).await.unwrap_err();
    assert_eq!(stale.code(), 409, "{stale}");
    let dry = WriteOptions { dry_run: true, field_manager: String::new(), warnings: Warnings::NONE };
    evict("a", json!({}), &dry).await.unwrap();
    let same = world.change(budget, Part::Main, json!({})).await.unwrap();
    assert_eq!(same["status"], status["status"]);
    // Of two at once, the budget pays for one.
    let (none, plain) = (json!({}), PLAIN);
    let (one, two) = tokio::join!(evict("a", none.clone(), &plain), evict("b", none, &plain));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let gone = if one.is_ok() { "a" } else { "b" };
    let pod = world.change(&format!("v1 Pod {gone}"), Part::STATUS, json!({})).await.unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let condition = &pod["status"]["conditions"][1];
    assert_eq!(condition["reason"], "EvictionByEvictionAPI", "{pod}");
    let after = world.change(budget, Part::Main, json!({})).await.unwrap();
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
    let used = async || world.change(quota, Part::Main, json!({})).await.unwrap()["status"]["used"].clone();
    // One ends, one is deleted: there is room for two.
    let ended = json!({"status": {"phase": "Succeeded"}});
    world.change(&format!("v1 Pod {}", taken[0]), Part::STATUS, ended).await.unwrap();
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
    world.change(quota, Part::Main, more).await.unwrap();
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

/// Two nodes with ranges for their pods, and a world that acts as the second.
async fn two_nodes() -> World {
    let mut world = World::new().await;
    for (name, range, address) in [("a", "10.42.0.0/24", "192.0.2.1"), ("b", "10.42.1.0/24", "192.0.2.2")] {
        let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
        let node = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}, "status": status});
        world.made(&format!("v1 Node {name}"), node).await;
    }
    world.made("v1 Pod plain", pod(json!({"nodeName": "b"}))).await;
    world.made("v1 Pod host", pod(json!({"nodeName": "b", "hostNetwork": true}))).await;
    let external = json!({"spec": {"externalIPs": ["203.0.113.77"], "ports": [{"port": 80}]}});
    world.made("v1 Service external", external).await;
    world
        .made("v1 Service balanced", json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}))
        .await;
    let balanced = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.78"}]}}});
    world.change("v1 Service balanced", Part::STATUS, balanced).await.unwrap();
    world.caller = Caller::node("b");
    world
}

#[tokio::test]
async fn a_node_gives_its_pods_no_address_of_others() {
    let world = two_nodes().await;
    let said = async |pod: &str, status: Value| {
        let change = json!({ "status": status });
        let changed = world.change(&format!("v1 Pod {pod}"), Part::STATUS, change).await;
        changed.map(|_| ()).map_err(|refusal| refusal.to_string())
    };
    let both = |ip: &str| json!({"podIP": ip, "podIPs": [{"ip": ip}]});
    expect![[r#"pods "plain" is forbidden: node "b" is not allowed to set podIP 10.42.0.7: it is not of the node's podCIDR"#]]
        .assert_eq(&said("plain", both("10.42.0.7")).await.unwrap_err());
    for foreign in
        ["10.42.0.1", "192.0.2.1", "192.0.2.2", "10.43.0.1", "127.0.0.1", "::ffff:10.42.0.7", "fd00::1"]
    {
        assert!(said("plain", both(foreign)).await.is_err(), "{foreign}");
        assert!(said("plain", json!({ "podIP": foreign })).await.is_err(), "{foreign}");
        let second = json!({"podIP": "10.42.1.7", "podIPs": [{"ip": "10.42.1.7"}, {"ip": foreign}]});
        assert!(said("plain", second).await.is_err(), "{foreign}");
    }
    assert_eq!(said("plain", both("10.42.1.7")).await, Ok(()));
    assert_eq!(said("plain", json!({"phase": "Running"})).await, Ok(()));
    expect![[r#"pods "host" is forbidden: node "b" is not allowed to set podIP 192.0.2.1: it is not the node's own"#]]
        .assert_eq(&said("host", both("192.0.2.1")).await.unwrap_err());
    assert!(said("host", both("10.42.1.7")).await.is_err());
    assert_eq!(said("host", both("192.0.2.2")).await, Ok(()));
}

#[tokio::test]
async fn a_node_shows_no_address_of_others() {
    let world = two_nodes().await;
    let shows = async |type_: &str, address: &str| {
        let own = json!({"type": "InternalIP", "address": "192.0.2.2"});
        let change = json!({"status": {"addresses": [own, {"type": type_, "address": address}]}});
        let changed = world.change("v1 Node b", Part::STATUS, change).await;
        changed.map(|_| ()).map_err(|refusal| refusal.to_string())
    };
    expect![[
        r#"nodes "b" is forbidden: node "b" is not allowed to set address 203.0.113.77: a Service has it"#
    ]]
    .assert_eq(&shows("ExternalIP", "203.0.113.77").await.unwrap_err());
    expect![[r#"nodes "b" is forbidden: node "b" is not allowed to set address 192.0.2.1: node "a" has it"#]]
        .assert_eq(&shows("InternalIP", "192.0.2.1").await.unwrap_err());
    for foreign in ["203.0.113.78", "10.42.0.1", "10.43.0.1", "::ffff:203.0.113.77", "::ffff:10.43.0.1"] {
        assert!(shows("InternalIP", foreign).await.is_err(), "{foreign}");
        assert!(shows("Hostname", foreign).await.is_err(), "{foreign}");
    }
    assert_eq!(shows("ExternalIP", "203.0.113.79").await, Ok(()));
    assert_eq!(shows("Hostname", "b").await, Ok(()));
    assert_eq!(shows("InternalIP", "127.0.0.1").await, Ok(()));
}

#[tokio::test]
async fn a_node_takes_no_range_of_others() {
    let mut world = two_nodes().await;
    let mut registers = async |name: &str, spec: Value| {
        world.caller = Caller::node(name);
        let made = world.create(&format!("v1 Node {name}"), json!({ "spec": spec }), &PLAIN).await;
        made.map(|_| ()).map_err(|refusal| refusal.to_string())
    };
    let range = |range: &str| json!({"podCIDR": range, "podCIDRs": [range]});
    expect![[r#"nodes "c" is forbidden: node "c" is not allowed to set podCIDR 10.42.0.0/24: node "a" has addresses of it"#]]
        .assert_eq(&registers("c", range("10.42.0.0/24")).await.unwrap_err());
    for foreign in ["10.42.0.0/16", "0.0.0.0/0", "10.42.0.128/25", "192.0.2.0/24", "fd00::/64"] {
        assert!(registers("c", range(foreign)).await.is_err(), "{foreign}");
    }
    // An agent that begins anew registers again, and is told that it is there.
    assert!(registers("b", range("10.42.1.0/24")).await.unwrap_err().contains("already exists"));
    assert_eq!(registers("c", range("10.42.2.0/24")).await, Ok(()));
    assert_eq!(registers("d", json!({})).await, Ok(()));
    let later = world.change("v1 Node d", Part::Main, json!({ "spec": range("10.42.3.0/24") })).await;
    expect![[r#"nodes "d" is forbidden: node "d" is not allowed to modify podCIDR"#]]
        .assert_eq(&later.unwrap_err().to_string());
}
