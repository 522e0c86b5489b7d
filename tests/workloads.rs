//! The walk-throughs of the Kubernetes documentation for each workload, in short, with a real
//! kubectl: what users read there is what they see here.

mod cluster;

use cluster::Cluster;

/// A pod template that runs a shell script in the example container.
fn template(labels: &str, policy: &str, script: &str) -> String {
    format!(
        "{{metadata: {{labels: {{{labels}}}}}, spec: {{restartPolicy: {policy}, terminationGracePeriodSeconds: 1, \
         containers: [{{name: c, image: 'hello-container:1', command: [/bin/busybox, sh, -c], args: [\"{script}\"]}}]}}}}"
    )
}

const SLEEP: &str = "trap exit TERM; while true; do /bin/busybox sleep 0.1; done";

fn events_have(cluster: &Cluster, object: &str, reason: &str) {
    let field = format!("involvedObject.name={object},reason={reason}");
    cluster.wait(&format!("the Event {reason} of {object}"), || {
        cluster.kubectl(&["get", "events", "--field-selector", &field, "-o", "name"]).contains("event/")
    });
}

fn word(table: &str, row: usize, column: usize) -> &str {
    let line = table.lines().nth(row).unwrap_or_default();
    line.split_whitespace().nth(column).unwrap_or_default()
}

