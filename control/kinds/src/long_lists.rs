//! Lists as long as an object can hold are looked at in time that grows with their length only.
//!
//! Nothing here is measured: where every entry is compared with every other, these tests take minutes.

use serde_json::{Value, json};

use super::{Part, Write, built_in};

const MANY: usize = 50_000;

fn many(entry: impl Fn(usize) -> Value) -> Value {
    (0..MANY).map(entry).collect()
}

fn object(api_version: &str, kind: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
    if built_in::table().by_kind(api_version, kind).unwrap().namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    for (field, value) in rest.as_object().unwrap() {
        match (object.get_mut(field).and_then(Value::as_object_mut), value) {
            (Some(own), Value::Object(more)) => own.extend(more.clone()),
            _ => object[field] = value.clone(),
        }
    }
    object
}

fn made(object: Value) -> Result<Value, String> {
    let text = |field: &str| object[field].as_str().unwrap().to_owned();
    let kind = built_in::table().by_kind(&text("apiVersion"), &text("kind")).unwrap().clone();
    kind.apply_rules(Write::Create, object).map_err(|refusal| refusal.to_string())
}

fn changed(old: &Value, part: Part, change: impl Fn(&mut Value)) -> Result<Value, String> {
    let text = |field: &str| old[field].as_str().unwrap().to_owned();
    let kind = built_in::table().by_kind(&text("apiVersion"), &text("kind")).unwrap().clone();
    let mut new = old.clone();
    change(&mut new);
    kind.apply_rules(Write::Update(old, &part), new).map_err(|refusal| refusal.to_string())
}

#[test]
fn pods() {
    let spec = json!({
        "containers": [{"name": "c", "image": "i", "volumeDevices": many(|i| json!({"name": "v", "devicePath": format!("/d{i}")}))}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}],
        "schedulingGates": many(|i| json!({ "name": format!("g{i}") })),
    });
    let pod = made(object("v1", "Pod", json!({ "spec": spec }))).unwrap();
    changed(&pod, Part::Main, |pod| pod["metadata"]["labels"] = json!({"a": "b"})).unwrap();
    let spec = json!({
        "containers": [{"name": "c", "image": "i"}],
        "tolerations": many(|i| json!({"key": format!("t{i}"), "operator": "Exists"})),
        "topologySpreadConstraints": many(|i| {
            json!({"maxSkew": 1, "topologyKey": format!("k{i}"), "whenUnsatisfiable": "DoNotSchedule"})
        }),
        "securityContext": {"sysctls": many(|i| json!({"name": format!("net.s{i}"), "value": "1"}))},
    });
    let pod = made(object("v1", "Pod", json!({ "spec": spec }))).unwrap();
    changed(&pod, Part::Main, |pod| pod["metadata"]["labels"] = json!({"a": "b"})).unwrap();
}

#[test]
fn services() {
    let ports = many(|i| json!({"name": format!("p{i}"), "port": i + 1}));
    let spec = json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": ports});
    let service = made(object("v1", "Service", json!({ "spec": spec }))).unwrap();
    let service = changed(&service, Part::Main, |service| {
        service["spec"]["type"] = "NodePort".into();
        for (i, port) in service["spec"]["ports"].as_array_mut().unwrap().iter_mut().enumerate() {
            port["nodePort"] = (i + 1).into();
        }
    });
    let service = service.unwrap();
    let kept = changed(&service, Part::Main, |service| {
        for port in service["spec"]["ports"].as_array_mut().unwrap() {
            port.as_object_mut().unwrap().remove("nodePort");
        }
    });
    assert_eq!(kept.unwrap()["spec"]["ports"][MANY - 1]["nodePort"], MANY);
    let gone = changed(&service, Part::Main, |service| service["spec"]["type"] = "ClusterIP".into());
    assert_eq!(gone.unwrap()["spec"]["ports"][MANY - 1].get("nodePort"), None);
}

#[test]
fn nodes_and_what_is_theirs() {
    let taints = many(|i| json!({"key": format!("t{i}"), "effect": "NoSchedule"}));
    let addresses = many(|i| json!({"type": "Hostname", "address": format!("h{i}")}));
    let node = json!({"spec": { "taints": taints }, "status": { "addresses": addresses }});
    made(object("v1", "Node", node)).unwrap();
    let keys = many(|i| json!(format!("k{i}")));
    let mut drivers = many(|i| json!({"name": format!("d{i}"), "nodeID": "n"}));
    drivers[0]["topologyKeys"] = keys;
    let node = made(object("storage.k8s.io/v1", "CSINode", json!({"spec": { "drivers": drivers }}))).unwrap();
    changed(&node, Part::Main, |node| node["metadata"]["labels"] = json!({"a": "b"})).unwrap();
}

#[test]
fn other_kinds() {
    let tolerations = many(|i| json!({"key": format!("t{i}"), "operator": "Exists"}));
    let class = json!({"handler": "h", "scheduling": { "tolerations": tolerations }});
    made(object("node.k8s.io/v1", "RuntimeClass", class)).unwrap();
    let expressions = json!([{"key": "zone", "values": many(|i| json!(format!("z{i}")))}]);
    let class = json!({"provisioner": "p", "allowedTopologies": [{ "matchLabelExpressions": expressions }]});
    made(object("storage.k8s.io/v1", "StorageClass", class)).unwrap();
    let requests = many(|i| json!({ "audience": format!("a{i}") }));
    made(object("storage.k8s.io/v1", "CSIDriver", json!({"spec": { "tokenRequests": requests }}))).unwrap();
    let mut map = made(object("v1", "ConfigMap", json!({}))).unwrap();
    map["metadata"]["finalizers"] = many(|i| json!(format!("example.com/f{i}")));
    map["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    changed(&map, Part::Main, |map| map["data"] = json!({"a": "b"})).unwrap();
}

/// Errors that show a whole list are there one time, not one time for each entry.
#[test]
fn errors_that_show_the_whole_list() {
    let count = |object: Value, words: &str| {
        let refusal = made(object).unwrap_err();
        (refusal.matches(words).count(), refusal)
    };
    let owner = |i: usize| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": format!("u{i}"), "controller": true});
    let owned = json!({"metadata": {"ownerReferences": (0..4).map(owner).collect::<Value>()}});
    let ips = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None", "None", "None"], "ports": [{"port": 1}]}});
    let quota = |spec: Value| object("v1", "ResourceQuota", json!({ "spec": spec }));
    let hard = json!({"services": "1", "secrets": "1"});
    let scopes = json!({"hard": hard, "scopes": ["NotTerminating", "BestEffort", "x", "y"]});
    let expression = |scope: &str| json!({"scopeName": scope, "operator": "Exists"});
    let selector = json!({"matchExpressions": [expression("NotTerminating"), expression("BestEffort")]});
    for (object, words) in [
        (object("v1", "ConfigMap", owned), "Only one reference can have Controller set to true"),
        (object("v1", "Service", ips), "must be the first and only value"),
        (quota(scopes.clone()), "unsupported scope applied to resource"),
        (quota(scopes), "unsupported scope,"),
        (quota(json!({"hard": hard, "scopeSelector": selector})), "unsupported scope applied to resource"),
    ] {
        let (times, refusal) = count(object, words);
        assert_eq!(times, 1, "{refusal}");
    }
}
