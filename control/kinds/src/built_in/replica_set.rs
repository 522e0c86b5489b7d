//! ReplicaSet: a number of pods made from one template.

use k8s_openapi::api::apps::v1::ReplicaSet;
use proa_api::field::{FieldErrors, Path};

use super::template;
use crate::columns::managed_pods;
use crate::rules::TypedRules;
use crate::{Kind, ScalePaths, Subresource};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of ReplicaSets.
pub struct ReplicaSets;

/// The row of ReplicaSets.
pub fn kind() -> Kind {
    Kind {
        columns: template::replica_columns(managed_pods()),
        selectable_fields: template::selectable_replicas(),
        ..template::workload::<ReplicaSets>("rs")
    }
    .with([Subresource::scale(ScalePaths::OF_WORKLOADS)])
}

impl TypedRules for ReplicaSets {
    type Object = ReplicaSet;
    const HAS_STATUS: bool = true;

    fn default(set: &mut ReplicaSet) {
        set.status.get_or_insert_default();
        let spec = set.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        template::default(spec.template.get_or_insert_default());
    }

    fn validate(set: &ReplicaSet, errors: &mut FieldErrors) {
        let Some(spec) = &set.spec else { return };
        let counts = [("replicas", spec.replicas), ("minReadySeconds", spec.min_ready_seconds)];
        template::not_negative(&counts, errors);
        template::selector(&spec.selector, errors);
        match &spec.template {
            Some(template) => template::validate(template, &spec.selector, "ReplicaSet", errors),
            None => errors.required(&SPEC.field("template"), ""),
        }
    }

    fn validate_update(old: &ReplicaSet, new: &ReplicaSet, errors: &mut FieldErrors) {
        if let (Some(old), Some(new)) = (&old.spec, &new.spec) {
            template::selector_stays(&old.selector, &new.selector, errors);
        }
    }

    fn validate_status_update(_old: &ReplicaSet, new: &ReplicaSet, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let counts = [
            ("replicas", Some(status.replicas)),
            ("fullyLabeledReplicas", status.fully_labeled_replicas),
            ("readyReplicas", status.ready_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        template::counts(&counts, status.replicas, errors);
        template::available(status.available_replicas, status.ready_replicas, errors);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: apps/v1, kind: ReplicaSet, spec: {selector: {matchLabels: {a: b}}, template: \
                        {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i:1}]}}}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: apps/v1
            kind: ReplicaSet
            metadata:
              name: x
              namespace: default
            spec:
              replicas: 1
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
            status:
              replicas: 0
        "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {replicas: -1, minReadySeconds: -1}}",
                "{spec: {template: {metadata: {labels: {a: c}}}}}",
                "{spec: {selector: {matchLabels: null}}}",
            ],
            expect![[r#"
                spec.replicas: Invalid value: -1: must be greater than or equal to 0
                spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`
                spec.selector: Required value
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
            "#]],
        );
        update_refusals(
            BASE,
            &["{spec: {selector: {matchExpressions: [{key: a, operator: Exists}]}}}"],
            expect![[r#"
                spec.selector: Invalid value: {"matchExpressions":[{"key":"a","operator":"Exists"}],"matchLabels":{"a":"b"}}: field is immutable
            "#]],
        );
    }
}
