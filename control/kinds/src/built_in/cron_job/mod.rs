//! CronJob: a Job each time that a schedule says so.

pub mod schedule;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use self::schedule::Schedule;
use super::{job, template};
use crate::columns::{age, column, count, items, join, name, selector, since, text, text_or_none, wide};
use crate::rules::{TypedRules, row};
use crate::syntax::{NOT_NEGATIVE, one_of};
use crate::{Kind, meta};

const SPEC: Path<'static> = Path::root("spec");
/// The Jobs get eleven characters more, and must be names of pods.
const NAME_MAX_BYTES: usize = 52;

/// The rules of CronJobs.
pub struct CronJobs;

/// The row of CronJobs.
pub fn kind() -> Kind {
    const CONTAINERS: &str = "/spec/jobTemplate/spec/template/spec/containers";
    Kind {
        short_names: vec!["cj".into()],
        categories: vec!["all".into()],
        has_generation: true,
        columns: vec![
            name(),
            column("Schedule", "string", "The schedule in Cron format.", |o, _| {
                text(o, "/spec/schedule").into()
            }),
            column("Timezone", "string", "The time zone of the schedule.", |o, _| {
                text_or_none(o, "/spec/timeZone").into()
            }),
            column("Suspend", "boolean", "True if no Job is started.", |o, _| {
                let suspended = o.pointer("/spec/suspend").and_then(Value::as_bool);
                (if suspended == Some(true) { "True" } else { "False" }).into()
            }),
            column("Active", "integer", "Number of Jobs that run.", |o, _| count(o, "/status/active").into()),
            column("Last Schedule", "string", "Time since a Job was last started.", |o, now| {
                match o.pointer("/status/lastScheduleTime") {
                    None => "<none>".into(),
                    time => since(time, now).into(),
                }
            }),
            age(),
            wide("Containers", "Names of each container in the template.", |o, _| {
                join(items(o, CONTAINERS).map(|c| text(c, "/name"))).into()
            }),
            wide("Images", "Images referenced by each container in the template.", |o, _| {
                join(items(o, CONTAINERS).map(|c| text(c, "/image"))).into()
            }),
            wide("Selector", "Labels of the pods that this manages.", |o, _| {
                selector(o.pointer("/spec/jobTemplate/spec/selector")).into()
            }),
        ],
        ..row::<CronJobs>()
    }
}

impl TypedRules for CronJobs {
    type Object = CronJob;
    const HAS_STATUS: bool = true;

    fn default(cron_job: &mut CronJob) {
        cron_job.status.get_or_insert_default();
        let spec = cron_job.spec.get_or_insert_default();
        spec.concurrency_policy.get_or_insert_with(|| "Allow".to_owned());
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        spec.job_template.metadata.get_or_insert_default();
        template::default(&mut spec.job_template.spec.get_or_insert_default().template);
    }

    fn validate(cron_job: &CronJob, errors: &mut FieldErrors) {
        if let Some(spec) = &cron_job.spec {
            validate_spec(spec, errors);
        }
    }

    fn validate_create(cron_job: &CronJob, errors: &mut FieldErrors) {
        let name = cron_job.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_MAX_BYTES {
            let text = format!("must be no more than {NAME_MAX_BYTES} characters");
            errors.invalid(&Path::root("metadata").field("name"), name, text);
        }
    }
}

fn validate_spec(spec: &CronJobSpec, errors: &mut FieldErrors) {
    let path = SPEC.field("schedule");
    if spec.schedule.is_empty() {
        errors.required(&path, "");
    } else if spec.schedule.contains("TZ") {
        let text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(&path, spec.schedule.as_str(), text);
    } else if let Err(why) = Schedule::parse(&spec.schedule, None) {
        errors.invalid(&path, spec.schedule.as_str(), why);
    }
    if let Some(zone) = &spec.time_zone {
        time_zone(zone, &SPEC.field("timeZone"), errors);
    }
    let counts = [
        ("startingDeadlineSeconds", spec.starting_deadline_seconds),
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit.map(i64::from)),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit.map(i64::from)),
    ];
    for (field, count) in counts {
        if let Some(count) = count.filter(|count| *count < 0) {
            errors.invalid(&SPEC.field(field), count, NOT_NEGATIVE);
        }
    }
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(spec.concurrency_policy.as_deref(), &policies, &SPEC.field("concurrencyPolicy"), errors);
    validate_template(spec, &SPEC.field("jobTemplate"), errors);
}

