//! CronJob: starts a Job each time that its schedule says so, and clears old ones away.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>. The name of a Job
//! is made of the minute that it was meant for, so that no time is served twice. Of the times that
//! were missed, only the last is made up for.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::names::ANNOTATION_CRON_JOB_SCHEDULED;
use proa_api::owner::{controller_of, controller_reference};
use proa_api::{condition, names};
use serde_json::{Value, json};

use super::job::finished_at;
use crate::world::facts::{Key, time};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Report, Verb, difference};
use proa_kinds::Part;
use proa_kinds::built_in::cron_job::schedule::Schedule;

/// More missed times than this point to a broken clock or a schedule that nobody has watched.
const MISSED_MAX: usize = 100;

/// Decides what one CronJob needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(cron_job) = seen.cron_jobs.get(key) else { return plan };
    let Some(spec) = &cron_job.spec else { return plan };
    let jobs = jobs_of(seen, cron_job);
    let mut status = look_after(seen, cron_job, &jobs, &mut plan);
    let mut started = false;
    if cron_job.metadata.deletion_timestamp.is_none() {
        clear_away(cron_job, spec, &jobs, &mut plan);
        if spec.suspend != Some(true) {
            started = start(seen, cron_job, spec, &jobs, &mut status, now, &mut plan);
        }
    }
    let before = cron_job.status.clone().unwrap_or_default();
    if let Some(change) = difference(&json!(before), &json!(status)) {
        let verb = Verb::Patch {
            target: Reference::to(&**cron_job),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Merge(json!({ "status": change })),
        };
        // A time is served once its Job is there.
        if started { plan.act_then(verb) } else { plan.act(verb) }
    }
    plan
}

/// The Jobs of a CronJob, in the order of their names.
fn jobs_of(seen: &Observed, cron_job: &CronJob) -> Vec<Arc<Job>> {
    let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
    let owned = seen.graph.dependents(uid).filter(|m| m.controller().is_some_and(|c| c.uid == uid));
    let mut jobs: Vec<Arc<Job>> = owned.filter_map(|m| seen.jobs.get(&m.key).cloned()).collect();
    jobs.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    jobs
}

fn problem(cron_job: &CronJob, warning: bool, reason: &'static str, message: String) -> Problem {
    Problem { about: Reference::to(cron_job), warning, reason, message }
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

fn is_complete(job: &Job) -> bool {
    condition::is_true(job.status.as_ref().and_then(|s| s.conditions.as_ref()), "Complete")
}

/// True for a Job that the schedule started; users start others by hand.
fn is_scheduled(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(ANNOTATION_CRON_JOB_SCHEDULED))
}

/// Brings the list of active Jobs, and the time of the last success, up to date.
fn look_after(seen: &Observed, cron_job: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) -> CronJobStatus {
    let mut status = cron_job.status.clone().unwrap_or_default();
    let mut active = Vec::new();
    for known in status.active.take().unwrap_or_default() {
        let uid = known.uid.as_deref().unwrap_or_default();
        let job = jobs.iter().find(|job| job.metadata.uid.as_deref() == Some(uid));
        let known_name = known.name.clone().unwrap_or_default();
        match job {
            Some(job) if finished_at(job).is_none() => active.push(known),
            Some(job) => {
                let condition = if is_complete(job) { "Complete" } else { "Failed" };
                let text = format!("Saw completed job: {known_name}, condition: {condition}");
                plan.problems.push(problem(cron_job, false, "SawCompletedJob", text));
            }
            None if seen.graph.get(uid).is_none() => {
                let text = format!("Active job went missing: {known_name}");
                plan.problems.push(problem(cron_job, true, "MissingJob", text));
            }
            None => {}
        }
    }
    for job in jobs.iter().filter(|job| finished_at(job).is_none() && is_scheduled(job)) {
        if !active.iter().any(|known: &ObjectReference| known.uid == job.metadata.uid) {
            active.push(ObjectReference {
                api_version: Some("batch/v1".to_owned()),
                kind: Some("Job".to_owned()),
                namespace: job.metadata.namespace.clone(),
                name: job.metadata.name.clone(),
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
                ..ObjectReference::default()
            });
        }
    }
    status.active = (!active.is_empty()).then_some(active);
    let complete = jobs.iter().filter(|job| is_complete(job)).filter_map(|job| job.status.as_ref());
    let success = complete.filter_map(|s| time(&s.completion_time)).max();
    let before = time(&status.last_successful_time);
    status.last_successful_time = success.max(before).map(Time);
    status
}

/// Deletes the oldest of the Jobs that have ended, beyond the limits.
fn clear_away(cron_job: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], plan: &mut Plan) {
    let ended = |complete: bool| -> Vec<&Arc<Job>> {
        let mut jobs: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|job| finished_at(job).is_some() && is_complete(job) == complete)
            .filter(|job| job.metadata.deletion_timestamp.is_none())
            .collect();
        let start = |job: &Job| job.status.as_ref().and_then(|s| time(&s.start_time));
        jobs.sort_by(|a, b| (start(a), name(a)).cmp(&(start(b), name(b))));
        jobs
    };
    let limits = [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)];
    for (complete, limit) in limits {
        let Some(limit) = limit else { continue };
        let jobs = ended(complete);
        let excess = jobs.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in jobs.into_iter().take(excess) {
            delete(cron_job, job, plan);
        }
    }
}

