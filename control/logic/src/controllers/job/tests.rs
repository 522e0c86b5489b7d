//! Tables: the pods that a Job makes and deletes, what it counts and what it comes to.

use serde_json::{Value, json};

use super::*;
use crate::controllers::tests::{at, object, owner, seen, stamp};
use crate::world::Object;
use crate::world::plan::Change;

const NOW: i64 = 1000;

fn job(spec: Value, status: Value) -> Object {
    let mut whole = json!({
        "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
    });
    for (field, value) in spec.as_object().cloned().unwrap_or_default() {
        if field == "restartPolicy" {
            whole["template"]["spec"]["restartPolicy"] = value;
        } else if value.is_null() {
            whole.as_object_mut().unwrap().remove(&field);
        } else {
            whole[field] = value;
        }
    }
    object("batch/v1", "Job", "j", json!({"spec": whole, "status": status}))
}

/// A pod from a few words: `run`, `wait`, `ok`, `fail`, `leaving`, `free` (without the finalizer),
/// `index=1`, `code=3`, `failures=2`, `at=900`, `restarts=2`.
fn pod(name: &str, words: &str) -> Object {
    let has = |word: &str| words.split(' ').any(|w| w == word);
    let number =
        |key: &str| words.split(' ').find_map(|w| w.strip_prefix(&format!("{key}="))?.parse::<i64>().ok());
    let mut meta = json!({"labels": {"app": "a"}, "ownerReferences": [owner("Job", "j", true, true)], "annotations": {}});
    if !has("free") {
        meta["finalizers"] = json!([FINALIZER_JOB_TRACKING]);
    }
    if has("leaving") {
        meta["deletionTimestamp"] = stamp(NOW + 29);
        meta["deletionGracePeriodSeconds"] = 30.into();
    }
    if let Some(index) = number("index") {
        meta["annotations"]["batch.kubernetes.io/job-completion-index"] = index.to_string().into();
    }
    if let Some(failures) = number("failures") {
        meta["annotations"]["batch.kubernetes.io/job-index-failure-count"] = failures.to_string().into();
    }
    let (phase, code) = match () {
        () if has("ok") => ("Succeeded", 0),
        () if has("fail") => ("Failed", number("code").unwrap_or(1)),
        () if has("wait") => ("Pending", 0),
        () => ("Running", 0),
    };
    let mut container = json!({"name": "c", "restartCount": number("restarts").unwrap_or(0), "ready": false, "image": "", "imageID": ""});
    if has("ok") || has("fail") {
        container["state"] =
            json!({"terminated": {"exitCode": code, "finishedAt": stamp(number("at").unwrap_or(NOW - 600))}});
    }
    let mut spec = json!({"containers": []});
    if !has("wait") {
        spec["nodeName"] = "n".into();
    }
    object(
        "v1",
        "Pod",
        name,
        json!({"metadata": meta, "spec": spec, "status": {"phase": phase, "containerStatuses": [container]}}),
    )
}

/// What a plan does to pods, and what it says in the status.
struct Seen {
    plan: Plan,
    /// `make`, `make 3`, `delete a`, `free a`, in the order of the plan.
    steps: Vec<String>,
    status: Value,
}

