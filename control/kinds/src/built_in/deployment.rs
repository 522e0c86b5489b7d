//! Deployment: replicas of a pod, and how they are replaced when the template changes.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::{FieldErrors, Path};

use super::template;
use crate::columns::{age, column, managed_pods, name, number, template_containers, template_images};
use crate::rules::TypedRules;
use crate::{Kind, ScalePaths, Subresource};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of Deployments.
pub struct Deployments;

/// The row of Deployments.
pub fn kind() -> Kind {
    Kind {
        columns: vec![
            name(),
            column("Ready", "string", "Number of the pods that are ready, of those wanted", |o, _| {
                format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into()
            }),
            column("Up-to-date", "string", "Number of pods of the newest template.", |o, _| {
                number(o, "/status/updatedReplicas").into()
            }),
            column("Available", "string", "Number of pods ready for at least minReadySeconds.", |o, _| {
                number(o, "/status/availableReplicas").into()
            }),
            age(),
            template_containers(),
            template_images(),
            managed_pods(),
        ],
        ..template::workload::<Deployments>("deploy")
    }
    .with([Subresource::scale(ScalePaths::OF_WORKLOADS)])
}

impl TypedRules for Deployments {
    type Object = Deployment;
    const HAS_STATUS: bool = true;

    fn default(deployment: &mut Deployment) {
        deployment.status.get_or_insert_default();
        let spec = deployment.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        let type_ = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned());
        if type_ == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
        }
        template::default(&mut spec.template);
    }

    fn prepare_status_update(old: &Deployment, new: &mut Deployment) {
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(deployment: &Deployment, errors: &mut FieldErrors) {
        if let Some(spec) = &deployment.spec {
            validate_spec(spec, errors);
        }
    }

    fn validate_update(old: &Deployment, new: &Deployment, errors: &mut FieldErrors) {
        if let (Some(old), Some(new)) = (&old.spec, &new.spec) {
            template::selector_stays(&old.selector, &new.selector, errors);
        }
    }

    fn validate_status_update(_old: &Deployment, new: &Deployment, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let counts = [
            ("replicas", status.replicas),
            ("updatedReplicas", status.updated_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
            ("unavailableReplicas", status.unavailable_replicas),
            ("collisionCount", status.collision_count),
        ];
        let all = status.replicas.unwrap_or_default();
        template::counts(&counts, all, errors);
        template::available(status.available_replicas, status.ready_replicas, errors);
    }
}

fn validate_spec(spec: &DeploymentSpec, errors: &mut FieldErrors) {
    template::not_negative(&[("replicas", spec.replicas)], errors);
    template::selector(&spec.selector, errors);
    template::validate(&spec.template, &spec.selector, "ReplicaSet", errors);
    validate_strategy(spec, errors);
    let counts = [
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
        ("progressDeadlineSeconds", spec.progress_deadline_seconds),
    ];
    template::not_negative(&counts, errors);
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    if let Some(deadline) = spec.progress_deadline_seconds.filter(|deadline| *deadline <= min_ready) {
        let why = "must be greater than minReadySeconds";
        errors.invalid(&SPEC.field("progressDeadlineSeconds"), deadline, why);
    }
}

fn validate_strategy(spec: &DeploymentSpec, errors: &mut FieldErrors) {
    let Some(strategy) = &spec.strategy else { return };
    let path = SPEC.field("strategy");
    match strategy.type_.as_deref().unwrap_or_default() {
        "Recreate" if strategy.rolling_update.is_some() => errors.forbidden(
            &path.field("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => match &strategy.rolling_update {
            Some(rolling) => validate_rolling(rolling, &path.field("rollingUpdate"), errors),
            None => {
                errors.required(&path.field("rollingUpdate"), "this should be defaulted and never be nil")
            }
        },
        other => errors.not_supported(&path.field("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut FieldErrors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        template::int_or_percent(value, &path.field(field), errors);
    }
    if let (Some(0), Some(0)) = (template::amount(unavailable), template::amount(surge)) {
        let value = serde_json::to_value(unavailable).unwrap_or_default();
        errors.invalid(&path.field("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
    }
    template::at_most_all(unavailable, &path.field("maxUnavailable"), errors);
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: apps/v1, kind: Deployment, spec: {selector: {matchLabels: {a: b}}, template: \
                        {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}";

    #[test]
    fn defaults() {
        created(
            BASE,
            expect![[r#"
            apiVersion: apps/v1
            kind: Deployment
            metadata:
              name: x
              namespace: default
            spec:
              progressDeadlineSeconds: 600
              replicas: 1
              revisionHistoryLimit: 10
              selector:
                matchLabels:
                  a: b
              strategy:
                rollingUpdate:
                  maxSurge: 25%
                  maxUnavailable: 25%
                type: RollingUpdate
              template:
                metadata:
                  labels:
                    a: b
                spec:
                  containers:
                  - image: i
                    imagePullPolicy: Always
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Always
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
            status: {}
        "#]],
        );
        created(
            &BASE.replacen("spec: {", "spec: {strategy: {type: Recreate}, ", 1),
            expect![[r#"
            apiVersion: apps/v1
            kind: Deployment
            metadata:
              name: x
              namespace: default
            spec:
              progressDeadlineSeconds: 600
              replicas: 1
              revisionHistoryLimit: 10
              selector:
                matchLabels:
                  a: b
              strategy:
                type: Recreate
              template:
                metadata:
                  labels:
                    a: b
                spec:
                  containers:
                  - image: i
                    imagePullPolicy: Always
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Always
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
            status: {}
        "#]],
        );
    }

    #[test]
    fn what_is_wrong() {
        refusals(
            BASE,
            &[
                "{spec: {replicas: -1}}",
                "{spec: {selector: null}}",
                "{spec: {selector: {matchLabels: {a: c}}}}",
                "{spec: {selector: {matchExpressions: [{key: a, operator: Near}, {key: a, operator: In}]}}}",
                "{spec: {template: null}}",
                "{spec: {template: {metadata: {labels: {k: 'a b'}}, spec: {containers: [{image: ''}]}}}}",
                "{spec: {template: {spec: {restartPolicy: Never, activeDeadlineSeconds: 3}}}}",
                "{spec: {strategy: {type: Fast}}}",
                "{spec: {strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}}}",
                "{spec: {strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}}}",
                "{spec: {strategy: {rollingUpdate: {maxSurge: 0%, maxUnavailable: 0}}}}",
                "{spec: {strategy: {rollingUpdate: {maxSurge: -1, maxUnavailable: 101%}}}}",
                "{spec: {strategy: {rollingUpdate: {maxSurge: much}}}}",
                "{spec: {minReadySeconds: 600, revisionHistoryLimit: -1}}",
            ],
            expect![[r#"
                spec.replicas: Invalid value: -1: must be greater than or equal to 0
                spec.selector: Required value
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
                spec.selector.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator
                spec.selector.matchExpressions[1].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
                spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`
                spec.template.spec.containers: Required value
                spec.template.metadata.labels: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                spec.template.spec.containers[0].image: Required value
                spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
                spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported
                spec.strategy.type: Unsupported value: "Fast": supported values: "Recreate", "RollingUpdate"
                spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
                spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0
                spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0
                spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal to 0
                spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%
                spec.strategy.rollingUpdate.maxSurge: Invalid value: "much": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
                spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds
            "#]],
        );
    }

    #[test]
    fn what_may_change() {
        update_refusals(
            BASE,
            &[
                "{spec: {replicas: 3, template: {spec: {containers: [{image: j}]}}}}",
                "{spec: {selector: {matchLabels: {c: d}}, template: {metadata: {labels: {c: d}}}}}",
            ],
            expect![[r#"
                accepted: {"spec":{"replicas":3,"template":{"spec":{"containers":[{"image":"j"}]}}}}
                spec.selector: Invalid value: {"matchLabels":{"a":"b","c":"d"}}: field is immutable
            "#]],
        );
    }
}