/// <https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/> and `rollback-daemon-set`.
#[test]
fn a_daemon_set_is_updated_and_rolled_back() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let manifest = |image: &str| {
        let template = template("name: agent", "Always", SLEEP).replace("hello-container:1", image);
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec:\n  selector: {{matchLabels: {{name: agent}}}}\n  template: {template}\n"
        )
    };
    cluster.apply(&manifest("hello-container:1"));
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    let table = cluster.kubectl(&["get", "ds", "agent"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(
        header,
        ["NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE", "SELECTOR", "AGE"]
    );
    assert_eq!((word(&table, 1, 1), word(&table, 1, 5)), ("1", "1"), "{table}");
    events_have(&cluster, "agent", "SuccessfulCreate");

    // The same image under another name is another template.
    let first = cluster.list("pod", "name=agent")[0]["metadata"]["uid"].clone();
    cluster.kubectl(&["set", "env", "ds/agent", "LEVEL=debug"]);
    cluster.kubectl(&["annotate", "ds/agent", "kubernetes.io/change-cause=level debug"]);
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    let pods = cluster.list("pod", "name=agent");
    assert!(pods.len() == 1 && pods[0]["metadata"]["uid"] != first, "{pods:?}");
    let history = cluster.kubectl(&["rollout", "history", "ds/agent"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert!(cluster.kubectl(&["rollout", "history", "ds/agent", "--revision=2"]).contains("LEVEL"));
    cluster.kubectl(&["rollout", "undo", "ds/agent", "--to-revision=1"]);
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    let container = &cluster.get("ds", "agent")["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("env").is_none(), "{container}");
    let history = cluster.kubectl(&["rollout", "history", "ds/agent"]);
    assert!(history.contains("\n2 ") && history.contains("\n3 ") && !history.contains("\n1 "), "{history}");
    assert_eq!(word(&cluster.kubectl(&["get", "controllerrevisions"]), 1, 1), "daemonset.apps/agent");

    // A node that is not fit loses its pod, and gets it back.
    cluster.kubectl(&[
        "patch",
        "ds",
        "agent",
        "-p",
        r#"{"spec":{"template":{"spec":{"nodeSelector":{"ssd":"yes"}}}}}"#,
    ]);
    cluster.wait("the pod to leave", || cluster.list("pod", "name=agent").is_empty());
    cluster.kubectl(&["label", "node", "--all", "ssd=yes"]);
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    cluster.wait("the pod to come back", || cluster.get("ds", "agent")["status"]["numberAvailable"] == 1);
    cluster.kubectl(&["delete", "ds", "agent"]);
    cluster.wait("everything to go", || {
        cluster.list("pod", "name=agent").is_empty()
            && cluster.list("controllerrevision", "name=agent").is_empty()
    });
}

/// <https://kubernetes.io/docs/concepts/workloads/controllers/job/> and the task pages on indexed
/// Jobs and pod failure policies.
#[test]
fn jobs_run_to_completion_or_fail() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let job = |name: &str, spec: &str, script: &str| {
        let template = template("kind: task", "Never", script);
        cluster.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{spec}template: {template}}}\n"
        ));
    };
    let done = |name: &str, condition: &str| {
        let condition = format!("--for=condition={condition}");
        cluster.kubectl(&["wait", &condition, &format!("job/{name}"), "--timeout=60s"]);
        cluster.get("job", name)["status"].clone()
    };
    job("pi", "completions: 3, parallelism: 2, ", "echo 3.14");
    let status = done("pi", "complete");
    assert_eq!(
        (&status["succeeded"], &status["uncountedTerminatedPods"]),
        (&3.into(), &serde_json::json!({}))
    );
    assert_eq!(cluster.kubectl(&["logs", "job/pi"]), "3.14\n");
    let table = cluster.kubectl(&["get", "jobs"]);
    assert_eq!((word(&table, 1, 1), word(&table, 1, 2)), ("Complete", "3/3"), "{table}");
    events_have(&cluster, "pi", "Completed");
    let held = cluster.list("pod", "job-name=pi");
    assert!(held.iter().all(|p| p["metadata"].get("finalizers").is_none()), "{held:?}");

    job(
        "index",
        "completionMode: Indexed, completions: 3, parallelism: 3, ",
        "echo $JOB_COMPLETION_INDEX $HOSTNAME",
    );
    assert_eq!(done("index", "complete")["completedIndexes"], "0-2");
    let pod = &cluster.list("pod", "batch.kubernetes.io/job-completion-index=1")[0];
    let name = pod["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("index-1-"), "{name}");
    assert_eq!(cluster.kubectl(&["logs", name]), "1 index-1\n");

    job("bad", "backoffLimit: 0, ", "exit 3");
    let status = done("bad", "failed");
    assert_eq!((&status["failed"], status.get("succeeded")), (&1.into(), None));
    assert!(cluster.kubectl(&["describe", "job", "bad"]).contains("BackoffLimitExceeded"));

    let policy =
        "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}, ";
    job("policy", policy, "exit 42");
    let conditions = done("policy", "failed")["conditions"].to_string();
    assert!(conditions.contains("failed with exit code 42 matching FailJob rule at index 0"), "{conditions}");

    job("late", "activeDeadlineSeconds: 1, ", SLEEP);
    assert!(done("late", "failed")["conditions"].to_string().contains("DeadlineExceeded"));

    job("held", "suspend: true, ", "echo done");
    cluster.kubectl(&["wait", "--for=condition=Suspended", "job/held", "--timeout=60s"]);
    assert!(cluster.list("pod", "job-name=held").is_empty());
    cluster.kubectl(&["patch", "job", "held", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    done("held", "complete");

    job("brief", "ttlSecondsAfterFinished: 0, ", "echo gone");
    cluster.wait("the Job to be forgotten", || {
        cluster.get("job", "brief").is_null() && cluster.list("pod", "job-name=brief").is_empty()
    });
    cluster.kubectl(&["delete", "job", "--all"]);
    cluster.wait("the pods to follow", || cluster.list("pod", "kind=task").is_empty());
    cluster.kubectl(&["create", "job", "short", "--image=hello-container:1", "--", "/bin/busybox", "true"]);
    done("short", "complete");
}

/// <https://kubernetes.io/docs/tasks/job/automated-tasks-with-cron-jobs/>.
#[test]
fn a_cron_job_starts_jobs_by_the_clock_and_by_hand() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let said = cluster.kubectl(&[
        "create",
        "cronjob",
        "hello",
        "--image=hello-container:1",
        "--schedule=@every 2s",
        "--",
        "/bin/busybox",
        "echo",
        "hello",
    ]);
    assert_eq!(said, "cronjob.batch/hello created\n");
    cluster.wait("two runs, with those before cleared away", || {
        let table = cluster.kubectl(&["get", "jobs", "--no-headers"]);
        table.lines().filter(|l| l.starts_with("hello-") && l.contains("Complete")).count() >= 1
    });
    events_have(&cluster, "hello", "SuccessfulCreate");
    events_have(&cluster, "hello", "SawCompletedJob");
    assert!(cluster.get("cronjob", "hello")["status"]["lastSuccessfulTime"].is_string());
    cluster.kubectl(&["patch", "cronjob", "hello", "-p", r#"{"spec":{"suspend":true}}"#]);
    let table = cluster.kubectl(&["get", "cronjob", "hello"]);
    assert!(table.contains("@every 2s") && table.contains("True"), "{table}");

    cluster.kubectl(&["create", "job", "manual", "--from=cronjob/hello"]);
    cluster.kubectl(&["wait", "--for=condition=complete", "job/manual", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["logs", "job/manual"]), "hello\n");
    let zone =
        cluster.kubectl_fails(&["patch", "cronjob", "hello", "-p", r#"{"spec":{"timeZone":"Moon/Base"}}"#]);
    assert!(zone.contains("unknown time zone Moon/Base"), "{zone}");
    cluster.kubectl(&["delete", "cronjob", "hello"]);
    cluster.wait("its Jobs to go", || cluster.get("job", "manual").is_null());
}

/// <https://kubernetes.io/docs/tutorials/stateful-application/basic-stateful-set/>, without storage.
#[test]
fn a_stateful_set_keeps_its_names_and_its_order() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let template = template("app: nginx", "Always", SLEEP);
    let manifest = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: nginx}}\nspec: {{clusterIP: None, selector: {{app: nginx}}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: web}}\nspec: {{serviceName: nginx, replicas: 2, \
         selector: {{matchLabels: {{app: nginx}}}}, template: {template}}}\n"
    );
    cluster.apply(&manifest);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    let names = || -> Vec<String> {
        let name = |p: &serde_json::Value| p["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        cluster.list("pod", "app=nginx").iter().map(name).collect()
    };
    assert_eq!(names(), ["web-0", "web-1"]);
    let pods = cluster.list("pod", "app=nginx");
    assert!(
        pods[0]["metadata"]["creationTimestamp"].as_str()
            <= pods[1]["metadata"]["creationTimestamp"].as_str()
    );
    assert_eq!(
        (&pods[1]["spec"]["hostname"], &pods[1]["spec"]["subdomain"]),
        (&"web-1".into(), &"nginx".into())
    );
    let slices =
        cluster.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=nginx", "-o", "yaml"]);
    assert!(slices.contains("hostname: web-0") && slices.contains("hostname: web-1"), "{slices}");
    assert_eq!(word(&cluster.kubectl(&["get", "sts", "web"]), 1, 1), "2/2");

    // A pod that is deleted comes back under its name.
    let before = pods[0]["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", "pod", "web-0"]);
    cluster.wait("web-0 to come back", || {
        let pod = cluster.get("pod", "web-0");
        !pod.is_null() && pod["metadata"]["uid"] != before
    });
    cluster.kubectl(&["scale", "sts", "web", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert_eq!(names(), ["web-0", "web-1", "web-2"]);

    // A canary: only what is not below the partition is replaced.
    let partition =
        |n: u32| format!(r#"{{"spec":{{"updateStrategy":{{"rollingUpdate":{{"partition":{n}}}}}}}}}"#);
    cluster.kubectl(&["patch", "sts", "web", "-p", &partition(2)]);
    cluster.kubectl(&["set", "env", "sts/web", "LEVEL=debug"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    let has_level = |name: &str| cluster.get("pod", name)["spec"]["containers"][0].get("env").is_some();
    assert_eq!((has_level("web-1"), has_level("web-2")), (false, true));
    cluster.kubectl(&["patch", "sts", "web", "-p", &partition(0)]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert!(has_level("web-0") && has_level("web-1"));
    cluster.kubectl(&["rollout", "undo", "sts/web"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert!(!has_level("web-0") && !has_level("web-2"));

    cluster.kubectl(&["scale", "sts", "web", "--replicas=1"]);
    cluster.wait("web-2 and web-1 to go", || names() == ["web-0"]);
    let claims = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: claims}\nspec: {serviceName: nginx, \
                  selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}, \
                  volumeClaimTemplates: [{metadata: {name: www}, spec: {accessModes: [ReadWriteOnce]}}]}\n";
    let refused = cluster.kubectl_stdin(&["create", "-f", "-"], claims);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("spec.volumeClaimTemplates: Forbidden"), "{error}");
    cluster.kubectl(&["delete", "sts", "web"]);
    cluster.wait("its pods to go", || names().is_empty());
}
