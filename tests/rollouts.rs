//! The page on Deployments of the Kubernetes documentation, walked through with a real kubectl:
//! updating, a stuck roll-out, rolling back to a revision, pausing, proportional scaling, Recreate
//! and a canary by labels (<https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>).

mod cluster;

use cluster::Cluster;
use serde_json::Value;

/// An image that nobody has.
const TYPO: &str = "hello-container=hello-containr:1";
const RELEASE: &str = "hello-container=hello-container:1";

fn rolled_out(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"])
}

fn condition(deployment: &Value, type_: &str) -> (String, String) {
    let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == type_);
    let text = |field: &str| found.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// Name, wanted and ready pods of each ReplicaSet, oldest first.
fn sets(cluster: &Cluster, app: &str) -> Vec<(String, i64, i64)> {
    let mut sets = cluster.list("rs", &format!("app={app}"));
    let revision = |s: &Value| {
        let revision = s["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str();
        revision.and_then(|r| r.parse::<i64>().ok()).unwrap_or(0)
    };
    sets.sort_by_key(revision);
    let number = |v: &Value| v.as_i64().unwrap_or(0);
    sets.iter()
        .map(|s| {
            let name = s["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            (name, number(&s["spec"]["replicas"]), number(&s["status"]["readyReplicas"]))
        })
        .collect()
}

fn manifest(name: &str, replicas: u32, labels: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{{labels}}}}}\n  template:\n    metadata: {{labels: {{{labels}}}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 1\n      containers: \
         [{{name: hello-container, image: 'hello-container:1', ports: [{{containerPort: 8080}}]{more}}}]\n"
    )
}

fn create(cluster: &Cluster, name: &str, replicas: u32, labels: &str) {
    cluster.apply(&manifest(name, replicas, labels, ""));
    rolled_out(cluster, name);
}

#[test]
fn updates_stop_at_a_typo_and_go_back_to_any_revision() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    // What a Go client leaves out makes no other template of one that kubectl writes back.
    cluster.apply(&manifest("web", 3, "app: web", ", tty: false, stdin: false"));
    rolled_out(&cluster, "web");
    let table = cluster.kubectl(&["get", "deployment", "web"]);
    assert!(table.contains("3/3     3            3"), "{table}");
    let cause = |text: &str| {
        cluster.kubectl(&[
            "annotate",
            "deploy/web",
            &format!("kubernetes.io/change-cause={text}"),
            "--overwrite",
        ]);
    };
    cause("first");
    cluster.kubectl(&["set", "env", "deployment/web", "LEVEL=debug"]);
    cause("level debug");
    assert!(rolled_out(&cluster, "web").contains("successfully rolled out"));
    let scaled: Vec<i64> = sets(&cluster, "web").iter().map(|s| s.1).collect();
    assert_eq!(scaled, [0, 3], "the old ReplicaSet is kept for undo");
    let described = cluster.kubectl(&["describe", "deployment", "web"]);
    assert!(described.contains("RollingUpdateStrategy:  25% max unavailable, 25% max surge"), "{described}");
    assert!(described.contains("ScalingReplicaSet"), "{described}");

    // The roll-out of the typo stops before it costs more than it may, and says so in time.
    cluster.kubectl(&["patch", "deploy", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":3}}"#]);
    cluster.kubectl(&["set", "image", "deployment/web", TYPO]);
    cause("typo");
    cluster.wait("the deadline", || {
        condition(&cluster.get("deployment", "web"), "Progressing")
            == ("False".to_owned(), "ProgressDeadlineExceeded".to_owned())
    });
    let late = cluster.kubectl_fails(&["rollout", "status", "deployment/web"]);
    assert!(late.contains("error: deployment \"web\" exceeded its progress deadline"), "{late}");
    let states: Vec<(i64, i64)> = sets(&cluster, "web").iter().map(|s| (s.1, s.2)).collect();
    assert_eq!(states, [(0, 0), (3, 3), (1, 0)], "a quarter of three is no pod less and one more");
    assert_eq!(condition(&cluster.get("deployment", "web"), "Available").0, "True");

    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]);
    let causes: Vec<&str> = history.lines().skip(2).filter(|l| !l.is_empty()).collect();
    assert_eq!(causes.len(), 3, "{history}");
    assert!(causes[0].ends_with("first") && causes[2].ends_with("typo"), "{history}");
    let second = cluster.kubectl(&["rollout", "history", "deployment/web", "--revision=2"]);
    assert!(second.contains("LEVEL:\tdebug"), "{second}");

    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    rolled_out(&cluster, "web");
    let states: Vec<i64> = sets(&cluster, "web").iter().map(|s| s.1).collect();
    assert_eq!(states, [0, 0, 3], "the second revision is the fourth now");
    cluster.kubectl(&["rollout", "undo", "deployment/web", "--to-revision=1"]);
    rolled_out(&cluster, "web");
    let container = &cluster.get("deployment", "web")["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("env").is_none(), "{container}");
    assert_eq!(sets(&cluster, "web").len(), 3, "the first ReplicaSet serves again");
    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]);
    let revisions: Vec<&str> = history.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(revisions, ["3", "4", "5"], "{history}");

    // No history, no way back.
    cluster.kubectl(&["patch", "deploy", "web", "-p", r#"{"spec":{"revisionHistoryLimit":0}}"#]);
    cluster.wait("the old ReplicaSets to go", || sets(&cluster, "web").len() == 1);
    let error = cluster.kubectl_fails(&["rollout", "undo", "deployment/web"]);
    assert!(error.contains("no rollout history found for deployment \"web\""), "{error}");
}

#[test]
fn a_paused_roll_out_waits_and_scales_in_proportion() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    create(&cluster, "web", 10, "app: web");
    let bounds = r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":3,"maxUnavailable":2}}}}"#;
    cluster.kubectl(&["patch", "deployment", "web", "-p", bounds]);
    cluster.kubectl(&["set", "image", "deployment/web", TYPO]);
    let wanted = || sets(&cluster, "web").iter().map(|s| s.1).collect::<Vec<_>>();
    cluster.wait("the roll-out to get stuck", || wanted() == [8, 5]);
    // The documentation's own numbers: 5 more pods are shared out 3 to 2.
    cluster.kubectl(&["scale", "deployment/web", "--replicas=15"]);
    cluster.wait("a proportional share", || wanted() == [11, 7]);

    cluster.kubectl(&["rollout", "pause", "deployment/web"]);
    cluster.kubectl(&["set", "image", "deployment/web", RELEASE]);
    cluster.kubectl(&["set", "env", "deployment/web", "LEVEL=debug"]);
    cluster.wait("the pause to be seen", || {
        let web = cluster.get("deployment", "web");
        web["status"]["observedGeneration"] == web["metadata"]["generation"]
            && condition(&web, "Progressing").1 == "DeploymentPaused"
    });
    assert_eq!(wanted().len(), 2, "neither change has begun");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    cluster.kubectl(&["rollout", "resume", "deployment/web"]);
    rolled_out(&cluster, "web");
    assert_eq!(wanted().iter().sum::<i64>(), 4);
    assert_eq!(wanted().len(), 3, "two changes, one roll-out");
}

