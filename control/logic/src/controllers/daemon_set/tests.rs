//! Tables: which nodes get a pod, and what the next step of a roll-out is.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::*;
use crate::controllers::templates;
use crate::controllers::tests::{at, object, owner, seen, stamp};
use crate::world::Object;
use crate::world::plan::Verb;

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}})
}

fn hash() -> String {
    let template: PodTemplateSpec = serde_json::from_value(template()).unwrap();
    templates::hash(&template, 0)
}

fn daemon_set(spec: Value) -> Object {
    let mut whole = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template()});
    for (field, value) in spec.as_object().cloned().unwrap_or_default() {
        match field.as_str() {
            "pod" => {
                value.as_object().unwrap().iter().for_each(|(k, v)| whole["template"]["spec"][k] = v.clone())
            }
            _ => whole[field] = value,
        }
    }
    object("apps/v1", "DaemonSet", "ds", json!({"spec": whole}))
}

fn node(name: &str, labels: Value, spec: Value) -> Object {
    object("v1", "Node", name, json!({"metadata": {"labels": labels}, "spec": spec}))
}

/// A pod from a few words: `new` or `old`, `unready`, `leaving`, `failed`, `unbound`.
fn pod(name: &str, node: &str, words: &str) -> Object {
    let has = |word: &str| words.split(' ').any(|w| w == word);
    let revision = if has("new") { hash() } else { "older".to_owned() };
    let mut meta = json!({
        "labels": {"app": "a", "controller-revision-hash": revision},
        "ownerReferences": [owner("DaemonSet", "ds", true, true)],
    });
    if has("leaving") {
        meta["deletionTimestamp"] = stamp(90);
    }
    let phase = if has("failed") { "Failed" } else { "Running" };
    let ready = if has("unready") || has("failed") { "False" } else { "True" };
    let ready = json!({"type": "Ready", "status": ready, "lastTransitionTime": stamp(10)});
    let mut spec: k8s_openapi::api::core::v1::PodSpec =
        serde_json::from_value(json!({"containers": []})).unwrap();
    if has("unbound") {
        fit::pin(&mut spec, node);
    } else {
        spec.node_name = Some(node.to_owned());
    }
    object(
        "v1",
        "Pod",
        name,
        json!({"metadata": meta, "spec": spec, "status": {"phase": phase, "conditions": [ready]}}),
    )
}

/// The nodes that get a pod and the pods that go.
fn steps(objects: Vec<Object>) -> (Vec<String>, Vec<String>) {
    let plan = reconcile(&seen(objects), &Key::new("d", "ds"), at(100));
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    for action in &plan.actions {
        match &action.verb {
            Verb::Create { kind: "Pod", body, .. } => {
                let terms = &body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
                let field = &terms["nodeSelectorTerms"][0]["matchFields"][0];
                made.push(field["values"][0].as_str().unwrap().to_owned());
            }
            Verb::Delete { target, .. } => gone.push(target.name.to_string()),
            _ => {}
        }
    }
    (made, gone)
}

fn check(spec: Value, pods: &[(&str, &str, &str)], made: &[&str], gone: &[&str]) {
    let mut objects = vec![daemon_set(spec)];
    objects.extend(["n1", "n2", "n3"].map(|n| node(n, json!({}), json!({}))));
    objects.extend(pods.iter().map(|(name, node, words)| pod(name, node, words)));
    let (m, g) = steps(objects);
    assert_eq!(
        (m.as_slice(), g.as_slice()),
        (
            &made.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..],
            &gone.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]
        )
    );
}

#[test]
fn one_pod_on_every_node() {
    check(json!({}), &[], &["n1", "n2", "n3"], &[]);
    check(json!({}), &[("a", "n1", "new"), ("b", "n2", "new unbound"), ("c", "n3", "new leaving")], &[], &[]);
    // Of two the older stays; what has failed long ago goes; a pod for a node that is gone goes too.
    let pods =
        [("a", "n1", "new"), ("b", "n1", "new"), ("c", "n2", "new failed"), ("d", "gone", "new unbound")];
    check(json!({}), &pods, &["n3"], &["b", "c", "d"]);
}

#[test]
fn what_makes_a_node_fit() {
    let taint = |key: &str, effect: &str| json!({"taints": [{"key": key, "effect": effect}]});
    let cases = [
        (json!({}), json!({}), json!({}), Fit::Runs),
        (json!({"nodeSelector": {"ssd": "yes"}}), json!({"ssd": "yes"}), json!({}), Fit::Runs),
        (json!({"nodeSelector": {"ssd": "yes"}}), json!({}), json!({}), Fit::Never),
        (json!({"nodeName": "n"}), json!({}), json!({}), Fit::Runs),
        (json!({"nodeName": "m"}), json!({}), json!({}), Fit::Never),
        (json!({}), json!({}), taint("x", "NoSchedule"), Fit::Stays),
        (json!({}), json!({}), taint("x", "NoExecute"), Fit::Never),
        (json!({"tolerations": [{"operator": "Exists"}]}), json!({}), taint("x", "NoExecute"), Fit::Runs),
        (json!({}), json!({}), taint("x", "PreferNoSchedule"), Fit::Runs),
        // What comes and goes with a node's health makes no difference.
        (json!({}), json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), Fit::Runs),
        (json!({}), json!({}), taint("node.kubernetes.io/not-ready", "NoExecute"), Fit::Runs),
        (json!({}), json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), Fit::Stays),
        (
            json!({"hostNetwork": true}),
            json!({}),
            taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
            Fit::Runs,
        ),
    ];
    for (pod, labels, spec, expected) in cases {
        let seen = seen(vec![daemon_set(json!({"pod": pod})), node("n", labels, spec.clone())]);
        let set = seen.daemon_sets.get(&Key::new("d", "ds")).unwrap().clone();
        let fit = fit::judge(set.spec.as_ref().unwrap(), &seen.nodes["n"]);
        assert_eq!(fit, expected, "{pod} {spec}");
    }
}