fn delete(cron_job: &CronJob, job: &Job, plan: &mut Plan) {
    let verb = Verb::Delete {
        target: Reference::to(job),
        resource_version: None,
        propagation: Some("Background"),
        grace_period_seconds: None,
        unless: Vec::new(),
    };
    let report = Report {
        about: Reference::to(cron_job),
        done: Some(("SuccessfulDelete", format!("Deleted job {}", name(job)))),
        failed: Some(("FailedDelete", "Deleted job: {}".to_owned())),
    };
    plan.act_and_report(verb, report);
}

/// Starts the Job of the last time that is due. True if the plan makes one.
fn start(
    seen: &Observed,
    cron_job: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    status: &mut CronJobStatus,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(why) => {
            let text = format!("unparseable schedule: {:?} : {why}", spec.schedule);
            plan.problems.push(problem(cron_job, true, "UnparseableSchedule", text));
            return false;
        }
    };
    if let Some(next) = schedule.next_after(now) {
        plan.look_again(next);
    }
    let Some(due) = due(cron_job, spec, &schedule, status, now, plan) else { return false };
    let unfinished = |job: &&Arc<Job>| finished_at(job).is_none() && is_scheduled(job);
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    let key = Key::of(&cron_job.metadata);
    let job_name = format!("{}-{}", key.name, due.as_second().div_euclid(60));
    if let Some(there) = seen.jobs.get(&Key::new(&key.namespace, &job_name)) {
        let ours =
            controller_of(&there.metadata).is_some_and(|c| Some(&c.uid) == cron_job.metadata.uid.as_ref());
        if !ours {
            let text = format!("Error creating job: jobs.batch \"{job_name}\" already exists");
            plan.problems.push(problem(cron_job, true, "FailedCreate", text));
        }
        status.last_schedule_time = Some(Time(due));
        return false;
    }
    if policy == "Forbid" && jobs.iter().any(|job| unfinished(&job)) {
        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.problems.push(problem(cron_job, false, "JobAlreadyActive", text.to_owned()));
        return false;
    }
    if policy == "Replace" {
        let leaving = |job: &&Arc<Job>| job.metadata.deletion_timestamp.is_some();
        jobs.iter()
            .filter(unfinished)
            .filter(|job| !leaving(job))
            .for_each(|job| delete(cron_job, job, plan));
    }
    let verb = Verb::Create {
        api_version: "batch/v1",
        kind: "Job",
        namespace: key.namespace.to_string(),
        body: body(cron_job, spec, &job_name, &schedule.show(due)),
    };
    let report = Report {
        about: Reference::to(cron_job),
        done: Some(("SuccessfulCreate", "Created job {}".to_owned())),
        failed: Some(("FailedCreate", "Error creating job: {}".to_owned())),
    };
    plan.act_and_report(verb, report);
    status.last_schedule_time = Some(Time(due));
    true
}

/// The last time that is due and has not been served, if it is not too late for it.
fn due(
    cron_job: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    status: &CronJobStatus,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let created = time(&cron_job.metadata.creation_timestamp).unwrap_or(now);
    let mut since = time(&status.last_schedule_time).unwrap_or(created);
    if let Some(seconds) = spec.starting_deadline_seconds {
        let seconds = SignedDuration::from_secs(seconds.min(i64::from(i32::MAX)));
        since = since.max(now - seconds);
    }
    let due = schedule.last_until(since, now)?;
    if schedule.missed_more_than(MISSED_MAX, since, now) {
        let text =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.problems.push(problem(cron_job, true, "TooManyMissedTimes", text.to_owned()));
    }
    Some(due)
}

