//! The built-in kinds, one file for each: its row and its rules.

pub mod certificate_signing_request;
mod config_map;
mod controller_revision;
pub mod cron_job;
mod csi;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
pub mod job;
mod lease;
mod limit_range;
mod namespace;
mod node;
mod old_versions;
mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod runtime_class;
mod secret;
pub mod service;
mod service_account;
mod service_validation;
mod stateful_set;
pub mod storage_class;
mod storage_modes;
mod template;

pub use old_versions::with_old_versions;

use crate::Table;

/// The built-in kinds, in discovery order.
pub fn table() -> Table {
    Table::new(vec![
        config_map::kind(),
        endpoints::kind(),
        event::kind(),
        limit_range::kind(),
        namespace::kind(),
        node::kind(),
        persistent_volume_claim::kind(),
        persistent_volume::kind(),
        pod::kind(),
        pod_template::kind(),
        replication_controller::kind(),
        resource_quota::kind(),
        secret::kind(),
        service_account::kind(),
        service::kind(),
        controller_revision::kind(),
        daemon_set::kind(),
        deployment::kind(),
        replica_set::kind(),
        stateful_set::kind(),
        horizontal_pod_autoscaler::kind(),
        horizontal_pod_autoscaler::v1::kind(),
        cron_job::kind(),
        job::kind(),
        lease::kind(),
        endpoint_slice::kind(),
        event_v1::kind(),
        certificate_signing_request::kind(),
        ingress_class::kind(),
        ingress::kind(),
        csi::driver(),
        csi::node(),
        storage_class::kind(),
        csi::attachment(),
        csi::attributes_class(),
        rbac::cluster_role_binding::kind(),
        rbac::cluster_role::kind(),
        rbac::role_binding::kind(),
        rbac::role::kind(),
        runtime_class::kind(),
        pod_disruption_budget::kind(),
        priority_class::kind(),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::expect;
    use serde_json::json;

    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::Write;

    #[test]
    fn every_row_can_be_found_and_shown() {
        let table = table();
        let now = Timestamp::UNIX_EPOCH;
        let mut plurals = BTreeSet::new();
        for kind in table.iter() {
            assert!(
                plurals.insert((kind.api_version(), kind.plural.clone())),
                "{} is there twice",
                kind.plural
            );
            assert_eq!(table.by_kind(&kind.api_version(), &kind.kind).unwrap().plural, kind.plural);
            for column in &kind.columns {
                let cell = (column.cell)(&Value::Null, now);
                assert!(
                    !cell.is_null(),
                    "{} of {} has no cell for an empty object",
                    column.name,
                    kind.plural
                );
            }
            for field in &kind.selectable_fields {
                (field.value)(&Value::Null);
            }
        }
    }

    #[test]
    fn bodies_that_do_not_fit() {
        let table = table();
        let pods = table.by_kind("v1", "Pod").unwrap();
        let pod = |spec: Value| json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec});
        let bodies = [
            pod(json!({"containers": {}})),
            pod(json!({"hostNetwork": "yes"})),
            pod(json!({"containers": [{"ports": [{"containerPort": "80"}]}]})),
            pod(json!({"containers": [{"ports": [{"containerPort": 8000000000u64}]}]})),
            pod(json!({"nodeSelector": {"a": 1}})),
            pod(json!({"containers": [{"command": "sh"}]})),
            pod(json!({"containers": [{"resources": {"limits": {"cpu": "much"}}}]})),
            json!({"metadata": {"creationTimestamp": "today"}}),
            json!({"kind": "Node"}),
            json!({"apiVersion": "v2"}),
            json!([]),
        ];
        let texts = bodies.map(|body| pods.apply_rules(Write::Create, body).unwrap_err().to_string() + "\n");
        expect![[r#"
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 8000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field Container.spec.containers.command of type []string
            Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            Pod in version "v1" cannot be handled as a Pod: parsing time "today" as "2006-01-02T15:04:05Z07:00": cannot parse "today" as "2006"
            Node in version "" cannot be handled as a Pod: the object provided is unrecognized (must be of type Pod): Node
            the API version in the data (v2) does not match the expected API version (v1)
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal the body into an object
        "#]].assert_eq(&texts.concat());
    }
}
