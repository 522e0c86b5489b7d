//! Tables of the rules that the simulation does not look at one by one, and properties of the
//! controllers that need no history to state them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::world::plan::{Change, Verb};
use crate::world::{KindName, Object};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(super) fn stamp(seconds: i64) -> Value {
    at(seconds).to_string().into()
}

/// An object of a kind; its uid is its name unless it says otherwise.
pub(super) fn object(api_version: &str, kind: &str, name: &str, mut rest: Value) -> Object {
    let meta = rest["metadata"].take();
    rest["metadata"] = json!({
        "name": name, "uid": name, "resourceVersion": "1", "generation": 1, "creationTimestamp": stamp(0),
    });
    let cluster_scoped = ["Node", "Namespace", "CertificateSigningRequest"].contains(&kind);
    if !cluster_scoped {
        rest["metadata"]["namespace"] = "d".into();
    }
    for (field, value) in meta.as_object().cloned().unwrap_or_default() {
        rest["metadata"][field] = value;
    }
    Object::decode(&KindName::new(api_version, kind), &serde_json::to_vec(&rest).unwrap()).unwrap()
}

pub(super) fn owner(kind: &str, uid: &str, controller: bool, blocks: bool) -> Value {
    let api_version = match kind {
        "Job" => "batch/v1",
        "Pod" => "v1",
        _ => "apps/v1",
    };
    json!({"apiVersion": api_version, "kind": kind, "name": uid, "uid": uid, "controller": controller, "blockOwnerDeletion": blocks})
}

fn pod(name: &str, set: Option<&str>, ready: bool, mut rest: Value) -> Object {
    rest["metadata"]["labels"] = json!({"app": "a"});
    if let Some(set) = set {
        rest["metadata"]["ownerReferences"] = json!([owner("ReplicaSet", set, true, true)]);
    }
    if rest["spec"].is_null() {
        rest["spec"] = json!({"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]});
    }
    let ready = json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": stamp(10)});
    rest["status"]["conditions"] = json!([ready]);
    rest["status"]["phase"] = "Running".into();
    rest["status"]["podIP"] = format!("10.0.0.{}", name.len() + usize::from(name.as_bytes()[0])).into();
    object("v1", "Pod", name, rest)
}

fn set(name: &str, replicas: i32) -> Object {
    let spec = json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}},
    });
    object("apps/v1", "ReplicaSet", name, json!({"spec": spec}))
}

pub(super) fn seen(objects: Vec<Object>) -> Observed {
    let mut seen =
        Observed { kinds: std::sync::Arc::new(proa_kinds::built_in::table()), ..Observed::new("PEM") };
    let mut kinds: BTreeMap<KindName, Vec<Object>> = BTreeMap::new();
    for kind in ["v1 Pod", "apps/v1 ReplicaSet", "apps/v1 Deployment", "v1 Node", "v1 ConfigMap"] {
        let (api_version, kind) = kind.split_once(' ').unwrap();
        kinds.entry(KindName::new(api_version, kind)).or_default();
    }
    for object in objects {
        kinds.entry(object.meta.kind.clone()).or_default().push(object);
    }
    for (kind, objects) in kinds {
        seen.reset(&kind, objects, at(0));
    }
    seen
}

/// A plan in a line per action.
pub(super) fn show(plan: &Plan) -> Vec<String> {
    let line = |verb: &Verb| match verb {
        Verb::Create { kind, .. } => format!("create {kind}"),
        Verb::Delete { target, propagation, .. } => {
            format!("delete {}{}", target.name, propagation.map(|p| format!(" {p}")).unwrap_or_default())
        }
        Verb::Patch { target, change: Change::Merge(patch), .. } => format!("patch {} {patch}", target.name),
        Verb::Patch { target, .. } => format!("conditions {}", target.name),
        Verb::Scale { target, from, to } => format!("scale {} {from} to {to}", target.name),
        Verb::Bind { pod, node } => format!("bind {} {node}", pod.name),
        Verb::DeleteAll { kind, .. } => format!("delete all {kind}"),
        Verb::Recount { quota } => format!("recount {}", quota.name),
        Verb::Finalize { namespace } => format!("finalize {}", namespace.name),
        Verb::SignCertificate { request, .. } => format!("sign {}", request.name),
        Verb::FillToken { secret, .. } => format!("fill {}", secret.name),
    };
    plan.actions.iter().map(|a| line(&a.verb)).collect()
}