fn time_zone(zone: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, text);
    } else if schedule::zone(zone).is_none() {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

fn validate_template(spec: &CronJobSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let metadata = path.field("metadata");
    let own = spec.job_template.metadata.as_ref();
    meta::labels(own.and_then(|m| m.labels.as_ref()), &metadata.field("labels"), errors);
    meta::annotations(own.and_then(|m| m.annotations.as_ref()), &metadata.field("annotations"), errors);
    let spec_path = path.field("spec");
    let Some(spec) = &spec.job_template.spec else {
        errors.required(&spec_path, "");
        return;
    };
    if spec.manual_selector == Some(true) {
        errors.not_supported(&spec_path.field("manualSelector"), "true", &["nil", "false"]);
    }
    if let Some(selector) = &spec.selector {
        let value = serde_json::to_value(selector).unwrap_or_default();
        errors.invalid(&spec_path.field("selector"), value, "`selector` will be auto-generated");
    }
    job::validate_spec(spec, &spec_path, errors);
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals};

    const BASE: &str = "{apiVersion: batch/v1, kind: CronJob, spec: {schedule: '*/5 * * * *', jobTemplate: {spec: {template: \
                        {spec: {restartPolicy: OnFailure, containers: [{name: c, image: i:1}]}}}}}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: batch/v1
            kind: CronJob
            metadata:
              name: x
              namespace: default
            spec:
              concurrencyPolicy: Allow
              failedJobsHistoryLimit: 1
              jobTemplate:
                metadata: {}
                spec:
                  template:
                    metadata: {}
                    spec:
                      containers:
                      - image: i:1
                        imagePullPolicy: IfNotPresent
                        name: c
                        resources: {}
                        terminationMessagePath: /dev/termination-log
                        terminationMessagePolicy: File
                      dnsPolicy: ClusterFirst
                      restartPolicy: OnFailure
                      schedulerName: default-scheduler
                      securityContext: {}
                      terminationGracePeriodSeconds: 30
              schedule: '*/5 * * * *'
              successfulJobsHistoryLimit: 3
              suspend: false
            status: {}
        "#]],
        );
        refusals(
            BASE,
            &[
                "{metadata: {name: a1234567890123456789012345678901234567890123456789012}}",
                "{spec: {schedule: ''}}",
                "{spec: {schedule: '* * * *'}}",
                "{spec: {schedule: 'TZ=UTC * * * * *'}}",
                "{spec: {schedule: '61 * * * *'}}",
                "{spec: {schedule: '@hourly', timeZone: Europe/Berlin}}",
                "{spec: {timeZone: Local}}",
                "{spec: {timeZone: Moon/Base}}",
                "{spec: {startingDeadlineSeconds: -1, successfulJobsHistoryLimit: -1, failedJobsHistoryLimit: -1}}",
                "{spec: {concurrencyPolicy: Queue}}",
                "{spec: {jobTemplate: {spec: {parallelism: -1, template: {spec: {restartPolicy: Always}}}}}}",
                "{spec: {jobTemplate: {spec: {manualSelector: true, selector: {matchLabels: {a: b}}}}}}",
            ],
            expect![[r#"
                metadata.name: Invalid value: "a1234567890123456789012345678901234567890123456789012": must be no more than 52 characters
                spec.schedule: Required value
                spec.schedule: Invalid value: "* * * *": expected exactly 5 fields, found 4: [* * * *]
                spec.schedule: Invalid value: "TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead
                spec.schedule: Invalid value: "61 * * * *": failed to parse "61 * * * *"
                accepted: {"spec":{"schedule":"@hourly","timeZone":"Europe/Berlin"}}
                spec.timeZone: Invalid value: "Local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones
                spec.timeZone: Invalid value: "Moon/Base": unknown time zone Moon/Base
                spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0
                spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                spec.concurrencyPolicy: Unsupported value: "Queue": supported values: "Allow", "Forbid", "Replace"
                spec.jobTemplate.spec.parallelism: Invalid value: -1: must be greater than or equal to 0
                spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
                spec.jobTemplate.spec.manualSelector: Unsupported value: "true": supported values: "nil", "false"
                spec.jobTemplate.spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` will be auto-generated
            "#]],
        );
    }
}
