//! The workloads beside Deployments: what users do to them, how their pods end, and what must hold
//! of them at every step and at rest.

use std::collections::{BTreeMap, BTreeSet};

use proa_kinds::Part;
use serde_json::{Value, json};

use super::api::{reference, text};
use super::storage;
use super::{NODES, Users, World, is_ready};

/// What has been seen so far.
#[derive(Default)]
pub struct Ledger {
    /// DaemonSets that have had a ready pod on every node, by uid.
    complete: BTreeMap<String, bool>,
    /// By CronJob and name, the Job that served a time.
    served: BTreeMap<(String, String), String>,
    /// How much of the log has been looked through for that.
    read: usize,
    /// Pods of ordered sets.
    seen_pods: BTreeSet<String>,
    /// What Jobs have said, by uid.
    counts: BTreeMap<String, Counts>,
}

/// How many pods of a Job have been counted, and how many there have been at once at most.
#[derive(Clone, Copy, Default)]
struct Counts {
    succeeded: i64,
    failed: i64,
    parallelism: i64,
}

/// True for a pod that runs to an end.
pub fn is_task(pod: &Value) -> bool {
    text(pod, "/metadata/ownerReferences/0/kind") == "Job" && !has_ended(pod)
}

/// True for a pod that has run to its end.
pub fn has_ended(pod: &Value) -> bool {
    ["Failed", "Succeeded"].contains(&text(pod, "/status/phase"))
}

fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == condition && c["status"] == "True")
}

impl World {
    /// A user changes something.
    pub fn change_workload(&mut self, app: &str) {
        match self.random.below(7) {
            0..2 => self.change_daemon_set(app),
            2..4 => self.change_job(app),
            4..6 => self.change_stateful_set(app),
            _ => self.change_cron_job(app),
        }
    }

    /// Nothing is started by the clock any more, and nothing is held back.
    pub fn stop_workloads(&mut self) {
        for cron_job in self.api.list("batch/v1 CronJob").cloned().collect::<Vec<_>>() {
            let mut new = cron_job.clone();
            new["spec"]["suspend"] = true.into();
            self.api.update(&reference(&cron_job), Part::Main, new).unwrap();
        }
        for job in self.api.list("batch/v1 Job").cloned().collect::<Vec<_>>() {
            let mut new = job.clone();
            new["spec"]["suspend"] = false.into();
            new["spec"]["parallelism"] = 2.into();
            self.api.update(&reference(&job), Part::Main, new).unwrap();
        }
    }

    /// A node takes a task a step further; false if it has to be started or removed as any pod.
    pub fn play_task(&mut self, pod: &Value) -> bool {
        let leaving = pod["metadata"]["deletionTimestamp"].is_string();
        if leaving && self.random.one_in(2) || !leaving && !is_ready(pod) {
            return false;
        }
        let code = if leaving { 143 } else { [0, 0, 0, 1, 42][self.random.below(5)] };
        let mut new = pod.clone();
        new["status"]["phase"] = if code == 0 { "Succeeded" } else { "Failed" }.into();
        let ended = json!({"exitCode": code, "finishedAt": self.api.time()});
        new["status"]["containerStatuses"] = json!([{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": ended},
        }]);
        new["status"]["conditions"] =
            json!([{"type": "Ready", "status": "False", "lastTransitionTime": self.api.time()}]);
        self.api.update(&reference(pod), Part::STATUS, new).unwrap();
        true
    }

