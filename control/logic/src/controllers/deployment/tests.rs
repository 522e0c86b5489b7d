//! Tables of what a Deployment does with its ReplicaSets, a rule each.

use serde_json::{Value, json};

use super::*;
use crate::controllers::tests::{at, object, owner, seen, show, stamp};
use crate::world::facts::Object;

fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "c", "image": image }] } })
}

/// A Deployment of the template `image`, with more in its spec and status.
fn deployment(image: &str, spec: Value, status: Value) -> Object {
    let mut body = json!({
        "spec": {
            "replicas": 2, "selector": { "matchLabels": { "app": "a" } }, "template": template(image),
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        },
        "status": status,
    });
    for (field, value) in spec.as_object().cloned().unwrap_or_default() {
        body["spec"][field] = value;
    }
    object("apps/v1", "Deployment", "web", body)
}

/// Its ReplicaSet of the template `image` with so many pods, all of them available.
fn set(name: &str, image: &str, revision: u32, replicas: i32) -> Object {
    let hash = json!({ "app": "a", "pod-template-hash": name });
    let mut template = template(image);
    template["metadata"]["labels"] = hash.clone();
    object(
        "apps/v1",
        "ReplicaSet",
        name,
        json!({
            "metadata": {
                "labels": hash, "ownerReferences": [owner("Deployment", "web", true, true)],
                "creationTimestamp": stamp(revision.into()),
                "annotations": {
                    "deployment.kubernetes.io/revision": revision.to_string(),
                    "deployment.kubernetes.io/desired-replicas": "2",
                    "deployment.kubernetes.io/max-replicas": "3",
                },
            },
            "spec": { "replicas": replicas, "selector": { "matchLabels": hash }, "template": template },
            "status": {
                "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
                "observedGeneration": 1,
            },
        }),
    )
}

fn look(objects: Vec<Object>, now: i64) -> Plan {
    reconcile(&seen(objects), &Key::new("d", "web"), at(now))
}

/// What is done beside the report in the Deployment's own status.
fn done(plan: &Plan) -> Vec<String> {
    show(plan).into_iter().filter(|line| !line.starts_with("patch web {\"status\":")).collect()
}

fn created(plan: &Plan) -> Option<&Value> {
    plan.actions.iter().find_map(|action| match &action.verb {
        Verb::Create { body, .. } => Some(body),
        _ => None,
    })
}

#[test]
fn a_name_that_is_taken_is_counted_and_hashed_anew() {
    let plan = look(vec![deployment("v1", json!({}), json!({}))], 100);
    let name = created(&plan).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let foreign = object(
        "apps/v1",
        "ReplicaSet",
        &name,
        json!({ "metadata": { "ownerReferences": [owner("Deployment", "other", true, true)] } }),
    );
    let plan = look(vec![deployment("v1", json!({}), json!({})), foreign.clone()], 100);
    assert_eq!(show(&plan), ["patch web {\"status\":{\"collisionCount\":1}}"]);
    let plan = look(vec![deployment("v1", json!({}), json!({ "collisionCount": 1 })), foreign], 100);
    assert_ne!(created(&plan).unwrap()["metadata"]["name"], name);
}

#[test]
fn a_new_template_is_the_next_revision_and_an_old_one_comes_back_as_it() {
    let sets = || vec![set("one", "v1", 1, 0), set("two", "v2", 2, 2)];
    let with = |image: &str| {
        let mut objects = sets();
        objects.push(deployment(image, json!({}), json!({})));
        look(objects, 100)
    };
    let plan = with("v3");
    let body = created(&plan).unwrap();
    assert_eq!(body["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(body["spec"]["replicas"], 1, "as many as the surge allows");
    let plan = with("v1");
    assert!(created(&plan).is_none(), "{plan:?}");
    let lines = done(&plan).concat();
    assert!(
        lines.contains("patch one") && lines.contains("\"deployment.kubernetes.io/revision\":\"3\""),
        "{lines}"
    );
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let recreate = json!({ "strategy": { "type": "Recreate", "rollingUpdate": null } });
    let pod = |phase: &str| {
        object(
            "v1",
            "Pod",
            "p",
            json!({
                "metadata": {
                    "labels": { "app": "a", "pod-template-hash": "one" },
                    "ownerReferences": [owner("ReplicaSet", "one", true, true)],
                },
                "spec": { "nodeName": "n", "containers": [] }, "status": { "phase": phase },
            }),
        )
    };
    let with = |size: i32, phase: &str| {
        look(vec![deployment("v2", recreate.clone(), json!({})), set("one", "v1", 1, size), pod(phase)], 100)
    };
    let lines = done(&with(2, "Running"));
    assert!(
        lines.len() == 1 && lines[0].contains("patch one") && lines[0].contains("\"replicas\":0"),
        "{lines:?}"
    );
    assert_eq!(done(&with(0, "Running")), Vec::<String>::new());
    assert!(created(&with(0, "Succeeded")).is_some());
}

#[test]
fn history_is_kept_as_long_as_it_may_be() {
    let complete = json!({ "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2, "observedGeneration": 1 });
    let with = |limit: i32| {
        let spec = json!({ "revisionHistoryLimit": limit });
        let mut objects = vec![deployment("v4", spec, complete.clone())];
        objects.extend([set("one", "v1", 1, 0), set("two", "v2", 2, 0), set("three", "v3", 3, 0)]);
        objects.push(set("four", "v4", 4, 2));
        let lines = done(&look(objects, 100));
        lines.into_iter().filter(|line| line.starts_with("delete")).collect::<Vec<_>>()
    };
    assert_eq!(with(10), Vec::<String>::new());
    assert_eq!(with(2), ["delete one Background"]);
    assert_eq!(with(0), ["delete one Background", "delete two Background", "delete three Background"]);
}

#[test]
fn a_roll_out_that_makes_no_progress_is_late() {
    let progressing = |at: i64| {
        json!({ "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2, "conditions": [{
            "type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
            "lastUpdateTime": stamp(at), "lastTransitionTime": stamp(at),
        }] })
    };
    let stuck = |now: i64| {
        let spec = json!({ "progressDeadlineSeconds": 60 });
        let mut new = set("two", "v2", 2, 1);
        let status = json!({ "replicas": 1, "observedGeneration": 1 });
        if let crate::world::facts::Fact::ReplicaSet(set) = &mut new.fact {
            let mut changed = (**set).clone();
            changed.status = serde_json::from_value(status).unwrap();
            *set = changed.into();
        }
        look(vec![deployment("v2", spec, progressing(100)), set("one", "v1", 1, 2), new], now)
    };
    let early = stuck(130);
    assert!(!show(&early).concat().contains("ProgressDeadlineExceeded"), "{early:?}");
    assert!(early.again_at.is_some_and(|again| (at(160)..=at(162)).contains(&again)), "{early:?}");
    assert!(show(&stuck(170)).concat().contains("ProgressDeadlineExceeded"));
}

#[test]
fn a_paused_one_starts_nothing() {
    let plan =
        look(vec![deployment("v2", json!({ "paused": true }), json!({})), set("one", "v1", 1, 2)], 100);
    assert!(created(&plan).is_none(), "{plan:?}");
    assert_eq!(done(&plan), Vec::<String>::new());
}
