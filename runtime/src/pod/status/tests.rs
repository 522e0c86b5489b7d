use expect_test::{Expect, expect};
use proa_sandbox::protocol;
use serde_json::json;

use super::*;
use crate::pod::observed::Outcome;

const START_SECONDS: i64 = 1_700_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START_SECONDS + seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn container(id: &str, exit: Option<(i32, &str)>, seconds: i64) -> Outcome {
    let exit = exit.map(|(code, reason)| protocol::Exit {
        signal: 0,
        code,
        reason: reason.to_owned(),
        message: String::new(),
        finished_at_ms: at(seconds).as_millisecond(),
    });
    let started_at_ms = at(1).as_millisecond();
    Outcome::Container(protocol::ContainerState { id: id.to_owned(), pid: 1, started_at_ms, exit })
}

/// What users see of a status, one line each.
fn shown(status: &PodStatus) -> String {
    let mut lines = vec![format!("phase {}", status.phase.as_deref().unwrap_or_default())];
    for condition in status.conditions.iter().flatten() {
        let words =
            [&condition.reason, &condition.message].into_iter().flatten().cloned().collect::<Vec<_>>();
        lines
            .push(format!("{} {} {}", condition.type_, condition.status, words.join(": ")).trim().to_owned());
    }
    let lists = [&status.init_container_statuses, &status.container_statuses];
    for one in lists.into_iter().flatten().flatten() {
        let value = |state: &Option<ContainerState>| serde_json::to_string(state).unwrap();
        lines.push(format!(
            "{} ready={} started={:?} restarts={} {} {}\n  last {}",
            one.name,
            one.ready,
            one.started.unwrap_or_default(),
            one.restart_count,
            one.container_id.as_deref().unwrap_or("-"),
            value(&one.state),
            value(&one.last_state),
        ));
    }
    lines.join("\n")
}

fn check(pod: &Pod, outcomes: Vec<Outcome>, now: i64, expected: Expect) {
    let mut seen = PodObserved::new(pod, at(0));
    for outcome in outcomes {
        seen.apply(pod, outcome, at(1));
    }
    expected.assert_eq(&shown(&status(pod, &seen, [192, 0, 2, 1].into(), at(now))));
}

fn up() -> Outcome {
    Outcome::SandboxUp([10, 42, 0, 2].into())
}

#[test]
fn before_anything_runs() {
    check(
        &pod(json!({"containers": [{"name": "c", "image": "i"}]})),
        vec![],
        0,
        expect![[r#"
            phase Pending
            PodReadyToStartContainers False
            Initialized True
            Ready False ContainersNotReady: containers with unready status: [c]
            ContainersReady False ContainersNotReady: containers with unready status: [c]
            PodScheduled True
            c ready=false started=false restarts=0 - {"waiting":{"reason":"ContainerCreating"}}
              last null"#]],
    );
}

#[test]
fn running_and_initializing() {
    check(
        &pod(json!({"containers": [{"name": "c", "image": "i"}]})),
        vec![up(), container("c-0", None, 0)],
        2,
        expect![[r#"
            phase Running
            PodReadyToStartContainers True
            Initialized True
            Ready True
            ContainersReady True
            PodScheduled True
            c ready=true started=true restarts=0 proa://u/c-0 {"running":{"startedAt":"2023-11-14T22:13:21Z"}}
              last null"#]],
    );
    check(
        &pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c", "readinessProbe": {}}]})),
        vec![up(), container("i-0", None, 0)],
        2,
        expect![[r#"
            phase Pending
            PodReadyToStartContainers True
            Initialized False ContainersNotInitialized: containers with incomplete status: [i]
            Ready False ContainersNotReady: containers with unready status: [c]
            ContainersReady False ContainersNotReady: containers with unready status: [c]
            PodScheduled True
            i ready=false started=true restarts=0 proa://u/i-0 {"running":{"startedAt":"2023-11-14T22:13:21Z"}}
              last null
            c ready=false started=false restarts=0 - {"waiting":{"reason":"PodInitializing"}}
              last null"#]],
    );
}

#[test]
fn ended_pods() {
    check(
        &pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}]})),
        vec![up(), container("c-0", Some((0, "Completed")), 5)],
        6,
        expect![[r#"
            phase Succeeded
            PodReadyToStartContainers True
            Initialized True PodCompleted
            Ready False PodCompleted
            ContainersReady False PodCompleted
            PodScheduled True
            c ready=false started=false restarts=0 proa://u/c-0 {"terminated":{"containerID":"proa://u/c-0","exitCode":0,"finishedAt":"2023-11-14T22:13:25Z","reason":"Completed","startedAt":"2023-11-14T22:13:21Z"}}
              last null"#]],
    );
    check(
        &pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}, {"name": "d"}]})),
        vec![up(), container("c-0", Some((3, "Error")), 5), container("d-0", Some((0, "Completed")), 5)],
        6,
        expect![[r#"
            phase Failed
            PodReadyToStartContainers True
            Initialized True
            Ready False PodFailed
            ContainersReady False PodFailed
            PodScheduled True
            c ready=false started=false restarts=0 proa://u/c-0 {"terminated":{"containerID":"proa://u/c-0","exitCode":3,"finishedAt":"2023-11-14T22:13:25Z","reason":"Error","startedAt":"2023-11-14T22:13:21Z"}}
              last null
            d ready=false started=false restarts=0 proa://u/d-0 {"terminated":{"containerID":"proa://u/d-0","exitCode":0,"finishedAt":"2023-11-14T22:13:25Z","reason":"Completed","startedAt":"2023-11-14T22:13:21Z"}}
              last null"#]],
    );
}

