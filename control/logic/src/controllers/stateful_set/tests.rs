//! Tables: the next step of a set that grows, shrinks and rolls.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::*;
use crate::controllers::templates;
use crate::controllers::tests::{at, object, owner, seen, stamp};
use crate::world::Object;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn revision_name(image: &str) -> String {
    let template: PodTemplateSpec = serde_json::from_value(template(image)).unwrap();
    format!("web-{}", templates::hash(&template, 0))
}

fn revision(image: &str, number: i64) -> Object {
    let mut template = template(image);
    template["$patch"] = "replace".into();
    let meta = json!({"ownerReferences": [owner("StatefulSet", "web", true, true)]});
    let rest = json!({"metadata": meta, "data": {"spec": {"template": template}}, "revision": number});
    object("apps/v1", "ControllerRevision", &revision_name(image), rest)
}

fn set(spec: Value) -> Object {
    let mut whole = json!({
        "replicas": 3, "serviceName": "web", "selector": {"matchLabels": {"app": "a"}}, "template": template("new"),
    });
    spec.as_object().cloned().unwrap_or_default().into_iter().for_each(|(k, v)| whole[k] = v);
    let status = json!({"replicas": 0, "currentRevision": revision_name("old")});
    object("apps/v1", "StatefulSet", "web", json!({"spec": whole, "status": status}))
}

/// A pod from a few words: `old`, `unready`, `leaving`, `failed`, `since=95`, `made=95`.
fn pod(name: &str, words: &str) -> Object {
    let has = |word: &str| words.split(' ').any(|w| w == word);
    let since = words.split(' ').find_map(|w| w.strip_prefix("since=")?.parse().ok()).unwrap_or(10);
    let revision = revision_name(if has("old") { "old" } else { "new" });
    let labels =
        json!({"app": "a", "controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": name});
    let mut meta = json!({"labels": labels, "ownerReferences": [owner("StatefulSet", "web", true, true)]});
    if let Some(made) = words.split(' ').find_map(|w| w.strip_prefix("made=")?.parse().ok()) {
        meta["creationTimestamp"] = stamp(made);
    }
    if has("leaving") {
        meta["deletionTimestamp"] = stamp(90);
    }
    let ready = if has("unready") || has("failed") { "False" } else { "True" };
    let ready = json!({"type": "Ready", "status": ready, "lastTransitionTime": stamp(since)});
    let phase = if has("failed") { "Failed" } else { "Running" };
    let spec = json!({"nodeName": "n", "containers": []});
    object(
        "v1",
        "Pod",
        name,
        json!({"metadata": meta, "spec": spec, "status": {"phase": phase, "conditions": [ready]}}),
    )
}

fn look(spec: Value, pods: &[(&str, &str)]) -> Plan {
    let mut objects = vec![set(spec), revision("old", 1), revision("new", 2)];
    objects.extend(pods.iter().map(|(name, words)| pod(name, words)));
    reconcile(&seen(objects), &Key::new("d", "web"), at(100))
}

fn check(spec: Value, pods: &[(&str, &str)], expected: &[&str]) {
    let plan = look(spec, pods);
    let lines: Vec<String> = plan
        .actions
        .iter()
        .filter_map(|action| match &action.verb {
            Verb::Create { body, .. } => {
                let revision = body["metadata"]["labels"]["controller-revision-hash"].as_str();
                let age = if revision == Some(&revision_name("old")) { " old" } else { "" };
                Some(format!("make {}{age}", body["metadata"]["name"].as_str().unwrap()))
            }
            Verb::Delete { target, .. } => Some(format!("delete {}", target.name)),
            _ => None,
        })
        .collect();
    assert_eq!(lines, expected);
}

fn parallel() -> Value {
    json!({"podManagementPolicy": "Parallel"})
}

#[test]
fn pods_come_one_after_the_other() {
    check(json!({}), &[], &["make web-0"]);
    check(json!({}), &[("web-0", "unready")], &[]);
    check(json!({}), &[("web-0", "")], &["make web-1"]);
    check(json!({}), &[("web-0", ""), ("web-2", "")], &["make web-1"]);
    check(json!({}), &[("web-0", "leaving"), ("web-1", "")], &[]);
    check(json!({}), &[("web-0", "failed")], &["delete web-0"]);
    check(json!({}), &[("web-0", "failed made=95")], &[]);
    assert_eq!(look(json!({}), &[("web-0", "failed made=95")]).again_at, Some(at(105)));
    check(json!({"minReadySeconds": 10}), &[("web-0", "since=95")], &[]);
    assert_eq!(look(json!({"minReadySeconds": 10}), &[("web-0", "since=95")]).again_at, Some(at(105)));
    check(json!({"ordinals": {"start": 5}}), &[("web-5", "")], &["make web-6"]);
    check(parallel(), &[("web-1", "unready")], &["make web-0", "make web-2"]);
    // A name that only looks like one of the set's is left alone.
    assert_eq!(ordinal("web", "web-01"), None);
    assert_eq!(ordinal("web", "web-a-1"), None);
}

