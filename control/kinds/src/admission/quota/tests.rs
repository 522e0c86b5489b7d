//! Tables of what counts and what is refused.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn quota(spec: Value, used: Value) -> ResourceQuota {
    let status = json!({"hard": spec["hard"], "used": used});
    serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec, "status": status})).unwrap()
}

fn pod(rest: Value) -> Value {
    let mut object = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}});
    for (part, value) in rest.as_object().unwrap() {
        for (field, value) in value.as_object().unwrap() {
            object[part][field] = value.clone();
        }
    }
    object
}

fn container(requests: Value, limits: Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

fn usage(group: &str, plural: &str, object: Value, expected: Expect) {
    let claim = Claim::of(group, plural, &object, at(1000));
    let texts: Vec<String> = claim.usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    expected.assert_eq(&texts.join(" "));
}

#[test]
fn what_objects_count() {
    let two = || container(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "2", "example.com/a": "1"}));
    usage("", "pods", pod(json!({})), expect!["count/pods=1 pods=1"]);
    let spec = json!({"containers": [two(), two()], "initContainers": [two()], "overhead": {"cpu": "100m"}});
    usage(
        "",
        "pods",
        pod(json!({ "spec": spec })),
        expect![
            "count/pods=1 cpu=2100m limits.cpu=4100m memory=2Gi pods=1 requests.cpu=2100m requests.memory=2Gi"
        ],
    );
    let gpu = container(json!({"example.com/gpu": "2"}), json!({"example.com/gpu": "2"}));
    usage(
        "",
        "pods",
        pod(json!({"spec": {"containers": [gpu]}})),
        expect!["count/pods=1 pods=1 requests.example.com/gpu=2"],
    );
    usage("", "pods", pod(json!({"status": {"phase": "Failed"}})), expect!["count/pods=1"]);
    let going = |seconds: i64| json!({"metadata": {"deletionTimestamp": at(seconds).to_string(), "deletionGracePeriodSeconds": 30}});
    usage("", "pods", pod(going(980)), expect!["count/pods=1 pods=1"]);
    usage("", "pods", pod(going(960)), expect!["count/pods=1"]);
    usage(
        "",
        "services",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}}),
        expect!["count/services=1 services=1 services.loadbalancers=0 services.nodeports=2"],
    );
    let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 1}, {"port": 2, "nodePort": 3}]});
    usage(
        "",
        "services",
        json!({ "spec": spec }),
        expect!["count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"],
    );
    let spec = json!({"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}});
    usage(
        "",
        "persistentvolumeclaims",
        json!({ "spec": spec }),
        expect![
            "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"
        ],
    );
    usage("", "secrets", json!({}), expect!["count/secrets=1 secrets=1"]);
    usage("apps", "deployments", json!({}), expect!["count/deployments.apps=1"]);
}

fn check(quota: &ResourceQuota, old: Option<Value>, new: Option<Value>, expected: Expect) {
    let claim = |object: Value| Claim::of("", "pods", &object, at(1000));
    let text = match settle(quota, old.map(claim).as_ref(), new.map(claim).as_ref()) {
        Err(why) => why,
        Ok(None) => "nothing to do with it".to_owned(),
        Ok(Some(status)) => serde_json::to_string(&status.used).unwrap(),
    };
    expected.assert_eq(&text);
}

#[test]
fn pods_take_and_leave_room() {
    let pods = quota(json!({"hard": {"pods": "2"}}), json!({"pods": "1"}));
    let full = quota(json!({"hard": {"pods": "2"}}), json!({"pods": "2"}));
    let ended = || pod(json!({"status": {"phase": "Succeeded"}}));
    check(&pods, None, Some(pod(json!({}))), expect![[r#"{"pods":"2"}"#]]);
    check(
        &full,
        None,
        Some(pod(json!({}))),
        expect!["exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"],
    );
    check(&full, Some(pod(json!({}))), None, expect![[r#"{"pods":"1"}"#]]);
    check(&full, Some(pod(json!({}))), Some(ended()), expect![[r#"{"pods":"1"}"#]]);
    check(&full, Some(ended()), None, expect!["nothing to do with it"]);
    check(&full, Some(pod(json!({}))), Some(pod(json!({}))), expect!["nothing to do with it"]);
    let unknown = quota(json!({"hard": {"pods": "2"}}), json!({}));
    check(&unknown, None, Some(pod(json!({}))), expect!["status unknown for quota: q, resources: pods"]);
    check(&unknown, Some(pod(json!({}))), None, expect!["null"]);
    let mut new = pods.clone();
    new.status = None;
    check(&new, None, Some(pod(json!({}))), expect!["null"]);
    // A pod that should have gone long ago: whether it was counted is to be found out.
    let overdue =
        json!({"metadata": {"deletionTimestamp": at(0).to_string(), "deletionGracePeriodSeconds": 1}});
    check(&full, Some(pod(overdue)), None, expect!["null"]);
}

#[test]
fn amounts_are_limited() {
    let both = json!({"hard": {"requests.cpu": "1", "limits.memory": "1Gi", "pods": "9"}});
    let both = quota(both, json!({"requests.cpu": "750m", "limits.memory": "512Mi", "pods": "1"}));
    let with = |cpu: &str, memory: &str| {
        pod(json!({"spec": {"containers": [container(json!({"cpu": cpu}), json!({"memory": memory}))]}}))
    };
    check(
        &both,
        None,
        Some(with("250m", "512Mi")),
        expect![[r#"{"limits.memory":"1Gi","pods":"2","requests.cpu":"1"}"#]],
    );
    check(
        &both,
        None,
        Some(with("0.5", "1Gi")),
        expect![
            "exceeded quota: q, requested: limits.memory=1Gi,requests.cpu=500m, used: limits.memory=512Mi,requests.cpu=750m, limited: limits.memory=1Gi,requests.cpu=1"
        ],
    );
    check(
        &both,
        None,
        Some(pod(json!({}))),
        expect!["failed quota: q: must specify limits.memory for: c; requests.cpu for: c"],
    );
    let silent = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [container(json!({"cpu": 1}), json!({}))]}});
    check(
        &both,
        None,
        Some(pod(silent)),
        expect!["failed quota: q: must specify limits.memory for: a,b,c; requests.cpu for: a,b"],
    );
}

#[test]
fn scopes_choose_pods() {
    let of = |scopes: Value| quota(json!({"hard": {"pods": "2"}, "scopes": scopes}), json!({"pods": "0"}));
    let selected = |expressions: Value| {
        let spec = json!({"hard": {"pods": "2"}, "scopeSelector": {"matchExpressions": expressions}});
        quota(spec, json!({"pods": "0"}))
    };
    let counted = |quota: &ResourceQuota, pod: Value| {
        settle(quota, None, Some(&Claim::of("", "pods", &pod, at(0)))).unwrap().is_some()
    };
    let plain = || pod(json!({}));
    let deadline = || pod(json!({"spec": {"activeDeadlineSeconds": 5}}));
    let burstable = || pod(json!({"spec": {"containers": [container(json!({"cpu": "1"}), json!({}))]}}));
    let high = || pod(json!({"spec": {"priorityClassName": "high"}}));
    let term = json!({"topologyKey": "a", "namespaceSelector": {}});
    let across = pod(
        json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
    );
    for (scope, inside, outside) in [
        ("Terminating", deadline(), plain()),
        ("NotTerminating", plain(), deadline()),
        ("BestEffort", plain(), burstable()),
        ("NotBestEffort", burstable(), plain()),
        ("CrossNamespacePodAffinity", across, plain()),
        ("PriorityClass", high(), plain()),
    ] {
        assert!(counted(&of(json!([scope])), inside), "{scope}");
        assert!(!counted(&of(json!([scope])), outside), "{scope}");
    }
    let classes = |operator: &str| {
        selected(json!([{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]))
    };
    assert!(counted(&classes("In"), high()) && !counted(&classes("In"), plain()));
    assert!(counted(&classes("NotIn"), plain()) && !counted(&classes("NotIn"), high()));
    let secrets = Claim::of("", "secrets", &json!({}), at(0));
    let scoped = quota(json!({"hard": {"secrets": "0"}, "scopes": ["BestEffort"]}), json!({"secrets": "0"}));
    assert!(settle(&scoped, None, Some(&secrets)).unwrap().is_none(), "scopes are about pods");
}

#[test]
fn a_quota_is_counted_anew() {
    let hard =
        json!({"pods": "2", "count/deployments.apps": "3", "requests.storage": "1Gi", "services": "1"});
    let quota = quota(json!({ "hard": hard }), json!({"pods": "7"}));
    assert!(!is_known(&quota));
    let mut count = Count::new(&quota);
    let kinds = ["deployments apps", "persistentvolumeclaims ", "pods ", "services "];
    assert_eq!(count.kinds().iter().map(|(p, g)| format!("{p} {g}")).collect::<Vec<_>>(), kinds);
    count.add(&Claim::of("", "pods", &pod(json!({})), at(0)));
    count.add(&Claim::of("apps", "deployments", &json!({}), at(0)));
    let status = count.status();
    expect![[r#"{"count/deployments.apps":"1","pods":"1","requests.storage":"0","services":"0"}"#]]
        .assert_eq(&serde_json::to_string(&status.used).unwrap());
    assert!(is_known(&ResourceQuota { status: Some(status), ..quota.clone() }));
}