#[test]
fn crash_loop() {
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let mut seen = PodObserved::new(&pod, at(0));
    seen.apply(&pod, up(), at(1));
    seen.apply(&pod, container("c-0", Some((1, "Error")), 2), at(2));
    seen.begin_start("c", at(2));
    seen.apply(&pod, container("c-1", Some((2, "Error")), 4), at(4));
    expect![[r#"
        phase Running
        PodReadyToStartContainers True
        Initialized True
        Ready False ContainersNotReady: containers with unready status: [c]
        ContainersReady False ContainersNotReady: containers with unready status: [c]
        PodScheduled True
        c ready=false started=false restarts=1 proa://u/c-1 {"waiting":{"message":"back-off 10s restarting failed container=c pod=p_n(u)","reason":"CrashLoopBackOff"}}
          last {"terminated":{"containerID":"proa://u/c-1","exitCode":2,"finishedAt":"2023-11-14T22:13:24Z","reason":"Error","startedAt":"2023-11-14T22:13:21Z"}}"#]]
    .assert_eq(&shown(&status(&pod, &seen, [192, 0, 2, 1].into(), at(5))));
}

#[test]
fn an_agent_that_comes_back_goes_on_where_it_was() {
    let mut pod = pod(json!({"containers": [{"name": "c"}]}));
    let mut seen = PodObserved::new(&pod, at(0));
    for outcome in [up(), container("c-0", Some((1, "Error")), 2), container("c-1", None, 0)] {
        seen.apply(&pod, outcome, at(2));
    }
    let before = status(&pod, &seen, [192, 0, 2, 1].into(), at(3));
    pod.status = Some(before.clone());
    let mut seen = PodObserved::new(&pod, at(60));
    let state = protocol::ContainerState {
        id: "c-1".to_owned(),
        pid: 1,
        started_at_ms: at(1).as_millisecond(),
        exit: None,
    };
    seen.adopt(&pod, [10, 42, 0, 2].into(), &[state], at(60));
    let after = status(&pod, &seen, [192, 0, 2, 1].into(), at(60));
    let value = |status: &PodStatus| serde_json::to_value(status).unwrap();
    assert_eq!(merge_patch(&value(&before), &value(&after)), None);
    assert_eq!(crate::pod::plan::plan(&pod, &seen, at(60)).actions, [crate::pod::plan::Action::SetUpVolumes]);
}

#[test]
fn merge_patches() {
    for (old, new, patch) in [
        (json!({"a": 1}), json!({"a": 1}), None),
        (
            json!({"a": 1, "b": {"c": [1]}}),
            json!({"b": {"c": [2]}}),
            Some(json!({"b": {"c": [2]}, "a": null})),
        ),
        (json!({}), json!({"x": {"y": 1}}), Some(json!({"x": {"y": 1}}))),
    ] {
        assert_eq!(merge_patch(&old, &new), patch);
    }
}
