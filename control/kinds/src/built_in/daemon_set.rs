//! DaemonSet: one pod of a template on every node that is fit for it.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::{FieldErrors, Path};
use proa_api::names;

use super::template;
use crate::Kind;
use crate::columns::{age, column, managed_pods, name, number, pairs, template_containers, template_images};
use crate::rules::TypedRules;

const SPEC: Path<'static> = Path::root("spec");

/// The rules of DaemonSets.
pub struct DaemonSets;

/// The row of DaemonSets.
pub fn kind() -> Kind {
    macro_rules! count {
        ($name:literal, $pointer:literal, $description:literal) => {
            column($name, "integer", $description, |o, _| number(o, $pointer).into())
        };
    }
    Kind {
        columns: vec![
            name(),
            count!("Desired", "/status/desiredNumberScheduled", "Number of nodes that should run the pod."),
            count!("Current", "/status/currentNumberScheduled", "Number of those that have one."),
            count!("Ready", "/status/numberReady", "Number of nodes whose pod is ready."),
            count!(
                "Up-to-date",
                "/status/updatedNumberScheduled",
                "Number of nodes with the newest template."
            ),
            count!("Available", "/status/numberAvailable", "Number of nodes whose pod is available."),
            column("Node Selector", "string", "Labels of the nodes that should run the pod.", |o, _| {
                pairs(o.pointer("/spec/template/spec/nodeSelector")).into()
            }),
            age(),
            template_containers(),
            template_images(),
            managed_pods(),
        ],
        ..template::workload::<DaemonSets>("ds")
    }
}

impl TypedRules for DaemonSets {
    type Object = DaemonSet;
    const HAS_STATUS: bool = true;

    fn default(set: &mut DaemonSet) {
        set.status.get_or_insert_default();
        let spec = set.spec.get_or_insert_default();
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_default();
        let type_ = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned());
        if type_ == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        template::default(&mut spec.template);
    }

    fn prepare_create(set: &mut DaemonSet) {
        set_template_generation(set, 1);
    }

    fn prepare_update(old: &DaemonSet, new: &mut DaemonSet) {
        let before = template_generation(old).unwrap_or(0);
        let template = |set: &DaemonSet| set.spec.as_ref().map(|s| s.template.clone());
        let changed = template(old) != template(new);
        set_template_generation(new, before + i64::from(changed));
    }

    fn validate(set: &DaemonSet, errors: &mut FieldErrors) {
        if let Some(spec) = &set.spec {
            validate_spec(spec, errors);
        }
    }

    fn validate_update(old: &DaemonSet, new: &DaemonSet, errors: &mut FieldErrors) {
        if let (Some(old), Some(new)) = (&old.spec, &new.spec) {
            template::selector_stays(&old.selector, &new.selector, errors);
        }
    }

    fn validate_status_update(_old: &DaemonSet, new: &DaemonSet, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let counts = [
            ("currentNumberScheduled", Some(status.current_number_scheduled)),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
            ("numberReady", Some(status.number_ready)),
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
            ("collisionCount", status.collision_count),
        ];
        template::counts(&counts, i32::MAX, errors);
    }
}

