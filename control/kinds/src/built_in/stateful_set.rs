//! StatefulSet: pods with names that stay, made and replaced in order.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use proa_api::field::{FieldErrors, Path};

use super::persistent_volume_claim::PersistentVolumeClaims;
use super::template;
use crate::columns::{age, column, name, number, template_containers, template_images};
use crate::rules::TypedRules;
use crate::syntax::{self, NOT_NEGATIVE, one_of, report};
use crate::{Kind, ScalePaths, Subresource};

const SPEC: Path<'static> = Path::root("spec");
const MAY_CHANGE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                          'minReadySeconds' are forbidden";

/// The rules of StatefulSets.
pub struct StatefulSets;

/// The row of StatefulSets.
pub fn kind() -> Kind {
    Kind {
        columns: vec![
            name(),
            column("Ready", "string", "Number of the pods that are ready, of those wanted", |o, _| {
                format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into()
            }),
            age(),
            template_containers(),
            template_images(),
        ],
        ..template::workload::<StatefulSets>("sts")
    }
    .with([Subresource::scale(ScalePaths::OF_WORKLOADS)])
}

impl TypedRules for StatefulSets {
    type Object = StatefulSet;
    const HAS_STATUS: bool = true;

    fn default(set: &mut StatefulSet) {
        set.status.get_or_insert_default();
        let spec = set.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.pod_management_policy.get_or_insert_with(|| "OrderedReady".to_owned());
        let strategy = spec.update_strategy.get_or_insert_default();
        let type_ = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned());
        if type_ == "RollingUpdate" {
            strategy.rolling_update.get_or_insert_default().partition.get_or_insert(0);
        }
        let retention = spec
            .persistent_volume_claim_retention_policy
            .get_or_insert_with(StatefulSetPersistentVolumeClaimRetentionPolicy::default);
        retention.when_deleted.get_or_insert_with(|| "Retain".to_owned());
        retention.when_scaled.get_or_insert_with(|| "Retain".to_owned());
        template::default(&mut spec.template);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            PersistentVolumeClaims::default(claim);
        }
    }

    fn validate(set: &StatefulSet, errors: &mut FieldErrors) {
        if let Some(spec) = &set.spec {
            validate_spec(spec, errors);
        }
    }

    fn validate_update(old: &StatefulSet, new: &StatefulSet, errors: &mut FieldErrors) {
        let (Some(old), Some(new)) = (&old.spec, &new.spec) else { return };
        let masked = StatefulSetSpec {
            replicas: old.replicas,
            ordinals: old.ordinals.clone(),
            template: old.template.clone(),
            update_strategy: old.update_strategy.clone(),
            revision_history_limit: old.revision_history_limit,
            persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
            min_ready_seconds: old.min_ready_seconds,
            ..new.clone()
        };
        if masked != *old {
            errors.forbidden(&SPEC, MAY_CHANGE);
        }
    }

    fn validate_status_update(_old: &StatefulSet, new: &StatefulSet, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let counts = [
            ("replicas", Some(status.replicas)),
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
            ("availableReplicas", status.available_replicas),
            ("collisionCount", status.collision_count),
        ];
        template::counts(&counts, status.replicas, errors);
    }
}

fn validate_spec(spec: &StatefulSetSpec, errors: &mut FieldErrors) {
    let policies = ["OrderedReady", "Parallel"];
    one_of(spec.pod_management_policy.as_deref(), &policies, &SPEC.field("podManagementPolicy"), errors);
    validate_strategy(spec, errors);
    let counts = [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
    ];
    template::not_negative(&counts, errors);
    if let Some(start) = spec.ordinals.as_ref().and_then(|o| o.start).filter(|start| *start < 0) {
        let path = SPEC.field("ordinals");
        errors.invalid(&path.field("start"), start, NOT_NEGATIVE);
    }
    if let Some(service) = spec.service_name.as_deref().filter(|name| !name.is_empty()) {
        report(syntax::subdomain(service), &SPEC.field("serviceName"), service, errors);
    }
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let path = SPEC.field("persistentVolumeClaimRetentionPolicy");
        let policies = ["Delete", "Retain"];
        for (field, policy) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
            let policy = policy.as_deref().unwrap_or_default();
            if !policies.contains(&policy) {
                errors.not_supported(&path.field(field), policy, &policies);
            }
        }
    }
    template::selector(&spec.selector, errors);
    template::validate(&with_claims(spec), &spec.selector, "StatefulSet", errors);
}

/// The pod template with the volumes that its pods get, so that mounts may refer to them. A claim
/// goes before a volume of its name.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let names: Vec<String> = spec
        .volume_claim_templates
        .iter()
        .flatten()
        .filter_map(|claim| claim.metadata.name.clone().filter(|name| !name.is_empty()))
        .collect();
    if let (Some(pod), false) = (&mut template.spec, names.is_empty()) {
        let volumes = pod.volumes.get_or_insert_default();
        let claimed: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        volumes.retain(|volume| !claimed.contains(volume.name.as_str()));
        volumes.extend(names.into_iter().map(|name| Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name.clone(),
                read_only: None,
            }),
            name,
            ..Volume::default()
        }));
    }
    template
}