fn check_set(replicas: i32, pods: Vec<Object>, expected: &[&str]) {
    let mut objects = pods;
    objects.push(set("s", replicas));
    let plan = replica_set::reconcile(&seen(objects), &Key::new("d", "s"), at(100));
    let lines: Vec<String> = show(&plan).into_iter().filter(|l| !l.contains("status")).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_replica_set_creates_deletes_adopts_and_releases() {
    let own = |name: &str, ready: bool| pod(name, Some("s"), ready, json!({}));
    check_set(2, vec![own("a", true)], &["create Pod"]);
    check_set(1, vec![own("a", true), own("b", false)], &["delete b"]);
    // Not bound before bound, cheap before dear, whatever the readiness.
    let unbound = pod("c", Some("s"), false, json!({"spec": {"containers": []}}));
    check_set(2, vec![own("a", false), own("b", true), unbound], &["delete c"]);
    let dear = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "9"}}});
    check_set(1, vec![pod("a", Some("s"), true, json!({})), pod("b", Some("s"), true, dear)], &["delete a"]);
    // Those on their way out and those that have ended do not count.
    let leaving = pod("b", Some("s"), true, json!({"metadata": {"deletionTimestamp": stamp(50)}}));
    check_set(2, vec![own("a", true), leaving], &["create Pod"]);
    let adopted = "patch o {\"metadata\":{\"ownerReferences\":[{\"apiVersion\":\"apps/v1\",\
                   \"blockOwnerDeletion\":true,\"controller\":true,\"kind\":\"ReplicaSet\",\"name\":\"s\",\"uid\":\"s\"}]}}";
    check_set(1, vec![pod("o", None, true, json!({}))], &[adopted]);
}

#[test]
fn pods_that_keep_failing_are_not_made_good_in_a_rush() {
    let failed = |count: usize| -> Vec<Object> {
        let pods = (0..count).map(|n| {
            let owners = json!([owner("ReplicaSet", "s", true, true)]);
            let meta = json!({
                "labels": {"app": "a"}, "ownerReferences": owners, "creationTimestamp": stamp(90),
            });
            let rest = json!({"metadata": meta, "spec": {"containers": []}, "status": {"phase": "Failed"}});
            object("v1", "Pod", &format!("p{n}"), rest)
        });
        pods.chain([set("s", 1)]).collect()
    };
    let creates = |count: usize, now: i64| {
        let plan = replica_set::reconcile(&seen(failed(count)), &Key::new("d", "s"), at(now));
        show(&plan).iter().any(|line| line.starts_with("create"))
    };
    assert!(creates(4, 90), "a few are made good at once");
    assert!(!creates(8, 97) && creates(8, 98), "8 s after the last of eight");
    assert!(!creates(90, 389) && creates(90, 390), "never later than 5 min after it");
}

#[test]
fn a_replication_controller_does_what_a_replica_set_does() {
    let controller = |replicas: i32| {
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}});
        let spec = json!({"replicas": replicas, "selector": {"app": "a"}, "template": template});
        object("v1", "ReplicationController", "s", json!({ "spec": spec }))
    };
    let own = |name: &str, app: &str| {
        let owners = json!([owner("ReplicationController", "s", true, true)]);
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": stamp(10)}]);
        object(
            "v1",
            "Pod",
            name,
            json!({
                "metadata": {"labels": {"app": app}, "ownerReferences": owners},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": ready},
            }),
        )
    };
    let look = |objects: Vec<Object>| {
        let plan =
            replica_set::reconcile_replication_controller(&seen(objects), &Key::new("d", "s"), at(100));
        let lines: Vec<String> = show(&plan).into_iter().filter(|l| !l.contains("status")).collect();
        (lines, plan)
    };
    assert_eq!(look(vec![controller(2), own("a", "a")]).0, ["create Pod"]);
    let (lines, plan) = look(vec![controller(1), own("a", "a"), own("b", "a")]);
    assert_eq!(lines, ["delete a"]);
    let Verb::Delete { resource_version, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!(resource_version.as_deref(), Some("1"), "a pod that has changed is looked at again");
    let (lines, plan) = look(vec![controller(1), own("a", "other")]);
    assert_eq!(lines, ["patch a {\"metadata\":{\"ownerReferences\":[]}}", "create Pod"]);
    let Verb::Create { body, .. } = &plan.actions[1].verb else { panic!("{plan:?}") };
    assert_eq!(body["metadata"]["ownerReferences"][0]["kind"], "ReplicationController");
    let (lines, _) = look(vec![controller(1), pod("a", None, true, json!({}))]);
    assert!(lines.len() == 1 && lines[0].contains("\"ReplicationController\""), "{lines:?}");
    let (_, plan) = look(vec![controller(1), own("a", "a")]);
    assert!(show(&plan)[0].contains("\"readyReplicas\":1"), "{plan:?}");
}