/// How many templates the set has had. Once a field of the spec, now kept in an annotation.
fn template_generation(set: &DaemonSet) -> Option<i64> {
    let annotations = set.metadata.annotations.as_ref()?;
    annotations.get(names::ANNOTATION_TEMPLATE_GENERATION)?.parse().ok()
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(names::ANNOTATION_TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn validate_spec(spec: &DaemonSetSpec, errors: &mut FieldErrors) {
    template::selector(&spec.selector, errors);
    template::validate(&spec.template, &spec.selector, "DaemonSet", errors);
    template::not_negative(&[("minReadySeconds", spec.min_ready_seconds)], errors);
    if let Some(strategy) = &spec.update_strategy {
        let path = SPEC.field("updateStrategy");
        match strategy.type_.as_deref().unwrap_or_default() {
            "OnDelete" => {}
            "RollingUpdate" => match &strategy.rolling_update {
                Some(rolling) => validate_rolling(rolling, &path.field("rollingUpdate"), errors),
                None => errors.required(&path.field("rollingUpdate"), ""),
            },
            other => errors.not_supported(&path.field("type"), other, &["RollingUpdate", "OnDelete"]),
        }
    }
    template::not_negative(&[("revisionHistoryLimit", spec.revision_history_limit)], errors);
}

fn validate_rolling(rolling: &RollingUpdateDaemonSet, path: &Path<'_>, errors: &mut FieldErrors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        template::int_or_percent(value, &path.field(field), errors);
        template::at_most_all(value, &path.field(field), errors);
    }
    let some = |value: &IntOrString| template::amount(value).unwrap_or(0) != 0;
    match (some(unavailable), some(surge)) {
        (true, true) => {
            let value = serde_json::to_value(surge).unwrap_or_default();
            errors.invalid(&path.field("maxSurge"), value, "may not be set when maxUnavailable is non-zero");
        }
        (false, false) => errors.required(&path.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::Part;
    use crate::check::{created, refusals, update_refusals, updated};

    const BASE: &str = "{apiVersion: apps/v1, kind: DaemonSet, spec: {selector: {matchLabels: {a: b}}, template: \
                        {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i:1}]}}}}";

    #[test]
    fn defaults() {
        created(
            BASE,
            expect![[r#"
            apiVersion: apps/v1
            kind: DaemonSet
            metadata:
              annotations:
                deprecated.daemonset.template.generation: '1'
              name: x
              namespace: default
            spec:
              revisionHistoryLimit: 10
              selector:
                matchLabels:
                  a: b
              template:
                metadata:
                  labels:
                    a: b
                spec:
                  containers:
                  - image: i:1
                    imagePullPolicy: IfNotPresent
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Always
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
              updateStrategy:
                rollingUpdate:
                  maxSurge: 0
                  maxUnavailable: 1
                type: RollingUpdate
            status:
              currentNumberScheduled: 0
              desiredNumberScheduled: 0
              numberMisscheduled: 0
              numberReady: 0
        "#]],
        );
    }

    #[test]
    fn what_is_wrong() {
        refusals(
            BASE,
            &[
                "{spec: {selector: null}}",
                "{spec: {minReadySeconds: -1, revisionHistoryLimit: -1}}",
                "{spec: {template: {spec: {restartPolicy: OnFailure, activeDeadlineSeconds: 3}}}}",
                "{spec: {updateStrategy: {type: Recreate}}}",
                "{spec: {updateStrategy: {type: OnDelete}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 0}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxSurge: 10%, maxUnavailable: 0}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 101%}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: -1}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: few}}}}",
            ],
            expect![[r#"
                spec.selector: Required value
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
                spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                spec.template.spec.restartPolicy: Unsupported value: "OnFailure": supported values: "Always"
                spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported
                spec.updateStrategy.type: Unsupported value: "Recreate": supported values: "RollingUpdate", "OnDelete"
                accepted: {"spec":{"updateStrategy":{"type":"OnDelete"}}}
                spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0
                spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero
                accepted: {"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":"10%","maxUnavailable":0}}}}
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "few": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')
                spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0
            "#]],
        );
    }

    #[test]
    fn what_may_change() {
        update_refusals(
            BASE,
            &[
                "{spec: {selector: {matchLabels: {c: d}}, template: {metadata: {labels: {c: d}}}}}",
                "{spec: {minReadySeconds: 3}}",
            ],
            expect![[r#"
                spec.selector: Invalid value: {"matchLabels":{"a":"b","c":"d"}}: field is immutable
                accepted: {"spec":{"minReadySeconds":3}}
            "#]],
        );
        updated(
            BASE,
            &BASE.replace("i:1", "i:2"),
            Part::Main,
            expect![[r#"
            apiVersion: apps/v1
            kind: DaemonSet
            metadata:
              annotations:
                deprecated.daemonset.template.generation: '2'
              name: x
              namespace: default
            spec:
              revisionHistoryLimit: 10
              selector:
                matchLabels:
                  a: b
              template:
                metadata:
                  labels:
                    a: b
                spec:
                  containers:
                  - image: i:2
                    imagePullPolicy: IfNotPresent
                    name: c
                    resources: {}
                    terminationMessagePath: /dev/termination-log
                    terminationMessagePolicy: File
                  dnsPolicy: ClusterFirst
                  restartPolicy: Always
                  schedulerName: default-scheduler
                  securityContext: {}
                  terminationGracePeriodSeconds: 30
              updateStrategy:
                rollingUpdate:
                  maxSurge: 0
                  maxUnavailable: 1
                type: RollingUpdate
            status:
              currentNumberScheduled: 0
              desiredNumberScheduled: 0
              numberMisscheduled: 0
              numberReady: 0
        "#]],
        );
    }
}
