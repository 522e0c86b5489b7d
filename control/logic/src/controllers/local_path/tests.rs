//! Tables: what is ordered of a node, and what becomes of claims and volumes by its words.

use proa_kinds::Write;
use serde_json::{Value, json};

use crate::controllers::reconcile;
use crate::controllers::tests::{at, object, seen};
use crate::world::plan::{Change, Plan, Verb};
use crate::world::{Controller, Key, Object};

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            patch.into_iter().for_each(|(k, v)| merge(target.entry(k).or_insert(Value::Null), v));
        }
        (target, patch) => *target = patch,
    }
}

fn of(api_version: &str, kind: &str, name: &str, mut base: Value, patch: Value) -> Object {
    merge(&mut base, patch);
    object(api_version, kind, name, base)
}

fn claim(patch: Value) -> Object {
    let annotations = json!({
        "volume.kubernetes.io/selected-node": "n1",
        "volume.kubernetes.io/storage-provisioner": "proa.dev/local-path",
    });
    let base = json!({
        "metadata": {"uid": "u1", "annotations": annotations},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    of("v1", "PersistentVolumeClaim", "c", base, patch)
}

fn class(patch: Value) -> Object {
    let base = json!({"metadata": {"namespace": null}, "provisioner": "proa.dev/local-path", "reclaimPolicy": "Delete"});
    of("storage.k8s.io/v1", "StorageClass", "local-path", base, patch)
}

/// The volume of the claim.
fn volume(phase: &str, patch: Value) -> Object {
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]});
    let base = json!({
        "metadata": {
            "namespace": null, "finalizers": ["proa.dev/local-path"],
            "annotations": {"pv.kubernetes.io/provisioned-by": "proa.dev/local-path"},
        },
        "spec": {
            "claimRef": {"namespace": "d", "name": "c", "uid": "u1"}, "local": {"path": "/x/pvc-u1"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "persistentVolumeReclaimPolicy": "Delete",
        },
        "status": {"phase": phase},
    });
    of("v1", "PersistentVolume", "pvc-u1", base, patch)
}

/// The node with the orders that it has and its words on them.
fn node(orders: &str, outcomes: &str) -> Object {
    let annotations = json!({"proa.dev/local-path-orders": orders, "proa.dev/local-path-outcomes": outcomes});
    object("v1", "Node", "n1", json!({"metadata": {"annotations": annotations}}))
}

fn look(mut objects: Vec<Object>) -> Plan {
    if !objects.iter().any(|o| &*o.meta.kind.kind == "StorageClass") {
        objects.push(class(json!({})));
    }
    reconcile(Controller::LocalPath, &seen(objects), &Key::new("", "n1"), at(0))
}

fn show(verb: &Verb) -> String {
    match verb {
        Verb::Create { kind, body, .. } => {
            format!("create {kind} {} at {}", body["metadata"]["name"], body["spec"]["local"]["path"])
        }
        Verb::Patch { target, change: Change::Merge(patch), guard, .. } => {
            let unless = guard.absent.as_ref().map(|other| format!(" unless there is {other}"));
            let orders = &patch["metadata"]["annotations"]["proa.dev/local-path-orders"];
            let what = match orders {
                Value::Null if patch["metadata"]["annotations"].is_null() => patch["metadata"].to_string(),
                Value::String(orders) => orders.clone(),
                _ => "nothing".to_owned(),
            };
            format!("{}: {what}{}", target.name, unless.unwrap_or_default())
        }
        Verb::Delete { target, .. } => format!("delete {target}"),
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn check(objects: Vec<Object>, expected: &[&str]) {
    let plan = look(objects);
    let problems = plan.problems.iter().map(|p| format!("{}: {}", p.reason, p.message));
    let lines: Vec<String> = plan.actions.iter().map(|a| show(&a.verb)).chain(problems).collect();
    assert_eq!(lines, expected);
}

const MAKE: &str = r#"{"pvc-u1":"make"}"#;
const REMOVE: &str = r#"{"pvc-u1":"remove"}"#;
const MADE: &str = r#"{"pvc-u1":{"made":"/x/pvc-u1"}}"#;
const REMOVED: &str = r#"{"pvc-u1":"removed"}"#;

#[test]
fn a_claim_whose_node_was_chosen_gets_a_directory_and_then_a_volume() {
    let begun = "Provisioning: External provisioner is provisioning volume for claim \"d/c\"";
    check(vec![claim(json!({})), node("", "")], &[&format!("n1: {MAKE}"), begun]);
    check(vec![claim(json!({})), node(MAKE, "")], &[]);
    check(vec![claim(json!({})), node(MAKE, MADE)], &["create PersistentVolume \"pvc-u1\" at \"/x/pvc-u1\""]);
    check(vec![claim(json!({})), volume("Pending", json!({})), node(MAKE, MADE)], &["n1: nothing"]);
    check(
        vec![claim(json!({})), node(MAKE, r#"{"pvc-u1":{"failed":"full"}}"#)],
        &["ProvisioningFailed: failed to provision volume: full"],
    );
    let other = |patch: Value| check(vec![claim(patch), node("", "")], &[]);
    other(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}}));
    other(json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "x"}}}));
    other(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    other(json!({"spec": {"volumeName": "v"}}));
    other(json!({"spec": {"storageClassName": "other"}}));
}