    fn change_job(&mut self, app: &str) {
        let Some(object) = self.api.get("batch/v1 Job", "default", app).cloned() else {
            let mut spec = match app {
                "a" => json!({"completions": 5, "backoffLimit": 4}),
                "b" => json!({
                    "completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1,
                    "ttlSecondsAfterFinished": 60,
                }),
                _ => json!({
                    "completions": 4, "backoffLimit": 3, "podFailurePolicy": {"rules": [
                        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]},
                }),
            };
            spec["parallelism"] = (1 + self.random.below(3)).into();
            spec["template"] = self.template("task");
            spec["template"]["spec"]["restartPolicy"] = "Never".into();
            let body = json!({"metadata": {"name": app}, "spec": spec});
            self.api.create("batch/v1", "Job", "default", body).unwrap();
            return;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        let ended = is_true(&object, "Complete") || is_true(&object, "Failed");
        if ended || !self.calm && self.random.one_in(6) {
            let policy = ["Background", "Foreground", "Orphan"][self.random.below(3)];
            self.api.delete(&reference(&object), Some(policy), None);
            return;
        }
        let mut new = object.clone();
        match self.random.below(3) {
            0 => new["spec"]["suspend"] = self.random.one_in(2).into(),
            _ => new["spec"]["parallelism"] = self.random.below(4).into(),
        }
        self.api.update(&reference(&object), Part::Main, new).unwrap();
    }

    fn template(&mut self, app: &str) -> Value {
        let image = format!("v{}", self.random.below(4));
        json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    fn change_daemon_set(&mut self, app: &str) {
        let name = format!("d{app}");
        let template = self.template(&name);
        let Some(object) = self.api.get("apps/v1 DaemonSet", "default", &name).cloned() else {
            let rolling = if app == "a" {
                json!({"maxSurge": 1, "maxUnavailable": 0})
            } else {
                json!({"maxUnavailable": 1})
            };
            let spec = json!({
                "selector": {"matchLabels": {"app": name}},
                "template": template,
                "updateStrategy": {"rollingUpdate": rolling},
                "revisionHistoryLimit": 2,
            });
            let body = json!({"metadata": {"name": name}, "spec": spec});
            self.api.create("apps/v1", "DaemonSet", "default", body).unwrap();
            return;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        if !self.calm && self.random.one_in(8) {
            let policy = ["Background", "Foreground"][self.random.below(2)];
            self.api.delete(&reference(&object), Some(policy), None);
            return;
        }
        let mut new = object.clone();
        new["spec"]["template"] = template;
        self.api.update(&reference(&object), Part::Main, new).unwrap();
    }

    fn change_cron_job(&mut self, app: &str) {
        let Some(object) = self.api.get("batch/v1 CronJob", "default", app).cloned() else {
            let mut template = self.template("cron");
            template["spec"]["restartPolicy"] = "Never".into();
            let policy = match app {
                "a" => "Allow",
                "b" => "Forbid",
                _ => "Replace",
            };
            let spec = json!({
                "schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
                "jobTemplate": {"spec": {"parallelism": 2, "completions": 2, "backoffLimit": 2, "template": template}},
            });
            self.api
                .create("batch/v1", "CronJob", "default", json!({"metadata": {"name": app}, "spec": spec}))
                .unwrap();
            return;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        if !self.calm && self.random.one_in(6) {
            self.api.delete(&reference(&object), Some("Background"), None);
            return;
        }
        let mut new = object.clone();
        new["spec"]["suspend"] = self.random.one_in(3).into();
        self.api.update(&reference(&object), Part::Main, new).unwrap();
    }

    fn change_stateful_set(&mut self, app: &str) {
        // Its pods have the names of the set: it must not share its own with another.
        let name = format!("s{app}");
        let template = self.template(&name);
        let replicas = self.random.below(4);
        let Some(object) = self.api.get("apps/v1 StatefulSet", "default", &name).cloned() else {
            let policy = if app == "c" { "Parallel" } else { "OrderedReady" };
            let mut spec = json!({
                "replicas": replicas, "serviceName": name, "podManagementPolicy": policy,
                "selector": {"matchLabels": {"app": name}}, "template": template, "revisionHistoryLimit": 2,
            });
            storage::add_templates(app, &mut spec);
            self.api
                .create(
                    "apps/v1",
                    "StatefulSet",
                    "default",
                    json!({"metadata": {"name": name}, "spec": spec}),
                )
                .unwrap();
            return;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        if !self.calm && self.random.one_in(8) {
            let policy = ["Background", "Foreground", "Orphan"][self.random.below(3)];
            self.api.delete(&reference(&object), Some(policy), None);
            return;
        }
        let mut new = object.clone();
        if self.random.one_in(2) {
            new["spec"]["replicas"] = replicas.into();
        } else {
            new["spec"]["template"] = template;
        }
        self.api.update(&reference(&object), Part::Main, new).unwrap();
    }

    /// No time is served twice, and where one Job stands in the way of the next, no two run.
    fn check_cron_jobs(&mut self) {
        for entry in &self.api.log[self.ledger.read..] {
            let job = &entry.object;
            let cron_job = text(job, "/metadata/ownerReferences/0/uid");
            if entry.kind == "batch/v1 Job" && !cron_job.is_empty() {
                let name = text(job, "/metadata/name").to_owned();
                let uid = text(job, "/metadata/uid").to_owned();
                let first = self.ledger.served.entry((cron_job.to_owned(), name)).or_insert(uid.clone());
                assert_eq!(*first, uid, "a time is served twice");
            }
        }
        self.ledger.read = self.api.log.len();
        for cron_job in
            self.api.list("batch/v1 CronJob").filter(|c| c["spec"]["concurrencyPolicy"] == "Forbid")
        {
            let uid = text(cron_job, "/metadata/uid");
            let running = self.api.list("batch/v1 Job").filter(|j| {
                text(j, "/metadata/ownerReferences/0/uid") == uid
                    && !is_true(j, "Complete")
                    && !is_true(j, "Failed")
            });
            assert!(running.count() <= 1, "two Jobs run where one is allowed:\n{}", self.api.tail(60));
        }
    }

    /// In order: no pod comes before those with lower ordinals are ready.
    fn check_order(&mut self) {
        for set in self
            .api
            .list("apps/v1 StatefulSet")
            .filter(|s| s["spec"]["podManagementPolicy"] == "OrderedReady")
        {
            let uid = text(set, "/metadata/uid");
            let pods: BTreeMap<&str, &Value> = self
                .api
                .list("v1 Pod")
                .filter(|p| text(p, "/metadata/ownerReferences/0/uid") == uid)
                .map(|p| (text(p, "/metadata/name"), p))
                .collect();
            for (name, pod) in &pods {
                if !self.ledger.seen_pods.insert(text(pod, "/metadata/uid").to_owned()) {
                    continue;
                }
                let (set, ordinal) = name.rsplit_once('-').unwrap();
                for lower in 0..ordinal.parse::<u32>().unwrap() {
                    let ready = pods.get(format!("{set}-{lower}").as_str()).is_some_and(|p| is_ready(p));
                    assert!(ready, "{name} comes before {set}-{lower} is ready:\n{}", self.api.tail(60));
                }
            }
            let unavailable = pods.values().filter(|p| !is_ready(p)).count();
            assert!(unavailable <= 1, "{unavailable} pods are not ready at once:\n{}", self.api.tail(60));
        }
    }

    /// What must hold at every step while nobody but the controllers takes pods away.
    pub fn check_workloads(&mut self) {
        if !matches!(self.users, Users::Workloads | Users::Everything) {
            return;
        }
        self.check_jobs();
        self.check_cron_jobs();
        if !self.calm {
            return;
        }
        self.check_order();
        for set in self.api.list("apps/v1 DaemonSet") {
            let (name, uid) = (text(set, "/metadata/name"), text(set, "/metadata/uid"));
            let pods = self.api.list("v1 Pod").filter(|p| text(p, "/metadata/ownerReferences/0/uid") == uid);
            let ready: BTreeSet<&str> =
                pods.filter(|p| is_ready(p)).map(|p| text(p, "/spec/nodeName")).collect();
            let ready = ready.len();
            let complete = self.ledger.complete.entry(uid.to_owned()).or_default();
            *complete |= ready >= NODES.len();
            let fewest = if name == "da" { NODES.len() } else { NODES.len() - 1 };
            assert!(
                !*complete || ready >= fewest,
                "{name} is ready on {ready} nodes, not on {fewest} at least:\n{}",
                self.api.tail(60)
            );
        }
    }

    /// Numbers never go back, and no more pods run than were ever allowed.
    fn check_jobs(&mut self) {
        for job in self.api.list("batch/v1 Job") {
            let (name, uid) = (text(job, "/metadata/name"), text(job, "/metadata/uid"));
            let before = self.ledger.counts.entry(uid.to_owned()).or_default();
            let number = |field: &str| job["status"][field].as_i64().unwrap_or(0);
            if job["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            let now = Counts {
                succeeded: number("succeeded"),
                failed: number("failed"),
                parallelism: before.parallelism.max(job["spec"]["parallelism"].as_i64().unwrap()),
            };
            let forward = now.succeeded >= before.succeeded && now.failed >= before.failed;
            assert!(forward, "{name} forgets what it counted:\n{}", self.api.tail(40));
            assert!(
                now.succeeded <= job["spec"]["completions"].as_i64().unwrap(),
                "{name} succeeds too often"
            );
            *before = now;
            let active = self.api.list("v1 Pod").filter(|p| {
                text(p, "/metadata/ownerReferences/0/uid") == uid
                    && !has_ended(p)
                    && p["metadata"]["deletionTimestamp"].is_null()
            });
            let active = active.count() as i64;
            assert!(active <= now.parallelism, "{name} has {active} pods:\n{}", self.api.tail(60));
            // Pods that have succeeded are held until they are counted, unless it is by index.
            let by_index = job["spec"]["completionMode"] == "Indexed";
            let uncounted = self.api.list("v1 Pod").filter(|p| {
                text(p, "/metadata/ownerReferences/0/uid") == uid
                    && p["status"]["phase"] == "Succeeded"
                    && p["metadata"]["finalizers"].is_array()
                    && !by_index
            });
            let all = now.succeeded + active + uncounted.count() as i64;
            let wanted = job["spec"]["completions"].as_i64().unwrap();
            assert!(all <= wanted, "{name} will have {all} pods for {wanted}:\n{}", self.api.tail(60));
        }
    }

    /// Every pod is counted, but those that a suspended or smaller Job sent away.
    fn check_job_at_rest(&self, job: &Value) {
        let (name, uid) = (text(job, "/metadata/name"), text(job, "/metadata/uid"));
        let number = |field: &str| job["status"][field].as_i64().unwrap_or(0);
        let mut phases: BTreeMap<&str, &str> = BTreeMap::new();
        // Those that the Job let go of before they had ended, because it had no use for them.
        let mut spared: BTreeSet<&str> = BTreeSet::new();
        for entry in self.api.log.iter().filter(|e| e.kind == "v1 Pod") {
            let pod = &entry.object;
            if text(pod, "/metadata/ownerReferences/0/uid") == uid {
                let phase = phases.entry(text(pod, "/metadata/uid")).or_default();
                if has_ended(pod) {
                    *phase = text(pod, "/status/phase");
                } else if !is_held(pod) && pod["metadata"]["deletionTimestamp"].is_null() {
                    spared.insert(text(pod, "/metadata/uid"));
                }
            }
        }
        let (complete, failed) = (is_true(job, "Complete"), is_true(job, "Failed"));
        assert!(complete || failed, "{name} has come to nothing: {job:#}");
        assert_eq!(job["status"]["uncountedTerminatedPods"], json!({}), "{name}");
        assert_eq!(number("active"), 0, "{name}");
        if !failed {
            let succeeded = phases.iter().filter(|(uid, p)| **p == "Succeeded" && !spared.contains(*uid));
            assert_eq!(number("succeeded"), succeeded.count() as i64, "pods of {name} that succeeded");
        }
        // A Job that has failed counts those that it ends as failed.
        let (all, counted) = (phases.len(), (number("succeeded") + number("failed")) as usize);
        let fewest = all - spared.len();
        let most = if failed { all } else { fewest };
        assert!((fewest..=most).contains(&counted), "all pods of {name} but {spared:?}: {phases:?} {job:#}");
        let mut pods = self.api.list("v1 Pod").filter(|p| text(p, "/metadata/ownerReferences/0/uid") == uid);
        assert!(!pods.any(is_held), "pods of {name} are held");
    }

    /// What must hold when nothing is left to do.
    pub fn check_workloads_at_rest(&self) {
        for job in self.api.list("batch/v1 Job") {
            assert!(job["spec"]["ttlSecondsAfterFinished"].is_null(), "its time is over: {job:#}");
            self.check_job_at_rest(job);
        }
        for set in self.api.list("apps/v1 StatefulSet") {
            let (name, uid) = (text(set, "/metadata/name"), text(set, "/metadata/uid"));
            let pods = self.api.list("v1 Pod").filter(|p| text(p, "/metadata/ownerReferences/0/uid") == uid);
            let pods: Vec<&Value> = pods.collect();
            let names: Vec<&str> = pods.iter().map(|p| text(p, "/metadata/name")).collect();
            let wanted = set["spec"]["replicas"].as_u64().unwrap();
            assert_eq!(names, (0..wanted).map(|n| format!("{name}-{n}")).collect::<Vec<_>>());
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            assert!(pods.iter().all(|p| &p["spec"]["containers"][0]["image"] == image), "images of {name}");
            assert_eq!(set["status"]["currentRevision"], set["status"]["updateRevision"], "{name}");
        }
        for set in self.api.list("apps/v1 DaemonSet") {
            let (name, uid) = (text(set, "/metadata/name"), text(set, "/metadata/uid"));
            let owned = |o: &&Value| text(o, "/metadata/ownerReferences/0/uid") == uid;
            let pods: Vec<&Value> = self.api.list("v1 Pod").filter(owned).collect();
            let mut nodes: Vec<&str> = pods.iter().map(|p| text(p, "/spec/nodeName")).collect();
            nodes.sort_unstable();
            assert_eq!(nodes, NODES, "nodes of {name}");
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            assert!(pods.iter().all(|p| &p["spec"]["containers"][0]["image"] == image), "images of {name}");
            for count in [
                "desiredNumberScheduled",
                "currentNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
            ] {
                assert_eq!(set["status"][count], 3, "{count} of {name}");
            }
            let revisions: Vec<&Value> = self.api.list("apps/v1 ControllerRevision").filter(owned).collect();
            assert!((1..=3).contains(&revisions.len()), "{} revisions of {name}", revisions.len());
            let newest = revisions.iter().max_by_key(|r| r["revision"].as_i64()).unwrap();
            assert_eq!(&newest["data"]["spec"]["template"]["spec"]["containers"][0]["image"], image);
        }
    }
}

/// True if somebody holds the pod with a finalizer.
fn is_held(pod: &Value) -> bool {
    pod["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}
