//! The walk-throughs of the Kubernetes documentation for Jobs and CronJobs, in short, with a real
//! kubectl: what users read there is what they see here.

mod cluster;

use cluster::Cluster;
use cluster::workload::{SLEEP, events_have, template, word};
use serde_json::Value;

/// Ends at once with a failure when it is told to stop.
const FAILS_ON_TERM: &str = "trap 'exit 1' TERM; /bin/busybox sleep 1000 & wait";

fn job(cluster: &Cluster, name: &str, spec: &str, script: &str) {
    let template = template("kind: task", "Never", script);
    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{spec}template: {template}}}\n"
    ));
}

/// Waits for a condition of a Job; its status.
fn done(cluster: &Cluster, name: &str, condition: &str) -> Value {
    let condition = format!("--for=condition={condition}");
    cluster.kubectl(&["wait", &condition, &format!("job/{name}"), "--timeout=60s"]);
    cluster.get("job", name)["status"].clone()
}

/// Reason and message of a condition that holds.
fn why(status: &Value, type_: &str) -> (String, String) {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|c| c["type"] == type_ && c["status"] == "True");
    let found = found.unwrap_or_else(|| panic!("{type_} does not hold: {status}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

/// Pods of a Job that are not on their way out.
fn pods(cluster: &Cluster, name: &str) -> Vec<Value> {
    let mut pods = cluster.list("pod", &format!("batch.kubernetes.io/job-name={name}"));
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn runs(cluster: &Cluster, name: &str, count: usize) {
    cluster.wait(&format!("{count} pods of {name} to run"), || {
        let pods = pods(cluster, name);
        pods.len() == count && pods.iter().all(|pod| pod["status"]["phase"] == "Running")
    });
}

/// <https://kubernetes.io/docs/concepts/workloads/controllers/job/> and the task pages on indexed
/// Jobs and pod failure policies.
#[test]
fn jobs_run_to_completion_or_fail() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let job = |name: &str, spec: &str, script: &str| job(&cluster, name, spec, script);
    let done = |name: &str, condition: &str| done(&cluster, name, condition);
    // The second attempt comes after a pause of ten seconds: time for everything else.
    job("tries", "backoffLimit: 1, ", "exit 1");
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

    let status = done("tries", "failed");
    assert_eq!(status["failed"], 2);
    assert_eq!(why(&status, "Failed").0, "BackoffLimitExceeded");
    events_have(&cluster, "tries", "BackoffLimitExceeded");

    job("brief", "ttlSecondsAfterFinished: 0, ", "echo gone");
    cluster.wait("the Job to be forgotten", || {
        cluster.get("job", "brief").is_null() && cluster.list("pod", "job-name=brief").is_empty()
    });
    cluster.kubectl(&["delete", "job", "--all"]);
    cluster.wait("the pods to follow", || cluster.list("pod", "kind=task").is_empty());
    cluster.kubectl(&["create", "job", "short", "--image=hello-container:1", "--", "/bin/busybox", "true"]);
    done("short", "complete");
}

/// <https://kubernetes.io/docs/tasks/job/indexed-parallel-processing-static/>, and limits, policies
/// and sizes by index on the page on Jobs.
#[test]
fn indexes_have_their_own_work_and_their_own_limits() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let shell = "image: 'hello-container:1', command: [/bin/busybox, sh, -c]";
    let input = "volumeMounts: [{mountPath: /input, name: input}]";
    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: indexed-job}}\nspec:\n  completions: 5\n  parallelism: 3\n  \
         completionMode: Indexed\n  template:\n    spec:\n      restartPolicy: Never\n      \
         volumes: [{{name: input, emptyDir: {{}}}}]\n      initContainers:\n      - {{name: input, {shell}, {input}, args: \
         [\"set -- foo bar baz qux xyz; shift $JOB_COMPLETION_INDEX; echo $1 > /input/data.txt\"]}}\n      containers:\n      \
         - {{name: worker, {shell}, {input}, args: [\"/bin/busybox rev /input/data.txt\"]}}\n"
    ));
    let even_fail = "/bin/busybox test $((JOB_COMPLETION_INDEX % 2)) = 1";
    let indexed = |name: &str, spec: &str, script: &str| {
        job(&cluster, name, &format!("completionMode: Indexed, {spec}"), script);
    };
    indexed(
        "per-index",
        "completions: 4, parallelism: 4, backoffLimitPerIndex: 0, maxFailedIndexes: 3, ",
        even_fail,
    );
    indexed(
        "too-many",
        "completions: 3, parallelism: 3, backoffLimitPerIndex: 0, maxFailedIndexes: 1, ",
        "exit 1",
    );
    indexed(
        "fail-index",
        "completions: 2, parallelism: 2, backoffLimitPerIndex: 1, \
         podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [42]}}]}, ",
        "/bin/busybox test $JOB_COMPLETION_INDEX = 1 || exit 42",
    );
    indexed(
        "leader",
        "completions: 3, parallelism: 3, successPolicy: {rules: [{succeededIndexes: '0', succeededCount: 1}]}, ",
        &format!("/bin/busybox test $JOB_COMPLETION_INDEX = 0 && exit 0; {SLEEP}"),
    );
    indexed("elastic", "completions: 1, parallelism: 1, ", SLEEP);

    let status = done(&cluster, "indexed-job", "complete");
    assert_eq!((&status["completedIndexes"], &status["succeeded"]), (&"0-4".into(), &5.into()));
    for (index, reversed) in ["oof", "rab", "zab", "xuq", "zyx"].iter().enumerate() {
        let selector = format!(
            "batch.kubernetes.io/job-name=indexed-job,batch.kubernetes.io/job-completion-index={index}"
        );
        assert_eq!(cluster.kubectl(&["logs", "-l", &selector, "-c", "worker"]), format!("{reversed}\n"));
    }
    let described = cluster.kubectl(&["describe", "jobs/indexed-job"]);
    assert!(described.contains("Completed Indexes:  0-4"), "{described}");
    assert!(described.contains("0 Active (0 Ready) / 5 Succeeded / 0 Failed"), "{described}");

    let status = done(&cluster, "per-index", "failed");
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&"1,3".into(), &"0,2".into()));
    assert_eq!(why(&status, "Failed"), ("FailedIndexes".into(), "Job has failed indexes".into()));
    let status = done(&cluster, "too-many", "failed");
    let text = "Job has exceeded the specified maximal number of failed indexes";
    assert_eq!(why(&status, "Failed"), ("MaxFailedIndexesExceeded".into(), text.into()));
    let status = done(&cluster, "fail-index", "failed");
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"], &status["failed"]),
        (&"1".into(), &"0".into(), &1.into())
    );

    // One index decides for all: the others are ended.
    let status = done(&cluster, "leader", "complete");
    assert_eq!(why(&status, "Complete"), ("SuccessPolicy".into(), "Matched rules at index 0".into()));
    assert_eq!(why(&status, "SuccessCriteriaMet").0, "SuccessPolicy");
    assert_eq!((&status["succeeded"], &status["completedIndexes"]), (&1.into(), &"0".into()));

    // An indexed Job grows and shrinks when both numbers change together.
    runs(&cluster, "elastic", 1);
    let size = |n: u32| format!(r#"{{"spec":{{"completions":{n},"parallelism":{n}}}}}"#);
    cluster.kubectl(&["patch", "job", "elastic", "-p", &size(3)]);
    runs(&cluster, "elastic", 3);
    cluster.kubectl(&["patch", "job", "elastic", "-p", &size(2)]);
    runs(&cluster, "elastic", 2);
    let refused = cluster.kubectl_fails(&["patch", "job", "elastic", "-p", r#"{"spec":{"completions":4}}"#]);
    assert!(refused.contains("can only be modified in tandem with spec.parallelism"), "{refused}");
}

/// <https://kubernetes.io/docs/tasks/job/pod-failure-policy/#using-pod-failure-policy-to-ignore-pod-disruptions>,
/// and suspending and managing by others on the page on Jobs.
#[test]
fn jobs_stand_disruptions_and_pauses() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let ignore = "backoffLimit: 0, podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}, ";
    job(&cluster, "ignores", ignore, FAILS_ON_TERM);
    job(&cluster, "counts", "backoffLimit: 0, ", FAILS_ON_TERM);
    job(&cluster, "pauses", "parallelism: 2, completions: 2, ", FAILS_ON_TERM);
    job(&cluster, "foreign", "managedBy: example.com/mine, ", "echo never");
    for (name, count) in [("ignores", 1), ("counts", 1), ("pauses", 2)] {
        runs(&cluster, name, count);
    }

    // A Job that is suspended loses its pods, and that is no failure.
    let suspend = |yes: bool| format!(r#"{{"spec":{{"suspend":{yes}}}}}"#);
    cluster.kubectl(&["patch", "job", "pauses", "-p", &suspend(true)]);
    assert_eq!(why(&done(&cluster, "pauses", "Suspended"), "Suspended").0, "JobSuspended");
    cluster.wait("its pods to go", || {
        let status = cluster.get("job", "pauses")["status"].clone();
        pods(&cluster, "pauses").is_empty() && status["active"].as_i64().unwrap_or(0) == 0
    });
    let status = cluster.get("job", "pauses")["status"].clone();
    assert_eq!(status["failed"].as_i64().unwrap_or(0), 0, "{status}");
    assert_eq!(word(&cluster.kubectl(&["get", "job", "pauses"]), 1, 1), "Suspended");
    events_have(&cluster, "pauses", "Suspended");
    cluster.kubectl(&["patch", "job", "pauses", "-p", &suspend(false)]);
    runs(&cluster, "pauses", 2);
    events_have(&cluster, "pauses", "Resumed");
    assert!(cluster.get("job", "pauses")["status"]["startTime"].is_string());
    cluster.kubectl(&["delete", "job", "pauses"]);

    let node = cluster.kubectl(&["get", "node", "-o", "name"]).trim().replace("node/", "");
    let before = pods(&cluster, "ignores")[0]["metadata"]["uid"].clone();
    cluster.kubectl(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"]);
    let status = done(&cluster, "counts", "failed");
    assert_eq!((&status["failed"], why(&status, "Failed").0.as_str()), (&1.into(), "BackoffLimitExceeded"));
    cluster.kubectl(&["uncordon", &node]);
    runs(&cluster, "ignores", 1);
    assert_ne!(pods(&cluster, "ignores")[0]["metadata"]["uid"], before);
    let status = cluster.get("job", "ignores")["status"].clone();
    assert!(status["failed"].as_i64().unwrap_or(0) == 0 && status["conditions"].is_null(), "{status}");

    // Somebody else's Job has been left alone all the time.
    assert!(pods(&cluster, "foreign").is_empty());
    assert_eq!(cluster.get("job", "foreign")["status"], serde_json::json!({}));
    let refused = cluster.kubectl_fails(&[
        "patch",
        "job",
        "foreign",
        "-p",
        r#"{"spec":{"managedBy":"example.com/x"}}"#,
    ]);
    assert!(
        refused.contains("spec.managedBy: Invalid value: \"example.com/x\": field is immutable"),
        "{refused}"
    );
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

/// Policies, deadlines and zones of <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>.
/// Times that were missed stand for waiting for the next one.
#[test]
fn cron_jobs_catch_up_by_their_policies() {
    const LEAP_DAY: &str = "0 0 29 2 *";
    const SUNDAYS: &str = "0 0 * * 0";
    let cluster = Cluster::start();
    cluster.pack_examples();
    let cron_job = |name: &str, schedule: &str, spec: &str| {
        format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: {name}}}\nspec: {{schedule: '{schedule}', {spec}\
             jobTemplate: {{spec: {{template: {}}}}}}}\n---\n",
            template("kind: task", "Never", SLEEP)
        )
    };
    let patch = |name: &str, spec: &str| {
        cluster.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", &format!(r#"{{"spec":{spec}}}"#)]);
    };
    let miss = |name: &str| {
        let since = r#"{"status":{"lastScheduleTime":"2020-01-01T00:00:00Z"}}"#;
        cluster.kubectl(&["patch", "cronjob", name, "--subresource=status", "--type=merge", "-p", since]);
    };
    let jobs = |name: &str| -> Vec<Value> {
        let text = cluster.kubectl(&["get", "jobs", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let mut jobs = list["items"].as_array().cloned().unwrap_or_default();
        jobs.retain(|job| {
            job["metadata"]["ownerReferences"][0]["name"] == name
                && job["metadata"]["deletionTimestamp"].is_null()
        });
        jobs
    };
    let has = |name: &str, count: usize| {
        cluster.wait(&format!("{count} Jobs of {name}"), || jobs(name).len() == count);
    };
    let is = |job: &Value| job["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let manifests = [
        cron_job("allow", LEAP_DAY, ""),
        cron_job("forbid", LEAP_DAY, "concurrencyPolicy: Forbid, "),
        cron_job("replace", LEAP_DAY, "concurrencyPolicy: Replace, "),
        cron_job("paused", SUNDAYS, "suspend: true, "),
        cron_job("deadline", LEAP_DAY, "startingDeadlineSeconds: 10, "),
        cron_job("zone", LEAP_DAY, "timeZone: Asia/Kolkata, "),
    ];
    cluster.apply(&manifests.concat());
    let table = cluster.kubectl(&["get", "cronjobs", "zone", "paused"]);
    assert_eq!(
        table.lines().next().unwrap_or_default().split_whitespace().take(5).collect::<Vec<_>>(),
        ["NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE"]
    );
    assert!(table.contains("Asia/Kolkata") && table.contains("<none>"), "{table}");
    ["paused", "deadline", "allow", "forbid", "replace", "zone"].iter().for_each(|name| miss(name));
    ["allow", "forbid", "replace", "zone"].iter().for_each(|name| has(name, 1));
    let scheduled =
        &jobs("zone")[0]["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert!(scheduled.as_str().is_some_and(|at| at.ends_with("-02-29T00:00:00+05:30")), "{scheduled}");

    // The next time comes while the Job of the last one runs.
    let first = |name: &str| is(&jobs(name)[0]);
    let (kept, replaced) = (first("forbid"), first("replace"));
    for name in ["allow", "forbid", "replace"] {
        patch(name, &format!(r#"{{"schedule":"{SUNDAYS}"}}"#));
    }
    has("allow", 2);
    cluster.wait("both to be active", || {
        cluster.get("cronjob", "allow")["status"]["active"].as_array().is_some_and(|active| active.len() == 2)
    });
    events_have(&cluster, "forbid", "JobAlreadyActive");
    assert_eq!(jobs("forbid").iter().map(is).collect::<Vec<_>>(), [kept.as_str()]);
    cluster.wait("the new one alone", || {
        let jobs = jobs("replace");
        jobs.len() == 1 && is(&jobs[0]) != replaced
    });
    events_have(&cluster, "replace", "SuccessfulDelete");
    // Forbid only puts it off: it is late, and there is no deadline.
    cluster.kubectl(&["delete", "job", &kept]);
    cluster.wait("the one that was held back", || jobs("forbid").iter().any(|job| is(job) != kept));

    // Nothing has come of those that are suspended or too late; one is started by hand.
    assert!(jobs("paused").is_empty() && jobs("deadline").is_empty());
    cluster.kubectl(&["create", "job", "by-hand", "--from=cronjob/deadline"]);
    let by_hand = cluster.get("job", "by-hand");
    assert_eq!(by_hand["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"], "manual");
    has("deadline", 1);
    patch("paused", r#"{"suspend":false}"#);
    has("paused", 1);
    events_have(&cluster, "paused", "TooManyMissedTimes");
    patch("deadline", r#"{"startingDeadlineSeconds":null}"#);
    has("deadline", 2);

    for (spec, error) in [
        (
            r#"{"concurrencyPolicy":"Maybe"}"#,
            "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
        ),
        (r#"{"schedule":"TZ=UTC 0 0 * * *"}"#, "cannot use TZ or CRON_TZ in schedule"),
        (
            r#"{"schedule":"0 0 * *"}"#,
            "spec.schedule: Invalid value: \"0 0 * *\": expected exactly 5 fields, found 4",
        ),
    ] {
        let patch = format!(r#"{{"spec":{spec}}}"#);
        let refused = cluster.kubectl_fails(&["patch", "cronjob", "allow", "--type=merge", "-p", &patch]);
        assert!(refused.contains(error), "{refused}");
    }
    cluster.kubectl(&["delete", "cronjob", "--all"]);
    cluster.wait("their Jobs and pods to go", || {
        cluster.kubectl(&["get", "jobs", "-o", "name"]).is_empty()
            && cluster.list("pod", "kind=task").is_empty()
    });
}