fn validate_strategy(spec: &StatefulSetSpec, errors: &mut FieldErrors) {
    let Some(strategy) = &spec.update_strategy else { return };
    let path = SPEC.field("updateStrategy");
    let rolling_path = path.field("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("", _) => errors.required(&path.field("type"), ""),
        ("OnDelete", Some(rolling)) => {
            let value = serde_json::to_value(rolling).unwrap_or_default();
            let text = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&rolling_path, value, text);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            if let Some(partition) = rolling.partition.filter(|partition| *partition < 0) {
                errors.invalid(&rolling_path.field("partition"), partition, NOT_NEGATIVE);
            }
            if let Some(limit) = &rolling.max_unavailable {
                let path = rolling_path.field("maxUnavailable");
                template::int_or_percent(limit, &path, errors);
                template::at_most_all(limit, &path, errors);
                if template::amount(limit) == Some(0) {
                    let value = serde_json::to_value(limit).unwrap_or_default();
                    errors.invalid(&path, value, "cannot be 0");
                }
            }
        }
        (other, _) => errors.not_supported(&path.field("type"), other, &["RollingUpdate", "OnDelete"]),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: apps/v1, kind: StatefulSet, spec: {serviceName: s, selector: {matchLabels: {a: b}}, template: \
                        {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i:1}]}}}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
                apiVersion: apps/v1
                kind: StatefulSet
                metadata:
                  name: x
                  namespace: default
                spec:
                  persistentVolumeClaimRetentionPolicy:
                    whenDeleted: Retain
                    whenScaled: Retain
                  podManagementPolicy: OrderedReady
                  replicas: 1
                  revisionHistoryLimit: 10
                  selector:
                    matchLabels:
                      a: b
                  serviceName: s
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
                      partition: 0
                    type: RollingUpdate
                status:
                  replicas: 0
                  availableReplicas: 0
            "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {selector: {matchLabels: {a: c}}}}",
                "{spec: {replicas: -1, minReadySeconds: -1, revisionHistoryLimit: -1, ordinals: {start: -1}}}",
                "{spec: {podManagementPolicy: Random}}",
                "{spec: {serviceName: A_b}}",
                "{spec: {updateStrategy: {type: Recreate}}}",
                "{spec: {updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {partition: -1, maxUnavailable: 0}}}}",
                "{spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 120%}}}}",
                "{spec: {template: {spec: {restartPolicy: Never}}}}",
                "{spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Keep, whenScaled: Lose}}}",
                "{spec: {template: {spec: {containers: [{volumeMounts: [{name: data, mountPath: /d}]}]}}}}",
                "{spec: {volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], \
                 resources: {requests: {storage: 1Gi}}}}], \
                 template: {spec: {containers: [{volumeMounts: [{name: data, mountPath: /d}]}]}}}}",
            ],
            expect![[r#"
                spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`
                spec.replicas: Invalid value: -1: must be greater than or equal to 0
                spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0
                spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0
                spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0
                spec.podManagementPolicy: Unsupported value: "Random": supported values: "OrderedReady", "Parallel"
                spec.serviceName: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.updateStrategy.type: Unsupported value: "Recreate": supported values: "RollingUpdate", "OnDelete"
                spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy 'RollingUpdate'
                spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0
                spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "120%": must not be greater than 100%
                spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
                spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: "Keep": supported values: "Delete", "Retain"
                spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Lose": supported values: "Delete", "Retain"
                spec.template.spec.containers[0].volumeMounts[0].name: Not found: "data"
                accepted: {"spec":{"volumeClaimTemplates":[{"metadata":{"name":"data"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}],"template":{"spec":{"containers":[{"volumeMounts":[{"name":"data","mountPath":"/d"}]}]}}}}
            "#]],
        );
        update_refusals(
            BASE,
            &[
                "{spec: {replicas: 3, minReadySeconds: 1, template: {spec: {containers: [{image: j}]}}, updateStrategy: {rollingUpdate: {partition: 1}}}}",
                "{spec: {serviceName: t}}",
                "{spec: {podManagementPolicy: Parallel}}",
                "{spec: {volumeClaimTemplates: [{metadata: {name: data}, spec: {}}]}}",
            ],
            expect![[r#"
                accepted: {"spec":{"replicas":3,"minReadySeconds":1,"template":{"spec":{"containers":[{"image":"j"}]}},"updateStrategy":{"rollingUpdate":{"partition":1}}}}
                spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden
                spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden
                spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden
            "#]],
        );
    }
}