#[test]
fn pods_go_in_reverse_order() {
    let all = [("web-0", ""), ("web-1", ""), ("web-2", "")];
    let one = |mut more: Value| {
        more["replicas"] = 1.into();
        more
    };
    check(one(json!({})), &all, &["delete web-2"]);
    check(one(json!({})), &[("web-0", ""), ("web-1", ""), ("web-2", "leaving")], &[]);
    check(one(json!({})), &[("web-0", ""), ("web-1", "unready"), ("web-2", "")], &["delete web-2"]);
    check(one(json!({})), &[("web-0", "unready"), ("web-1", ""), ("web-2", "")], &[]);
    check(one(parallel()), &all, &["delete web-2", "delete web-1"]);
    check(json!({"replicas": 1, "ordinals": {"start": 2}}), &all, &["delete web-1"]);
}

#[test]
fn a_new_template_rolls_from_the_last_to_the_first() {
    let strategy =
        |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    check(json!({}), &[("web-0", "old"), ("web-1", "old"), ("web-2", "old")], &["delete web-2"]);
    check(json!({}), &[("web-0", "old"), ("web-1", "old"), ("web-2", "unready")], &[]);
    check(json!({}), &[("web-0", "old"), ("web-1", "old"), ("web-2", "")], &["delete web-1"]);
    check(json!({}), &[("web-0", "old"), ("web-1", "")], &["make web-2"]);
    let all = [("web-0", "old"), ("web-1", "old"), ("web-2", "old")];
    check(strategy(json!({"partition": 2})), &all, &["delete web-2"]);
    check(strategy(json!({"partition": 2})), &[("web-0", "old"), ("web-1", "old"), ("web-2", "")], &[]);
    // A pod below the partition comes back as it was.
    check(strategy(json!({"partition": 2})), &[("web-0", "old"), ("web-2", "")], &["make web-1 old"]);
    check(json!({"updateStrategy": {"type": "OnDelete"}}), &all, &[]);
    check(
        json!({"updateStrategy": {"type": "OnDelete"}}),
        &[("web-0", "old"), ("web-1", "old")],
        &["make web-2"],
    );
    check(strategy(json!({"maxUnavailable": 2})), &all, &["delete web-2", "delete web-1"]);
    check(strategy(json!({"maxUnavailable": "70%"})), &all, &["delete web-2", "delete web-1"]);
    // One that does not run is replaced first, and no other beside it.
    let mut wide = parallel();
    wide["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 1}});
    check(wide, &[("web-0", "old"), ("web-1", "old unready"), ("web-2", "old")], &["delete web-1"]);
}

#[test]
fn what_a_pod_carries_and_the_status_says() {
    let plan = look(json!({}), &[]);
    let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!((&body["spec"]["hostname"], &body["spec"]["subdomain"]), (&"web-0".into(), &"web".into()));
    assert_eq!(body["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(body["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "web-0");
    let status = |pods: &[(&str, &str)]| {
        let plan = look(json!({}), pods);
        let Verb::Patch { change: crate::world::plan::Change::Merge(patch), .. } =
            &plan.actions.last().unwrap().verb
        else {
            panic!("{plan:?}")
        };
        patch["status"].clone()
    };
    let midway = status(&[("web-0", "old"), ("web-1", "old"), ("web-2", "unready")]);
    assert_eq!(
        (
            &midway["replicas"],
            &midway["readyReplicas"],
            &midway["currentReplicas"],
            &midway["updatedReplicas"]
        ),
        (&3.into(), &2.into(), &2.into(), &1.into())
    );
    assert_eq!(
        (midway.get("currentRevision"), &midway["updateRevision"]),
        (None, &revision_name("new").into())
    );
    let done = status(&[("web-0", ""), ("web-1", ""), ("web-2", "")]);
    assert_eq!(
        (&done["currentRevision"], &done["currentReplicas"]),
        (&revision_name("new").into(), &3.into())
    );
}

/// A set with a template, the policy's two words, and the claims that are there.
fn look_with_claims(policy: [&str; 2], replicas: i32, pods: &[(&str, &str)], claims: Vec<Object>) -> Plan {
    let spec = json!({
        "replicas": replicas,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy[0], "whenScaled": policy[1]},
        "volumeClaimTemplates": [{
            "metadata": {"name": "data", "labels": {"x": "y"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }],
    });
    let mut objects = vec![set(spec), revision("old", 1), revision("new", 2)];
    objects.extend(pods.iter().map(|(name, words)| pod(name, words)));
    objects.extend(claims);
    reconcile(&seen(objects), &Key::new("d", "web"), at(100))
}

fn claim(ordinal: i32, owners: Value) -> Object {
    let meta = json!({"ownerReferences": owners});
    object(
        "v1",
        "PersistentVolumeClaim",
        &format!("data-web-{ordinal}"),
        json!({"metadata": meta, "spec": {}}),
    )
}

/// What is done to pods and claims, in order; of a claim's owners only their kinds.
fn steps(plan: &Plan) -> Vec<String> {
    let step = |verb: &Verb| match verb {
        Verb::Create { kind, body, .. } => {
            Some(format!("make {kind} {}", body["metadata"]["name"].as_str().unwrap()))
        }
        Verb::Delete { target, .. } => Some(format!("delete {}", target.name)),
        Verb::Patch { target, change: crate::world::plan::Change::Merge(patch), .. } => {
            let owners = patch["metadata"]["ownerReferences"].as_array()?;
            let kinds: Vec<&str> = owners.iter().filter_map(|o| o["kind"].as_str()).collect();
            Some(format!("own {} by {kinds:?}", target.name))
        }
        _ => None,
    };
    plan.actions.iter().filter_map(|a| step(&a.verb)).collect()
}

#[test]
fn a_pod_comes_after_its_claims() {
    let retain = ["Retain", "Retain"];
    let plan = look_with_claims(retain, 1, &[], vec![]);
    assert_eq!(steps(&plan), ["make PersistentVolumeClaim data-web-0", "make Pod web-0"]);
    let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!(body["metadata"]["labels"], json!({"x": "y", "app": "a"}));
    assert_eq!(body["metadata"].get("ownerReferences"), None);
    let Verb::Create { body, .. } = &plan.actions[1].verb else { panic!("{plan:?}") };
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}]);
    assert_eq!(body["spec"]["volumes"], volume);
    assert!(plan.actions[1].chained);
    let kept = look_with_claims(retain, 1, &[], vec![claim(0, json!([]))]);
    assert_eq!(steps(&kept), ["make Pod web-0"]);
    // One on its way out is waited for, also when only its owner is.
    let stale = claim(0, json!([owner("Pod", "web-0", true, true)]));
    assert_eq!(steps(&look_with_claims(retain, 1, &[], vec![stale])), [""; 0]);
    let meta = json!({"deletionTimestamp": stamp(1)});
    let leaving = object("v1", "PersistentVolumeClaim", "data-web-0", json!({"metadata": meta, "spec": {}}));
    let plan = look_with_claims(retain, 1, &[], vec![leaving]);
    assert_eq!(steps(&plan), [""; 0]);
    assert_eq!(
        plan.problems[0].message,
        "create Pod web-0 in StatefulSet web failed error: pvc data-web-0 is being deleted"
    );
}