#[test]
fn pods_leave_nodes_that_are_not_fit_any_more() {
    let set = || daemon_set(json!({}));
    let tainted = |effect: &str| node("n1", json!({}), json!({"taints": [{"key": "x", "effect": effect}]}));
    assert_eq!(steps(vec![set(), tainted("NoSchedule"), pod("a", "n1", "new")]), (vec![], vec![]));
    assert_eq!(steps(vec![set(), tainted("NoSchedule")]), (vec![], vec![]));
    assert_eq!(
        steps(vec![set(), tainted("NoExecute"), pod("a", "n1", "new")]),
        (vec![], vec!["a".to_owned()])
    );
}

#[test]
fn a_rolling_update_takes_no_more_than_it_may() {
    let all_old = [("a", "n1", "old"), ("b", "n2", "old"), ("c", "n3", "old")];
    check(json!({}), &all_old, &[], &["a"]);
    let two = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}});
    check(two.clone(), &all_old, &[], &["a", "b"]);
    check(json!({"updateStrategy": {"type": "OnDelete"}}), &all_old, &[], &[]);
    // A pod that is not there, not ready or not ready for long counts.
    check(json!({}), &[("b", "n2", "old"), ("c", "n3", "old")], &["n1"], &[]);
    check(json!({}), &[("a", "n1", "new unready"), ("b", "n2", "old"), ("c", "n3", "old")], &[], &[]);
    check(two, &[("a", "n1", "new unready"), ("b", "n2", "old"), ("c", "n3", "old")], &[], &["b"]);
    let slow = json!({"minReadySeconds": 100});
    check(slow, &[("a", "n1", "new"), ("b", "n2", "old"), ("c", "n3", "old")], &[], &["b", "c"]);
    // An old pod that is not available anyway is replaced at once.
    check(
        json!({}),
        &[("a", "n1", "new unready"), ("b", "n2", "old unready"), ("c", "n3", "old")],
        &[],
        &["b"],
    );
    check(json!({}), &[("a", "n1", "new"), ("b", "n2", "new"), ("c", "n3", "new")], &[], &[]);
}

#[test]
fn a_surge_comes_before_what_it_replaces() {
    let surge = |n: Value| json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": n}}});
    let all_old = [("a", "n1", "old"), ("b", "n2", "old"), ("c", "n3", "old")];
    check(surge(json!(1)), &all_old, &["n1"], &[]);
    check(surge(json!("100%")), &all_old, &["n1", "n2", "n3"], &[]);
    let rest = [("b", "n2", "old"), ("c", "n3", "old")];
    let with = |more: &[(&'static str, &'static str, &'static str)]| [more, &rest[..]].concat();
    check(surge(json!(1)), &with(&[("a", "n1", "old"), ("z", "n1", "new unready")]), &[], &[]);
    check(surge(json!(1)), &with(&[("a", "n1", "old"), ("z", "n1", "new")]), &["n2"], &["a"]);
    check(surge(json!(1)), &with(&[("a", "n1", "old unready"), ("z", "n1", "new unready")]), &[], &["a"]);
    // An old pod that is not available gets its successor whatever the surge.
    check(
        surge(json!(1)),
        &[("a", "n1", "old unready"), ("b", "n2", "old"), ("c", "n3", "old")],
        &["n1", "n2"],
        &[],
    );
}

#[test]
fn revisions_are_made_renumbered_and_forgotten() {
    let revision = |name: &str, number: i64, data: Value| {
        let meta = json!({"labels": {"app": "a", "controller-revision-hash": name}, "ownerReferences": [owner("DaemonSet", "ds", true, true)]});
        object(
            "apps/v1",
            "ControllerRevision",
            &format!("ds-{name}"),
            json!({"metadata": meta, "data": data, "revision": number}),
        )
    };
    let lines = |objects: Vec<Object>| {
        let plan = reconcile(&seen(objects), &Key::new("d", "ds"), at(100));
        crate::controllers::tests::show(&plan)
            .into_iter()
            .filter(|l| !l.contains("status"))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(vec![daemon_set(json!({}))]), ["create ControllerRevision"]);
    let mut template = template();
    template["$patch"] = "replace".into();
    let same = json!({"spec": {"template": template}});
    let other = json!({"spec": {"template": {"$patch": "replace"}}});
    assert_eq!(lines(vec![daemon_set(json!({})), revision(&hash(), 1, same.clone())]), [""; 0]);
    // Back to an earlier template: its revision becomes the newest.
    let objects =
        vec![daemon_set(json!({})), revision(&hash(), 1, same.clone()), revision("x", 2, other.clone())];
    assert_eq!(lines(objects), [format!("patch ds-{} {{\"revision\":3}}", hash())]);
    // The oldest beyond the limit go, but for those that pods are made from.
    let objects = vec![
        daemon_set(json!({"revisionHistoryLimit": 1})),
        revision("x", 1, other.clone()),
        revision("y", 2, other.clone()),
        revision("z", 3, other),
        revision(&hash(), 4, same),
        object(
            "v1",
            "Pod",
            "p",
            json!({"metadata": {"labels": {"app": "a", "controller-revision-hash": "x"}, "ownerReferences": [owner("DaemonSet", "ds", true, true)]}, "spec": {"nodeName": "n", "containers": []}}),
        ),
    ];
    assert_eq!(lines(objects), ["delete ds-y"]);
}
