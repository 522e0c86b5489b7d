//! ReplicationController: what ReplicaSets were before selectors could say more than `a=b`.
//!
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/>.

use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::field::{FieldErrors, Path};

use super::template;
use crate::columns::{pairs, wide};
use crate::rules::TypedRules;
use crate::{Kind, ScalePaths, Subresource};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of ReplicationControllers.
pub struct ReplicationControllers;

/// The row of ReplicationControllers.
pub fn kind() -> Kind {
    Kind {
        columns: template::replica_columns(wide(
            "Selector",
            "Labels of the pods that this manages.",
            |o, _| pairs(o.pointer("/spec/selector")).into(),
        )),
        selectable_fields: template::selectable_replicas(),
        ..template::workload::<ReplicationControllers>("rc")
    }
    .with([Subresource::scale(ScalePaths::OF_WORKLOADS)])
}

impl TypedRules for ReplicationControllers {
    type Object = ReplicationController;
    const HAS_STATUS: bool = true;

    fn default(controller: &mut ReplicationController) {
        controller.status.get_or_insert_default();
        let spec = controller.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let Some(template) = &mut spec.template else { return };
        template::default(template);
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let labels = labels.filter(|labels| !labels.is_empty());
        for own in [&mut spec.selector, &mut controller.metadata.labels] {
            if own.as_ref().is_none_or(|own| own.is_empty()) {
                own.clone_from(&labels);
            }
        }
    }

    fn validate(controller: &ReplicationController, errors: &mut FieldErrors) {
        let Some(spec) = &controller.spec else { return };
        template::not_negative(&[("minReadySeconds", spec.min_ready_seconds)], errors);
        let selector = spec.selector.clone().filter(|selector| !selector.is_empty());
        if selector.is_none() {
            errors.required(&SPEC.field("selector"), "");
        }
        template::not_negative(&[("replicas", spec.replicas)], errors);
        let Some(template) = &spec.template else {
            errors.required(&SPEC.field("template"), "");
            return;
        };
        // Without a selector, there is nothing that the template's labels would have to fit.
        let labels = |template: &PodTemplateSpec| template.metadata.as_ref()?.labels.clone();
        let selector = selector.or_else(|| labels(template));
        let selector = LabelSelector { match_labels: selector, ..LabelSelector::default() };
        template::validate(template, &selector, "ReplicationController", errors);
    }

    fn validate_status_update(
        _old: &ReplicationController,
        new: &ReplicationController,
        errors: &mut FieldErrors,
    ) {
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

    const BASE: &str = "{apiVersion: v1, kind: ReplicationController, spec: {template: \
                        {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i:1}]}}}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
                apiVersion: v1
                kind: ReplicationController
                metadata:
                  labels:
                    a: b
                  name: x
                  namespace: default
                spec:
                  replicas: 1
                  selector:
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
                "{spec: {selector: {a: c}}}",
                "{spec: {template: null}}",
                "{spec: {template: {spec: {restartPolicy: Never, activeDeadlineSeconds: 5}}}}",
            ],
            expect![[r#"
                spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                spec.replicas: Invalid value: -1: must be greater than or equal to 0
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
                spec.selector: Required value
                spec.template: Required value
                spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
                spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported
            "#]],
        );
        update_refusals(
            BASE,
            &["{spec: {selector: {a: b, c: d}, template: {metadata: {labels: {c: d}}}}}"],
            expect![[r#"
                accepted: {"spec":{"selector":{"a":"b","c":"d"},"template":{"metadata":{"labels":{"c":"d"}}}}}
            "#]],
        );
    }
}