#[test]
fn a_pod_counts_as_available_after_its_time() {
    let mut seen = seen(vec![pod("a", Some("s"), true, json!({}))]);
    let spec = json!({
        "replicas": 1, "minReadySeconds": 30, "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}},
    });
    seen.apply(object("apps/v1", "ReplicaSet", "s", json!({"spec": spec})), at(0));
    let early = replica_set::reconcile(&seen, &Key::new("d", "s"), at(20));
    assert_eq!(early.again_at, Some(at(40)));
    assert!(show(&early)[0].contains("\"availableReplicas\":null"), "{:?}", show(&early));
    let late = replica_set::reconcile(&seen, &Key::new("d", "s"), at(40));
    assert!(show(&late)[0].contains("\"availableReplicas\":1"));
}

fn check_garbage(objects: Vec<Object>, uid: &str, expected: &[&str]) {
    let plan = garbage_collector::reconcile(&seen(objects), &Key::new("", uid));
    assert_eq!(show(&plan), expected);
}

fn config(name: &str, meta: Value) -> Object {
    object("v1", "ConfigMap", name, json!({"metadata": meta}))
}

#[test]
fn owners_in_other_namespaces_are_told() {
    let dependent = |namespace: &str| {
        let owners = json!([owner("ReplicaSet", "s", false, true)]);
        object(
            "v1",
            "ConfigMap",
            "c",
            json!({"metadata": {"namespace": namespace, "ownerReferences": owners}}),
        )
    };
    for (namespace, is_there, expected) in [
        ("d", true, &[][..]),
        // Outside namespaces nobody finds the owner, whether it is there or not.
        ("", true, &["OwnerRefInvalidNamespace"]),
        ("", false, &["OwnerRefInvalidNamespace"]),
        ("other", true, &["OwnerRefInvalidNamespace", "delete c Background"]),
        ("other", false, &["delete c Background"]),
    ] {
        let mut objects = vec![dependent(namespace)];
        objects.extend(is_there.then(|| set("s", 1)));
        let plan = garbage_collector::reconcile(&seen(objects), &Key::new("", "c"));
        let told = plan.problems.iter().map(|problem| problem.reason.to_owned());
        assert_eq!(told.chain(show(&plan)).collect::<Vec<_>>(), expected, "{namespace:?} {is_there}");
    }
}

#[test]
fn the_garbage_collector_follows_owners() {
    let owned = |name: &str, owners: Value| config(name, json!({"ownerReferences": owners}));
    let set_owner = |uid: &str| owner("ReplicaSet", uid, false, true);
    // Alive, gone, one of two gone, of a kind that nobody watches.
    check_garbage(vec![set("s", 1), owned("c", json!([set_owner("s")]))], "c", &[]);
    check_garbage(vec![owned("c", json!([set_owner("s")]))], "c", &["delete c Background"]);
    let two = json!([set_owner("s"), set_owner("gone")]);
    let kept = "patch c {\"metadata\":{\"ownerReferences\":[{\"apiVersion\":\"apps/v1\",\
                \"blockOwnerDeletion\":true,\"controller\":false,\"kind\":\"ReplicaSet\",\"name\":\"s\",\"uid\":\"s\"}]}}";
    check_garbage(vec![set("s", 1), owned("c", two)], "c", &[kept]);
    check_garbage(vec![owned("c", json!([owner("Unknown", "x", false, true)]))], "c", &[]);
    // Foreground: the dependent goes first, then the owner is let go.
    let waiting = |name: &str, owners: Value| {
        let meta = json!({"deletionTimestamp": stamp(1), "finalizers": ["foregroundDeletion"], "ownerReferences": owners});
        object("v1", "ConfigMap", name, json!({"metadata": meta}))
    };
    let config_owner = |uid: &str| json!([owner("ConfigMap", uid, false, true)]);
    let family = || vec![waiting("o", json!([])), owned("c", config_owner("o"))];
    check_garbage(family(), "c", &["delete c Background"]);
    check_garbage(family(), "o", &[]);
    check_garbage(vec![waiting("o", json!([]))], "o", &["patch o {\"metadata\":{\"finalizers\":[]}}"]);
    // Two that own each other and wait for each other are let go.
    let circle = vec![waiting("a", config_owner("b")), waiting("b", config_owner("a"))];
    let plan = garbage_collector::reconcile(&seen(circle), &Key::new("", "a"));
    assert!(show(&plan)[0].contains("\"blockOwnerDeletion\":false"), "{:?}", show(&plan));
    // Orphan: dependents lose their owner, then the owner goes.
    let meta = json!({"deletionTimestamp": stamp(1), "finalizers": ["orphan"]});
    let orphaning = vec![config("o", meta), owned("c", config_owner("o"))];
    let lines =
        ["patch c {\"metadata\":{\"ownerReferences\":[]}}", "patch o {\"metadata\":{\"finalizers\":[]}}"];
    check_garbage(orphaning, "o", &lines);
}