fn look(spec: Value, status: Value, pods: &[(&str, &str)]) -> Seen {
    let mut objects = vec![job(spec, status)];
    objects.extend(pods.iter().map(|(name, words)| pod(name, words)));
    let plan = reconcile(&seen(objects), &Key::new("d", "j"), at(NOW));
    let (mut steps, mut status) = (Vec::new(), Value::Null);
    for action in &plan.actions {
        match &action.verb {
            Verb::Create { body, .. } => {
                let index =
                    body["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str();
                steps.push(format!("make {}", index.unwrap_or_default()).trim().to_owned());
            }
            Verb::Delete { target, .. } => steps.push(format!("delete {}", target.name)),
            Verb::Patch { target, change: Change::Merge(patch), .. } if &*target.kind == "Pod" => {
                assert_eq!(patch["metadata"]["finalizers"], json!([]));
                steps.push(format!("free {}", target.name));
            }
            Verb::Patch { change: Change::Merge(patch), .. } => {
                status = patch["status"].clone();
                steps.push("status".to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    Seen { plan, steps, status }
}

/// Checks what happens to pods.
fn check(spec: Value, status: Value, pods: &[(&str, &str)], expected: &[&str]) {
    let steps: Vec<String> = look(spec, status, pods).steps.into_iter().filter(|s| s != "status").collect();
    assert_eq!(steps, expected);
}

/// Checks what the Job has come to: type and reason of its new conditions.
fn check_verdict(spec: Value, status: Value, pods: &[(&str, &str)], expected: &[(&str, &str)]) {
    let status = look(spec, status, pods).status;
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let conditions: Vec<(&str, &str)> =
        conditions.iter().map(|c| (c["type"].as_str().unwrap(), c["reason"].as_str().unwrap())).collect();
    assert_eq!(conditions, expected, "{status}");
}

fn indexed(completions: i32, more: Value) -> Value {
    let mut spec =
        json!({"completionMode": "Indexed", "completions": completions, "parallelism": completions});
    more.as_object().cloned().unwrap_or_default().into_iter().for_each(|(k, v)| spec[k] = v);
    spec
}

#[test]
fn as_many_pods_as_there_is_work() {
    check(json!({}), json!({}), &[], &["make"]);
    check(json!({"parallelism": 3}), json!({}), &[], &["make"]);
    check(json!({"parallelism": 3, "completions": 5}), json!({}), &[], &["make"; 3]);
    check(json!({"parallelism": 3, "completions": 5}), json!({"succeeded": 3}), &[("a", "run")], &["make"]);
    check(
        json!({"parallelism": 3, "completions": 5}),
        json!({"succeeded": 3}),
        &[("a", "run"), ("b", "run")],
        &[],
    );
    check(json!({"parallelism": 0}), json!({}), &[], &[]);
    // Too many: those that have come least far go first.
    check(
        json!({"completions": 5}),
        json!({}),
        &[("a", "run"), ("b", "wait"), ("c", "run")],
        &["free b", "free a", "delete b", "delete a"],
    );
    check(json!({"suspend": true}), json!({}), &[("a", "run")], &["free a", "delete a"]);
    check(json!({"suspend": true}), json!({}), &[], &[]);
    // Who was let go first is no failure and no reason for a pause, however it ends.
    for words in ["leaving free", "fail leaving free"] {
        let gone = look(json!({"suspend": true}), json!({}), &[("a", words)]);
        assert!(gone.status["uncountedTerminatedPods"]["failed"].is_null(), "{}", gone.status);
        check(json!({"completions": 1}), json!({}), &[("a", words)], &["make"]);
    }
    // A work queue: no new pods after the first success.
    let queue = json!({"parallelism": 2, "completions": null});
    check(queue.clone(), json!({}), &[], &["make"; 2]);
    check(queue.clone(), json!({"succeeded": 1}), &[("a", "run")], &[]);
    check_verdict(queue.clone(), json!({"succeeded": 1}), &[("a", "run")], &[]);
    check_verdict(
        queue,
        json!({"succeeded": 1}),
        &[],
        &[("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")],
    );
}

#[test]
fn indexes_are_given_once_each() {
    check(indexed(3, json!({})), json!({}), &[], &["make 0", "make 1", "make 2"]);
    check(indexed(3, json!({"parallelism": 1})), json!({"completedIndexes": "0"}), &[], &["make 1"]);
    check(indexed(3, json!({})), json!({"completedIndexes": "1"}), &[("a", "run index=0")], &["make 2"]);
    check(
        indexed(3, json!({})),
        json!({"completedIndexes": "1"}),
        &[("a", "ok index=0"), ("b", "run index=2")],
        &["free a"],
    );
    // Of two with one index the one that has come further stays; one beyond the last goes.
    check(
        indexed(2, json!({})),
        json!({}),
        &[("a", "run index=0"), ("b", "wait index=0"), ("c", "run index=2")],
        &["free c", "free b", "delete c", "delete b"],
    );
    let plan = look(indexed(1, json!({})), json!({}), &[]).plan;
    let Verb::Create { body, .. } = &plan.actions.last().unwrap().verb else { panic!() };
    assert_eq!(
        (&body["metadata"]["generateName"], &body["spec"]["hostname"]),
        (&"j-0-".into(), &"j-0".into())
    );
    assert_eq!(body["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "0");
    assert_eq!(body["metadata"]["finalizers"], json!([FINALIZER_JOB_TRACKING]));
    let variable = &body["spec"]["containers"][0]["env"][0];
    assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(
        variable["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.labels['batch.kubernetes.io/job-completion-index']"
    );
}

#[test]
fn a_pod_is_written_down_let_go_and_then_counted() {
    let spec = || json!({"completions": 3});
    let first = look(spec(), json!({}), &[("a", "ok"), ("b", "run")]);
    assert_eq!(first.steps, ["status", "free a"]);
    assert!(first.plan.actions[1].chained);
    assert_eq!(first.status["uncountedTerminatedPods"], json!({"succeeded": ["a"]}));
    assert_eq!(first.status.get("succeeded"), None);
    let uncounted = json!({"uncountedTerminatedPods": {"succeeded": ["a"]}});
    // Not let go yet: nothing is written twice.
    let again = look(spec(), uncounted.clone(), &[("a", "ok"), ("b", "run")]);
    assert!(again.steps.contains(&"free a".to_owned()));
    assert_eq!(again.status.get("uncountedTerminatedPods"), None);
    // Let go, or gone altogether: it is a number.
    for pods in [&[("a", "ok free"), ("b", "run")][..], &[("b", "run")]] {
        let counted = look(spec(), uncounted.clone(), pods);
        assert_eq!(counted.status["succeeded"], 1);
        assert_eq!(counted.status["uncountedTerminatedPods"], json!({"succeeded": null}));
    }
    // What was counted long ago is not counted again.
    let old = look(spec(), json!({"succeeded": 1}), &[("a", "ok free"), ("b", "run")]);
    assert_eq!(old.status.get("succeeded"), None);
}

#[test]
fn failures_pause_before_the_next_pod() {
    let failed = |count: usize, at: i64| -> Vec<(String, String)> {
        (0..count).map(|i| (format!("p{i}"), format!("fail free at={at}"))).collect()
    };
    for (count, pause) in [(1, 10), (2, 20), (3, 40), (4, 80), (6, 320)] {
        let pods = failed(count, NOW - pause + 1);
        let pods: Vec<(&str, &str)> = pods.iter().map(|(n, w)| (n.as_str(), w.as_str())).collect();
        let early = look(json!({}), json!({"failed": count}), &pods);
        assert_eq!(
            (early.plan.again_at, early.steps.contains(&"make".to_owned())),
            (Some(at(NOW + 1)), false)
        );
        let pods = failed(count, NOW - pause);
        let pods: Vec<(&str, &str)> = pods.iter().map(|(n, w)| (n.as_str(), w.as_str())).collect();
        check(json!({}), json!({"failed": count}), &pods, &["make"]);
    }
    // A success ends the row.
    let pods = [("a", "fail free at=999"), ("b", "ok free at=999")];
    check(json!({"completions": 3}), json!({"failed": 1, "succeeded": 1}), &pods, &["make"]);
}

#[test]
fn what_a_job_comes_to() {
    let failed = ("FailureTarget", "BackoffLimitExceeded");
    check_verdict(json!({}), json!({"failed": 6}), &[], &[]);
    check_verdict(json!({}), json!({"failed": 7}), &[], &[failed, ("Failed", "BackoffLimitExceeded")]);
    check_verdict(json!({"backoffLimit": 0}), json!({}), &[("a", "fail")], &[failed]);
    let frequent = json!({"restartPolicy": "OnFailure", "backoffLimit": 3});
    check_verdict(frequent.clone(), json!({}), &[("a", "run restarts=2")], &[]);
    check_verdict(frequent, json!({}), &[("a", "run restarts=3")], &[failed]);
    let deadline = json!({"activeDeadlineSeconds": 100});
    assert_eq!(
        look(deadline.clone(), json!({"startTime": stamp(901)}), &[("a", "run")]).plan.again_at,
        Some(at(1001))
    );
    check_verdict(
        deadline.clone(),
        json!({"startTime": stamp(900)}),
        &[("a", "run")],
        &[("FailureTarget", "DeadlineExceeded")],
    );
    check(deadline, json!({"startTime": stamp(900)}), &[("a", "run")], &["free a", "delete a"]);
    // The condition that ends it comes last: no pod runs, none is held, none is uncounted.
    let target = |type_: &str, reason: &str| json!({"conditions": [{"type": type_, "status": "True", "reason": reason, "message": ""}]});
    let both = |type_, reason, last| [(type_, reason), (last, reason)];
    let done = target("SuccessCriteriaMet", "CompletionsReached");
    check_verdict(json!({}), done.clone(), &[("a", "run free leaving")], &[]);
    check_verdict(json!({}), done, &[], &both("SuccessCriteriaMet", "CompletionsReached", "Complete"));
    check_verdict(
        json!({}),
        target("FailureTarget", "DeadlineExceeded"),
        &[("a", "fail free")],
        &both("FailureTarget", "DeadlineExceeded", "Failed"),
    );
    // Pods that still run when the Job fails have failed.
    let failing = look(
        json!({"backoffLimit": 0, "parallelism": 2, "completions": 2}),
        json!({}),
        &[("a", "fail"), ("b", "run")],
    );
    assert_eq!(failing.status["uncountedTerminatedPods"]["failed"], json!(["a", "b"]));
}

#[test]
fn indexes_may_have_limits_of_their_own() {
    let spec = |limit: i32| indexed(3, json!({"backoffLimitPerIndex": limit, "backoffLimit": i32::MAX}));
    // The last failed pod of an index is held until the next one carries its notes.
    let pods = [("a", "fail index=0 failures=0 at=900"), ("b", "run index=1"), ("c", "run index=2")];
    let next = look(spec(1), json!({}), &pods);
    assert_eq!(next.steps, ["status", "make 0"]);
    let Verb::Create { body, .. } = &next.plan.actions[1].verb else { panic!() };
    assert_eq!(body["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "1");
    let pods = [
        ("a", "fail index=0 failures=0"),
        ("d", "run index=0 failures=1"),
        ("b", "run index=1"),
        ("c", "run index=2"),
    ];
    check(spec(1), json!({}), &pods, &["free a"]);
    // Each index has its own pause.
    let pods = [("a", "fail index=0 failures=1 at=990"), ("b", "run index=1"), ("c", "run index=2")];
    let waiting = look(spec(2), json!({}), &pods);
    assert_eq!((waiting.steps, waiting.plan.again_at), (vec!["status".to_owned()], Some(at(1010))));
    // Beyond its limit the index has failed, and the others go on.
    let pods = [("a", "fail index=0 failures=1"), ("b", "run index=1"), ("c", "run index=2")];
    let gone = look(spec(1), json!({}), &pods);
    assert_eq!(
        (gone.steps, &gone.status["failedIndexes"]),
        (vec!["status".to_owned(), "free a".to_owned()], &"0".into())
    );
    let all = json!({"failedIndexes": "0", "completedIndexes": "1,2"});
    check_verdict(spec(1), all, &[], &[("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]);
    let mut most = spec(1);
    most["maxFailedIndexes"] = 1.into();
    check_verdict(
        most,
        json!({"failedIndexes": "0,1"}),
        &[("c", "run index=2")],
        &[("FailureTarget", "MaxFailedIndexesExceeded")],
    );
}

#[test]
fn policies_judge_failures_and_successes() {
    let policy = |action: &str| {
        json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
            {"action": action, "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]}})
    };
    check_verdict(
        policy("FailJob"),
        json!({}),
        &[("a", "fail code=42")],
        &[("FailureTarget", "PodFailurePolicy")],
    );
    check_verdict(policy("Ignore"), json!({}), &[("a", "fail code=42")], &[]);
    check_verdict(
        policy("Ignore"),
        json!({}),
        &[("a", "fail code=41")],
        &[("FailureTarget", "BackoffLimitExceeded")],
    );
    check_verdict(
        policy("Count"),
        json!({}),
        &[("a", "fail code=42")],
        &[("FailureTarget", "BackoffLimitExceeded")],
    );
    let failed = look(policy("FailJob"), json!({}), &[("a", "fail code=42")]).status;
    assert_eq!(
        failed["conditions"][0]["message"],
        "Container c for pod d/a failed with exit code 42 matching FailJob rule at index 0"
    );
    // With a policy, a pod on its way out has not failed yet, and is not replaced yet.
    check(policy("FailJob"), json!({}), &[("a", "run leaving")], &[]);
    check(json!({}), json!({}), &[("a", "run leaving")], &["free a"]);

    let success = |rule: Value| indexed(4, json!({"successPolicy": {"rules": [rule]}}));
    let met = [("SuccessCriteriaMet", "SuccessPolicy")];
    let some = || json!({"completedIndexes": "0,2"});
    let rest = [("b", "run index=1"), ("d", "run index=3")];
    check_verdict(success(json!({"succeededIndexes": "0,2"})), some(), &rest, &met);
    check_verdict(success(json!({"succeededIndexes": "0-2"})), some(), &rest, &[]);
    check_verdict(success(json!({"succeededIndexes": "0-3", "succeededCount": 2})), some(), &rest, &met);
    check_verdict(success(json!({"succeededCount": 3})), some(), &rest, &[]);
    check(
        success(json!({"succeededCount": 2})),
        some(),
        &rest,
        &["free b", "free d", "delete b", "delete d"],
    );
}

#[test]
fn a_job_is_held_back_let_go_on_and_forgotten() {
    let suspended = look(json!({"suspend": true}), json!({}), &[]);
    assert_eq!(suspended.status["conditions"][0]["type"], "Suspended");
    assert_eq!(suspended.status.get("startTime"), None);
    let conditions = json!([{"type": "Suspended", "status": "True", "reason": "JobSuspended"}]);
    let resumed = look(json!({}), json!({"conditions": conditions, "startTime": stamp(1)}), &[]);
    assert_eq!(resumed.status["conditions"][0]["status"], "False");
    assert_eq!(resumed.status["startTime"], stamp(NOW));

    let done =
        json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": stamp(900)}]});
    assert_eq!(
        look(json!({"ttlSecondsAfterFinished": 101}), done.clone(), &[]).plan.again_at,
        Some(at(1001))
    );
    check(json!({"ttlSecondsAfterFinished": 100}), done.clone(), &[], &["delete j"]);
    check(json!({}), done, &[("a", "ok"), ("b", "run free")], &["free a", "delete b"]);
    check(json!({"managedBy": "a.b/c"}), json!({}), &[], &[]);
}

#[test]
fn a_pod_whose_job_is_gone_is_let_go() {
    let mut objects = vec![pod("a", "run"), pod("b", "run free")];
    let orphan = |objects: &[Object], name: &str| {
        reconcile_orphan(&seen(objects.to_vec()), &Key::new("d", name)).actions.len()
    };
    assert_eq!((orphan(&objects, "a"), orphan(&objects, "b")), (1, 0));
    objects.push(job(json!({}), json!({})));
    assert_eq!(orphan(&objects, "a"), 0);
}