fn body(cron_job: &CronJob, spec: &CronJobSpec, name: &str, scheduled: &str) -> Value {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(names::ANNOTATION_CRON_JOB_SCHEDULED.to_owned(), scheduled.to_owned());
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": cron_job.metadata.namespace,
            "labels": meta.labels.unwrap_or_default(),
            "annotations": annotations,
            "ownerReferences": [controller_reference(cron_job)],
        },
        "spec": spec.job_template.spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::tests::{at, object, owner, seen, stamp};
    use crate::world::Object;

    /// A little after the hour.
    const NOW: i64 = 36_010;

    fn cron_job(spec: Value, status: Value) -> Object {
        let mut whole = json!({"schedule": "0 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        spec.as_object().cloned().unwrap_or_default().into_iter().for_each(|(k, v)| whole[k] = v);
        let meta = json!({"creationTimestamp": stamp(32_500)});
        object("batch/v1", "CronJob", "cj", json!({"metadata": meta, "spec": whole, "status": status}))
    }

    fn job(name: &str, words: &str) -> Object {
        let mut meta = json!({"ownerReferences": [owner("CronJob", "cj", true, true)]});
        if !words.contains("by hand") {
            meta["annotations"] = json!({"batch.kubernetes.io/cronjob-scheduled-timestamp": "x"});
        }
        let ended = |type_: &str| json!([{"type": type_, "status": "True", "lastTransitionTime": stamp(1)}]);
        let start = words.split(' ').find_map(|w| w.parse().ok()).unwrap_or(5);
        let mut status = json!({"startTime": stamp(start)});
        if words.contains("complete") {
            status["conditions"] = ended("Complete");
            status["completionTime"] = stamp(start + 3);
        }
        if words.contains("failed") {
            status["conditions"] = ended("Failed");
        }
        object("batch/v1", "Job", name, json!({"metadata": meta, "spec": {"template": {}}, "status": status}))
    }

    fn look(spec: Value, status: Value, jobs: &[(&str, &str)]) -> Plan {
        let mut objects = vec![cron_job(spec, status)];
        objects.extend(jobs.iter().map(|(name, words)| job(name, words)));
        reconcile(&seen(objects), &Key::new("d", "cj"), at(NOW))
    }

    fn check(spec: Value, status: Value, jobs: &[(&str, &str)], expected: &[&str]) -> Plan {
        let plan = look(spec, status, jobs);
        let line = |verb: &Verb| match verb {
            Verb::Create { body, .. } => format!("create {}", body["metadata"]["name"].as_str().unwrap()),
            Verb::Delete { target, .. } => format!("delete {}", target.name),
            Verb::Patch { .. } => "status".to_owned(),
            other => panic!("{other:?}"),
        };
        let lines: Vec<String> = plan.actions.iter().map(|a| line(&a.verb)).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|l| *l != "status").collect();
        assert_eq!(lines, expected);
        plan
    }

    fn last(seconds: i64) -> Value {
        json!({"lastScheduleTime": stamp(seconds)})
    }

    #[test]
    fn each_time_is_served_once() {
        let plan = check(json!({}), json!({}), &[], &["create cj-600"]);
        assert_eq!(plan.again_at, Some(at(39_600)));
        assert!(plan.actions[1].chained, "the time is noted once the Job is there");
        let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!() };
        assert_eq!(
            body["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
            "1970-01-01T10:00:00Z"
        );
        check(json!({}), last(36_000), &[], &[]);
        check(json!({}), json!({}), &[("cj-600", "")], &[]);
        check(json!({"suspend": true}), json!({}), &[], &[]);
        // Only the last of those that were missed, and none that it is too late for.
        check(json!({}), last(1), &[], &["create cj-600"]);
        check(json!({"startingDeadlineSeconds": 5}), json!({}), &[], &[]);
        check(json!({"startingDeadlineSeconds": 20}), json!({}), &[], &["create cj-600"]);
        let plan = check(json!({"schedule": "* * * * *"}), last(1), &[], &["create cj-600"]);
        assert_eq!(plan.problems[0].reason, "TooManyMissedTimes");
        // The zone of the schedule counts.
        check(
            json!({"schedule": "0 11 * * *", "timeZone": "Europe/Rome"}),
            json!({}),
            &[],
            &["create cj-600"],
        );
    }

    #[test]
    fn jobs_that_run_stand_in_the_way_or_do_not() {
        let with = |policy: &str| json!({"concurrencyPolicy": policy});
        let running = [("cj-540", "")];
        check(with("Allow"), json!({}), &running, &["create cj-600"]);
        let plan = check(with("Forbid"), json!({}), &running, &[]);
        assert_eq!(plan.problems[0].reason, "JobAlreadyActive");
        check(with("Replace"), json!({}), &running, &["delete cj-540", "create cj-600"]);
        check(with("Forbid"), json!({}), &[("cj-540", "complete")], &["create cj-600"]);
        check(with("Forbid"), json!({}), &[("mine", "by hand")], &["create cj-600"]);
    }

    #[test]
    fn what_has_ended_is_noted_and_cleared_away() {
        let jobs = [
            ("a", "complete 10"),
            ("b", "complete 20"),
            ("c", "complete 30"),
            ("d", "failed 5"),
            ("e", "failed 6"),
        ];
        let limits = json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1});
        check(limits, last(36_000), &jobs, &["delete a", "delete d"]);
        let reference = |name: &str| json!({"name": name, "uid": name});
        let status = json!({"active": [reference("a"), reference("gone"), reference("r")], "lastScheduleTime": stamp(36_000)});
        let plan = look(json!({}), status, &[("a", "complete 10"), ("r", ""), ("s", "")]);
        let reasons: Vec<&str> = plan.problems.iter().map(|p| p.reason).collect();
        assert_eq!(reasons, ["SawCompletedJob", "MissingJob"]);
        let Verb::Patch { change: Change::Merge(patch), .. } = &plan.actions[0].verb else { panic!() };
        let active = patch["status"]["active"].as_array().unwrap();
        assert_eq!(active.iter().map(|r| r["name"].as_str().unwrap()).collect::<Vec<_>>(), ["r", "s"]);
        assert_eq!(patch["status"]["lastSuccessfulTime"], stamp(13));
    }
}