fn node(ready: &str, taints: Value) -> Object {
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": stamp(0)});
    object("v1", "Node", "n", json!({"spec": {"taints": taints}, "status": {"conditions": [condition]}}))
}

#[test]
fn a_silent_node_is_tainted_and_its_pods_leave_in_time() {
    let key = Key::new("", "n");
    let taints = |time: i64| {
        let taint = |effect: &str| json!({"key": "node.kubernetes.io/unreachable", "effect": effect, "timeAdded": stamp(time)});
        json!([taint("NoSchedule"), taint("NoExecute")])
    };
    let heard = node::reconcile(&seen(vec![node("True", json!([]))]), &key, at(39));
    assert!(heard.is_empty());
    assert_eq!(heard.again_at, Some(at(40)));
    let silent =
        node::reconcile(&seen(vec![node("True", json!([])), pod("p", None, true, json!({}))]), &key, at(40));
    let lines = show(&silent);
    assert_eq!(lines[0], "conditions n");
    assert!(lines[1].contains("node.kubernetes.io/unreachable"), "{lines:?}");
    assert_eq!(lines[2], "conditions p");
    let quick =
        json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}]);
    let quick =
        pod("q", None, false, json!({"spec": {"nodeName": "n", "containers": [], "tolerations": quick}}));
    let world = seen(vec![node("Unknown", taints(40)), pod("p", None, false, json!({})), quick]);
    assert_eq!(show(&node::reconcile(&world, &key, at(44))), [""; 0]);
    assert_eq!(show(&node::reconcile(&world, &key, at(45))), ["conditions q", "delete q"]);
    assert_eq!(
        show(&node::reconcile(&world, &key, at(340))),
        ["conditions p", "delete p", "conditions q", "delete q"]
    );
}

/// kubectl says of a taint what it is, not since when: the time that it is tolerated would begin
/// anew with every look.
#[test]
fn the_time_that_a_taint_is_tolerated_begins_with_the_taint_or_the_pod() {
    let key = Key::new("", "n");
    let patient = json!([{"key": "own", "operator": "Exists", "tolerationSeconds": 5}]);
    let patient =
        pod("q", None, false, json!({"spec": {"nodeName": "n", "containers": [], "tolerations": patient}}));
    let taint = |added: Value| json!([{"key": "own", "effect": "NoExecute", "timeAdded": added}]);
    let plan = |added: Value, now: i64| {
        node::reconcile(&seen(vec![node("True", taint(added)), patient.clone()]), &key, at(now))
    };
    let noticed = plan(Value::Null, 10);
    let lines = show(&noticed);
    assert!(lines.len() == 1 && lines[0].contains(&stamp(10).to_string()), "{lines:?}");
    assert_eq!(noticed.again_at, Some(at(15)));
    assert_eq!(show(&plan(json!(stamp(10)), 14)), [""; 0]);
    assert_eq!(show(&plan(json!(stamp(10)), 15)), ["conditions q", "delete q"]);
    // The pod came long after the taint.
    assert_eq!(plan(json!(stamp(-100)), 3).again_at, Some(at(5)));
}