#[test]
fn a_nodes_word_counts_only_for_what_is_ordered() {
    // Nothing is made of a claim at a node's word alone.
    let begun = "Provisioning: External provisioner is provisioning volume for claim \"d/c\"";
    check(vec![claim(json!({})), node("", MADE)], &[&format!("n1: {MAKE}"), begun]);
    check(vec![node("", r#"{"pvc-other":{"made":"/x/pvc-other"}}"#)], &[]);
    for path in ["/etc", "x/pvc-u1", "/x/../pvc-u1", "/x/pvc-u1/..", ""] {
        let outcomes = json!({"pvc-u1": {"made": path}}).to_string();
        let text = "ProvisioningFailed: failed to provision volume: the node gave no path of volume pvc-u1";
        check(vec![claim(json!({})), node(MAKE, &outcomes)], &[text]);
    }
    // Nor is a volume deleted.
    check(vec![volume("Bound", json!({})), node("", REMOVED)], &[]);
    check(vec![volume("Released", json!({})), node("", REMOVED)], &[&format!("n1: {REMOVE}")]);
}

#[test]
fn the_volume_is_what_the_claim_asked_for() {
    let plan = look(vec![claim(json!({})), node(MAKE, MADE)]);
    let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!(body["spec"]["claimRef"]["uid"], "u1");
    assert_eq!(body["spec"]["capacity"], json!({"storage": "1Gi"}));
    assert_eq!(body["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    let table = proa_kinds::built_in::table();
    let kind = table.by_kind("v1", "PersistentVolume").unwrap();
    kind.apply_rules(Write::Create, body.clone()).unwrap_or_else(|refusal| panic!("{refusal}"));
}

#[test]
fn what_cannot_be_a_directory_is_refused() {
    let refused = |patch: Value, text: &str| {
        let text = format!("ProvisioningFailed: failed to provision volume: {text}");
        check(vec![claim(patch), node("", "")], &[&text]);
    };
    refused(
        json!({"spec": {"accessModes": ["ReadWriteMany"]}}),
        "spec.accessModes: ReadWriteMany is not supported by proa.dev/local-path: a directory of one node",
    );
    refused(
        json!({"spec": {"volumeMode": "Block"}}),
        "spec.volumeMode: Block is not supported by proa.dev/local-path",
    );
    refused(
        json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}}),
        "spec.dataSource is not supported by proa.dev/local-path",
    );
    let plan = look(vec![claim(json!({})), node("", ""), class(json!({"parameters": {"nodePath": "/x"}}))]);
    assert!(plan.problems[0].message.contains("parameters.nodePath of the StorageClass"), "{plan:?}");
}

#[test]
fn data_goes_only_when_the_claim_is_gone() {
    let released = || volume("Released", json!({}));
    check(vec![released(), node("", "")], &[&format!("n1: {REMOVE}")]);
    check(vec![released(), node(REMOVE, "")], &[]);
    check(vec![released(), node(REMOVE, REMOVED)], &["delete PersistentVolume pvc-u1"]);
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    check(vec![volume("Released", leaving.clone()), node(REMOVE, REMOVED)], &["pvc-u1: {\"finalizers\":[]}"]);
    let free = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": []}});
    check(vec![volume("Released", free), node(REMOVE, REMOVED)], &[]);
    check(vec![released(), node(REMOVE, r#"{"pvc-u1":{"failed":"busy"}}"#)], &["VolumeFailedDelete: busy"]);
    check(vec![claim(json!({"spec": {"volumeName": "pvc-u1"}})), released(), node("", "")], &[]);
    // It has another one, or another claim has its name.
    let ordered = format!("n1: {REMOVE}");
    check(vec![claim(json!({"spec": {"volumeName": "other"}})), released(), node("", "")], &[&ordered]);
    let namesake = claim(json!({"metadata": {"uid": "u2"}, "spec": {"volumeName": "other"}}));
    check(vec![namesake, released(), node("", "")], &[&ordered]);
    check(vec![volume("Bound", json!({})), node("", "")], &[]);
    check(vec![volume("Failed", json!({})), node("", "")], &[]);
    let keep = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    check(vec![volume("Released", keep.clone()), node("", "")], &[]);
    let mut leaving = leaving;
    merge(&mut leaving, keep);
    check(vec![volume("Released", leaving), node("", "")], &["pvc-u1: {\"finalizers\":[]}"]);
    // Somebody else's.
    let foreign = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}});
    check(vec![volume("Released", foreign), node("", "")], &[]);
}

#[test]
fn directories_that_nothing_came_of_are_removed() {
    let guarded = format!("n1: {REMOVE} unless there is PersistentVolume pvc-u1");
    check(vec![node(MAKE, "")], &[&guarded]);
    check(vec![node(MAKE, MADE)], &[&guarded]);
    check(vec![node(REMOVE, MADE)], &[]);
    check(vec![node(REMOVE, REMOVED)], &["n1: nothing"]);
    // A removal is brought to its end before the directory is made again.
    check(vec![claim(json!({})), node(REMOVE, MADE)], &[]);
    check(vec![claim(json!({})), node(REMOVE, REMOVED)], &["n1: nothing"]);
}