#[test]
fn recreate_never_runs_two_versions_at_once() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let level = |level: &str| {
        let env = format!(", env: [{{name: LEVEL, value: {level}}}]");
        let manifest = manifest("web", 2, "app: web", &env);
        cluster.apply(&manifest.replace("  selector:", "  strategy: {type: Recreate}\n  selector:"));
    };
    level("one");
    rolled_out(&cluster, "web");
    level("two");
    let levels = || {
        let pods = cluster.list("pod", "app=web");
        let of = |p: &Value| p["spec"]["containers"][0]["env"][0]["value"].as_str().map(str::to_owned);
        pods.iter().filter_map(of).collect::<Vec<_>>()
    };
    cluster.wait("the new pods", || {
        let levels = levels();
        let mixed = levels.iter().any(|l| l == "one") && levels.iter().any(|l| l == "two");
        assert!(!mixed, "both versions: {levels:?}");
        levels.len() == 2 && levels.iter().all(|l| l == "two")
    });
    rolled_out(&cluster, "web");
}

/// <https://kubernetes.io/docs/concepts/workloads/management/#canary-deployments>
#[test]
fn a_canary_takes_its_share_by_its_labels() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    create(&cluster, "web-stable", 3, "app: web, track: stable");
    create(&cluster, "web-canary", 1, "app: web, track: canary");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n";
    cluster.apply(service);
    let endpoints = || cluster.kubectl(&["get", "endpoints", "web", "-o", "yaml"]).matches("- ip: ").count();
    cluster.wait("both tracks behind the Service", || endpoints() == 4);
    let tracks = cluster.kubectl(&["get", "pods", "-l", "app=web", "-L", "track"]);
    assert_eq!((tracks.matches("stable\n").count(), tracks.matches("canary\n").count()), (3, 1), "{tracks}");
    // A pod whose label is taken away is released: it lives on, and another takes its place.
    let canary =
        cluster.list("pod", "track=canary")[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    cluster.kubectl(&["label", "pod", &canary, "track-"]);
    cluster.wait("a pod in its place", || cluster.list("pod", "track=canary").len() == 1);
    cluster
        .wait("it to be free", || cluster.get("pod", &canary)["metadata"].get("ownerReferences").is_none());
    cluster.kubectl(&["label", "pod", &canary, "track=canary"]);
    cluster.wait("one of the two to go", || cluster.list("pod", "track=canary").len() == 1);
    cluster.kubectl(&["delete", "deployment", "web-canary"]);
    cluster.wait("the stable ones alone", || endpoints() == 3);
}