#[test]
fn pods_of_a_node_that_is_gone_wait_for_it_a_while() {
    let world = seen(vec![pod("p", None, true, json!({}))]);
    let key = Key::new("", "n");
    let early = node::reconcile_pod_garbage(&world, &key, at(39));
    assert_eq!((show(&early).len(), early.again_at), (0, Some(at(40))));
    assert_eq!(show(&node::reconcile_pod_garbage(&world, &key, at(40))), ["conditions p", "delete p"]);
}

fn service(spec: Value) -> Object {
    object("v1", "Service", "s", json!({"spec": spec}))
}

#[test]
fn endpoints_show_what_a_pod_can_do() {
    let check = |spec: Value, pod: Object, expected: Value| {
        let plan = endpoint_slice::reconcile(&seen(vec![service(spec), pod]), &Key::new("d", "s"));
        let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
        let first = &body["endpoints"][0];
        let shown =
            json!({"conditions": first["conditions"], "ports": body["ports"], "hostname": first["hostname"]});
        assert_eq!(shown, expected);
    };
    let port = |number: i32| json!([{"name": "", "port": number, "protocol": "TCP"}]);
    let says = |ready: bool, serving: bool, terminating: bool| json!({"ready": ready, "serving": serving, "terminating": terminating});
    let selector = json!({"app": "a"});
    let ports = json!([{"port": 80, "targetPort": "http"}]);
    let plain = json!({"selector": selector, "ports": ports});
    let expected =
        |conditions: Value| json!({"conditions": conditions, "ports": port(8080), "hostname": null});
    check(plain.clone(), pod("p", None, true, json!({})), expected(says(true, true, false)));
    check(plain.clone(), pod("p", None, false, json!({})), expected(says(false, false, false)));
    let leaving = json!({"metadata": {"deletionTimestamp": stamp(5)}});
    check(plain, pod("p", None, true, leaving), expected(says(false, true, true)));
    let publish = json!({"selector": selector, "ports": ports, "publishNotReadyAddresses": true});
    check(publish, pod("p", None, false, json!({})), expected(says(true, false, false)));
    let headless = json!({"selector": selector, "clusterIP": "None"});
    let named = json!({"spec": {"hostname": "h", "subdomain": "s", "containers": []}});
    let shown = json!({"conditions": says(true, true, false), "ports": [], "hostname": "h"});
    check(headless, pod("p", None, true, named), shown);
}

