//! Node: a machine that runs pods.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Taint};
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;
use serde_json::Value;

use crate::columns::{age, column, items, name, or_none, text, wide};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, report};
use crate::{Kind, PROXY_VERBS, SelectableField, Subresource};

/// The effects of taints.
pub const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// The types of addresses that are names.
const DNS_ADDRESSES: [&str; 3] = ["Hostname", "InternalDNS", "ExternalDNS"];
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// The rules of Nodes.
pub struct Nodes;

/// The row of Nodes.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["no".into()],
        columns: vec![
            name(),
            column("Status", "string", "The status of the node", |o, _| status(o).into()),
            column("Roles", "string", "The roles of the node", |o, _| roles(o).into()),
            age(),
            column("Version", "string", "Version of the program that runs pods on the node.", |o, _| {
                text(o, "/status/nodeInfo/kubeletVersion").into()
            }),
            wide("Internal-IP", "Address of the node inside the cluster.", |o, _| {
                address(o, "InternalIP").into()
            }),
            wide("External-IP", "Address of the node outside the cluster.", |o, _| {
                address(o, "ExternalIP").into()
            }),
            wide("OS-Image", "The operating system as it calls itself.", |o, _| info(o, "osImage").into()),
            wide("Kernel-Version", "Version of the kernel.", |o, _| info(o, "kernelVersion").into()),
            wide("Container-Runtime", "Name and version of the container runtime.", |o, _| {
                info(o, "containerRuntimeVersion").into()
            }),
        ],
        selectable_fields: vec![SelectableField::new("spec.unschedulable", |o| unschedulable(o).to_string())],
        ..row::<Nodes>()
    }
    .with([Subresource::action("proxy", Some(("", "v1", "NodeProxyOptions")), PROXY_VERBS)])
}

fn unschedulable(node: &Value) -> bool {
    node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or_default()
}

fn status(node: &Value) -> String {
    let ready = items(node, "/status/conditions").find(|c| text(c, "/type") == "Ready");
    let ready = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if unschedulable(node) { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            _ => None,
        })
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(",")).to_owned()
}

fn address<'a>(node: &'a Value, type_: &str) -> &'a str {
    let found = items(node, "/status/addresses").find(|a| text(a, "/type") == type_);
    or_none(found.map(|a| text(a, "/address")).unwrap_or_default())
}

fn info<'a>(node: &'a Value, field: &str) -> &'a str {
    let value = node.pointer("/status/nodeInfo").map(|info| text_field(info, field)).unwrap_or_default();
    if value.is_empty() { "<unknown>" } else { value }
}

fn text_field<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

impl TypedRules for Nodes {
    type Object = Node;
    const NAMESPACED: bool = false;
    const HAS_STATUS: bool = true;
    const CREATES_WITH_STATUS: bool = true;