#[test]
fn the_retention_policy_says_who_owns_the_claims() {
    let of_set = || json!([owner("StatefulSet", "web", true, true)]);
    let all = [("web-0", ""), ("web-1", "")];
    let check = |policy: [&str; 2], replicas: i32, owners: Value, expected: &[&str]| {
        let claims = vec![claim(0, owners.clone()), claim(1, owners)];
        assert_eq!(steps(&look_with_claims(policy, replicas, &all, claims)), expected, "{policy:?}");
    };
    check(["Retain", "Retain"], 2, json!([]), &[]);
    check(["Retain", "Retain"], 2, of_set(), &["own data-web-0 by []", "own data-web-1 by []"]);
    check(
        ["Delete", "Retain"],
        2,
        json!([]),
        &["own data-web-0 by [\"StatefulSet\"]", "own data-web-1 by [\"StatefulSet\"]"],
    );
    check(["Delete", "Retain"], 1, of_set(), &["delete web-1"]);
    // Before the last pod goes, its claim is tied to it.
    check(["Retain", "Delete"], 1, json!([]), &["own data-web-1 by [\"Pod\"]"]);
    check(["Delete", "Delete"], 1, of_set(), &["own data-web-1 by [\"Pod\"]"]);
    let tied = vec![claim(0, json!([])), claim(1, json!([owner("Pod", "web-1", true, true)]))];
    assert_eq!(steps(&look_with_claims(["Retain", "Delete"], 1, &all, tied)), ["delete web-1"]);
    // It is wanted again before it went.
    let tied = vec![claim(0, json!([])), claim(1, json!([owner("Pod", "web-1", true, true)]))];
    assert_eq!(steps(&look_with_claims(["Retain", "Delete"], 2, &all, tied)), ["own data-web-1 by []"]);
    // Somebody else's claim is left alone.
    check(["Delete", "Retain"], 2, json!([owner("Database", "x", true, true)]), &[]);
    // A new claim is owned from the start.
    let plan = look_with_claims(["Delete", "Retain"], 1, &[], vec![]);
    let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!(body["metadata"]["ownerReferences"], of_set());
}