#[test]
fn a_namespace_goes_when_it_is_empty() {
    let going = object("v1", "Namespace", "d", json!({"metadata": {"deletionTimestamp": stamp(1)}}));
    let key = Key::new("", "d");
    let full = seen(vec![going.clone(), config("c", json!({}))]);
    assert_eq!(show(&namespace::reconcile(&full, &key, at(2))), ["delete c Background"]);
    let empty = seen(vec![going]);
    assert_eq!(show(&namespace::reconcile(&empty, &key, at(2))), ["delete all Event", "finalize d"]);
    assert!(
        namespace::reconcile_service_account(&empty, &key).is_empty(),
        "nothing new in a namespace that goes"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Endpoints in slices: at most 100 each, every pod once, and nothing to do after the plan.
    #[test]
    fn slices_hold_each_pod_once(first in 0usize..260, second in 0usize..260) {
        let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80}]});
        let mut world = seen(vec![service(spec)]);
        let (key, mut made) = (Key::new("d", "s"), 0);
        for count in [first, second] {
            let mut pods = Vec::new();
            for index in 0..count {
                let status = json!({"podIPs": [{"ip": format!("10.1.{}.{}", index / 250, index % 250)}]});
                pods.push(pod(&format!("p{index}"), None, true, json!({"status": status})));
            }
            world.reset(&KindName::new("v1", "Pod"), pods, at(0));
            for action in endpoint_slice::reconcile(&world, &key).actions {
                perform(&mut world, action.verb, &mut made);
            }
            prop_assert!(endpoint_slice::reconcile(&world, &key).is_empty());
            let slices: Vec<_> = world.endpoint_slices.iter().map(|(_, s)| s.endpoints.len()).collect();
            prop_assert!(slices.iter().all(|n| *n <= 100), "{slices:?}");
            let shown: BTreeSet<_> = world.endpoint_slices.iter()
                .flat_map(|(_, s)| s.endpoints.iter().map(|e| e.addresses[0].clone())).collect();
            prop_assert_eq!(shown.len(), count);
            prop_assert_eq!(slices.iter().sum::<usize>(), count);
        }
    }

    /// A ReplicaSet makes up exactly the difference, and deletes nobody who is ready before all who
    /// are not.
    #[test]
    fn a_replica_set_makes_up_the_difference(
        wanted in 0usize..12,
        ready in prop::collection::vec(any::<bool>(), 0..12),
    ) {
        let own = |(index, ready): (usize, &bool)| pod(&format!("p{index}"), Some("s"), *ready, json!({}));
        let mut objects: Vec<Object> = ready.iter().enumerate().map(own).collect();
        objects.push(set("s", i32::try_from(wanted).unwrap()));
        let lines = show(&replica_set::reconcile(&seen(objects), &Key::new("d", "s"), at(100)));
        let created = lines.iter().filter(|l| *l == "create Pod").count();
        let deleted: Vec<usize> =
            lines.iter().filter_map(|l| l.strip_prefix("delete p")?.parse().ok()).collect();
        prop_assert_eq!(created, wanted.saturating_sub(ready.len()));
        prop_assert_eq!(deleted.len(), ready.len().saturating_sub(wanted));
        let spared = (0..ready.len()).any(|index| !ready[index] && !deleted.contains(&index));
        prop_assert!(!spared || deleted.iter().all(|index| !ready[*index]), "{lines:?}");
    }

    /// A namespace that goes deletes all it holds and is let go only when it holds nothing.
    #[test]
    fn a_namespace_is_finalized_only_when_it_is_empty(count in 0usize..20) {
        let going = object("v1", "Namespace", "d", json!({"metadata": {"deletionTimestamp": stamp(1)}}));
        let mut objects: Vec<Object> = (0..count).map(|i| config(&format!("c{i}"), json!({}))).collect();
        objects.push(going);
        let lines = show(&namespace::reconcile(&seen(objects), &Key::new("", "d"), at(2)));
        prop_assert_eq!(lines.iter().filter(|l| l.starts_with("delete c")).count(), count);
        prop_assert_eq!(lines.iter().any(|l| l.starts_with("finalize")), count == 0);
    }

    /// In any graph, what has a living owner is never collected, and what has none is.
    #[test]
    fn only_what_nobody_owns_is_collected(edges in prop::collection::btree_set((0usize..8, 0usize..12), 0..20)) {
        // Objects 0 to 7 exist; 8 to 11 do not.
        let objects = (0..8).map(|index: usize| {
            let owners: Vec<Value> = edges.iter().filter(|(from, to)| *from == index && to != from)
                .map(|(_, to)| owner("ReplicaSet", &format!("o{to}"), false, false)).collect();
            object("apps/v1", "ReplicaSet", &format!("o{index}"), json!({"metadata": {"ownerReferences": owners}}))
        });
        let world = seen(objects.collect());
        for index in 0..8usize {
            let owners: Vec<usize> = edges.iter().filter(|(from, to)| *from == index && to != from).map(|(_, to)| *to).collect();
            let plan = garbage_collector::reconcile(&world, &Key::new("", &format!("o{index}")));
            let deleted = show(&plan).iter().any(|l| l.starts_with("delete"));
            let alive = owners.iter().any(|o| *o < 8);
            prop_assert_eq!(deleted, !owners.is_empty() && !alive);
        }
    }
}

/// Does to the slices what a plan says.
fn perform(world: &mut Observed, verb: Verb, made: &mut usize) {
    let kind = KindName::new("discovery.k8s.io/v1", "EndpointSlice");
    let slice = |mut body: Value, name: &str| {
        body["metadata"]["name"] = name.into();
        body["metadata"]["uid"] = name.into();
        Object::decode(&kind, &serde_json::to_vec(&body).unwrap()).unwrap()
    };
    match verb {
        Verb::Create { body, .. } => {
            *made += 1;
            world.apply(slice(body, &format!("s{made}")), at(0));
        }
        Verb::Patch { target, change, .. } => {
            let key = Key { namespace: target.namespace.clone(), name: target.name.clone() };
            let current = json!(**world.endpoint_slices.get(&key).unwrap());
            world.apply(slice(change.apply(&current), &target.name), at(0));
        }
        Verb::Delete { target, .. } => {
            let meta = world.graph.get(&target.uid).unwrap().clone();
            world.delete(&meta, at(0));
        }
        other => panic!("not for slices: {other:?}"),
    }
}