    fn default(node: &mut Node) {
        node.spec.get_or_insert_default();
        // What is not allocatable by the node's own word is all there is.
        if let Some(status) = &mut node.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn validate(node: &Node, errors: &mut FieldErrors) {
        let Some(spec) = &node.spec else { return };
        let path = Path::root("spec");
        taints(spec.taints.as_deref().unwrap_or_default(), &path.field("taints"), errors);
        let ranges = spec.pod_cidrs.as_deref().unwrap_or_default();
        let ranges_path = path.field("podCIDRs");
        for (i, range) in ranges.iter().enumerate() {
            report(syntax::cidr(range), &ranges_path.index(i), range, errors);
        }
        let first = spec.pod_cidr.as_deref().unwrap_or_default();
        if !first.is_empty() && ranges.is_empty() {
            report(syntax::cidr(first), &path.field("podCIDR"), first, errors);
        } else if !ranges.is_empty() && ranges[0] != first {
            errors.invalid(&ranges_path.index(0), ranges[0].as_str(), "must match `podCIDR`");
        }
        validate_amounts(node, errors);
    }

    fn validate_create(node: &Node, errors: &mut FieldErrors) {
        validate_addresses(node, errors);
    }

    fn validate_update(old: &Node, new: &Node, errors: &mut FieldErrors) {
        let spec = Path::root("spec");
        let ranges = |node: &Node| node.spec.as_ref().and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
        if !ranges(old).is_empty() && ranges(old) != ranges(new) {
            errors.forbidden(
                &spec.field("podCIDRs"),
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
        let provider =
            |node: &Node| node.spec.as_ref().and_then(|s| s.provider_id.clone()).unwrap_or_default();
        if !provider(old).is_empty() && provider(old) != provider(new) {
            errors.forbidden(
                &spec.field("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }

    fn validate_status_update(_old: &Node, new: &Node, errors: &mut FieldErrors) {
        validate_addresses(new, errors);
        validate_amounts(new, errors);
    }
}

/// Names among the addresses are those of one host, as certificates and resolvers take them.
fn validate_addresses(node: &Node, errors: &mut FieldErrors) {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let path = Path::root("status");
    let path = path.field("addresses");
    let mut seen = BTreeSet::new();
    for (i, address) in addresses.iter().enumerate() {
        if !seen.insert((&address.type_, &address.address)) {
            let value = serde_json::to_value(address).unwrap_or_default();
            errors.duplicate(&path.index(i), value);
        }
        if DNS_ADDRESSES.contains(&address.type_.as_str()) {
            let at = path.index(i);
            report(syntax::subdomain(&address.address), &at.field("address"), &address.address, errors);
        }
    }
}

fn validate_amounts(node: &Node, errors: &mut FieldErrors) {
    let Some(status) = &node.status else { return };
    let path = Path::root("status");
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = path.field(field);
        for (resource, quantity) in amounts.iter().flatten() {
            if Amount::parse(&quantity.0).is_ok_and(Amount::is_negative) {
                errors.invalid(&path.key(resource), quantity.0.as_str(), syntax::NOT_NEGATIVE);
            }
        }
    }
}

fn taints(taints: &[Taint], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        report(syntax::qualified_name(&taint.key), &at.field("key"), &taint.key, errors);
        let value = taint.value.as_deref().unwrap_or_default();
        report(syntax::label_value(value), &at.field("value"), value, errors);
        match taint.effect.as_str() {
            "" => errors.required(&at.field("effect"), ""),
            effect if TAINT_EFFECTS.contains(&effect) => {}
            effect => errors.not_supported(&at.field("effect"), effect, &TAINT_EFFECTS),
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.duplicate(&at, serde_json::to_value(taint).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: v1, kind: Node, spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24]}}";

    #[test]
    fn rules() {
        created(
            "{apiVersion: v1, kind: Node, status: {capacity: {cpu: 2, memory: 2048Mi}}}",
            expect![[r#"
            apiVersion: v1
            kind: Node
            metadata:
              name: x
            spec: {}
            status:
              allocatable:
                cpu: '2'
                memory: 2Gi
              capacity:
                cpu: '2'
                memory: 2Gi
        "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {podCIDR: 10.0.1.0/24}}",
                "{spec: {podCIDRs: [x]}}",
                "{spec: {taints: [{key: 'a b', effect: ''}, {key: a, value: 'a b', effect: Never}]}}",
                "{spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule}]}}",
                "{status: {capacity: {cpu: -1}}}",
                "{status: {addresses: [{type: Hostname, address: '*.default.svc'}, {type: InternalDNS, address: KUBERNETES}, {type: ExternalDNS, address: ''}]}}",
                "{status: {addresses: [{type: Hostname, address: a.b-c}, {type: ExternalIP, address: 192.0.2.1}, {type: Hostname, address: a.b-c}]}}",
            ],
            expect![[r#"
                spec.podCIDRs[0]: Invalid value: "10.0.0.0/24": must match `podCIDR`
                spec.podCIDRs[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
                spec.podCIDRs[0]: Invalid value: "x": must match `podCIDR`
                spec.taints[0].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.taints[0].effect: Required value
                spec.taints[1].value: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                spec.taints[1].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
                spec.taints[1]: Duplicate value: {"effect":"NoSchedule","key":"a"}
                status.capacity[cpu]: Invalid value: "-1": must be greater than or equal to 0
                status.allocatable[cpu]: Invalid value: "-1": must be greater than or equal to 0
                status.addresses[0].address: Invalid value: "*.default.svc": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                status.addresses[1].address: Invalid value: "KUBERNETES": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                status.addresses[2].address: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                status.addresses[2]: Duplicate value: {"address":"a.b-c","type":"Hostname"}
            "#]],
        );
        update_refusals(
            BASE,
            &["{spec: {podCIDR: 10.0.1.0/24, podCIDRs: [10.0.1.0/24]}}", "{spec: {unschedulable: true}}"],
            expect![[r#"
                spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid
                accepted: {"spec":{"unschedulable":true}}
            "#]],
        );
    }

    #[test]
    fn columns() {
        let node = serde_json::json!({
            "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            },
        });
        assert_eq!(status(&node), "Ready,SchedulingDisabled");
        assert_eq!(roles(&node), "control-plane,worker");
        assert_eq!(address(&node, "InternalIP"), "10.0.0.1");
        assert_eq!(address(&node, "ExternalIP"), "<none>");
        assert_eq!(info(&node, "osImage"), "<unknown>");
    }
}
