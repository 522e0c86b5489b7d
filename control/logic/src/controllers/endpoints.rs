//! Endpoints: the older form of EndpointSlices, one object per Service, for clients that still
//! read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use proa_api::selector::Labels;
use serde_json::{Value, json};

use super::service_endpoints::{Member, Port, labels, members, target_ref};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

/// Label: who keeps the object.
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// An Endpoints object holds no more addresses than this; EndpointSlices hold the rest.
const MAX_ADDRESSES: usize = 1000;

/// Decides what the Endpoints of one Service need.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let existing = seen.endpoints.get(key);
    let Some(service) = seen.services.get(key) else {
        if let Some(endpoints) = existing.filter(|e| is_ours(e)) {
            plan.act(Verb::Delete {
                target: Reference::to(&**endpoints),
                resource_version: None,
                propagation: None,
                grace_period_seconds: None,
                unless: vec![Reference::named("v1", "Service", &key.namespace, &key.name)],
            });
        }
        return plan;
    };
    if service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(groups) = members(seen, service) else { return plan };
    let subsets = subsets(groups);
    match existing {
        None => create(service, &subsets, &mut plan),
        Some(endpoints) if endpoints.metadata.deletion_timestamp.is_none() => {
            update(service, endpoints, &subsets, &mut plan);
        }
        Some(_) => {}
    }
    plan
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|l| l.get(MANAGED_BY.0)).is_some_and(|v| v == MANAGED_BY.1)
}

fn own_labels(service: &Service) -> Labels {
    let mut labels = labels(service);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn subsets(groups: BTreeMap<Vec<Port>, Vec<Member<'_>>>) -> Vec<EndpointSubset> {
    let mut left = MAX_ADDRESSES;
    let mut subsets = Vec::new();
    for (ports, members) in groups {
        let mut subset = EndpointSubset {
            ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
            ..EndpointSubset::default()
        };
        for member in members.iter().filter(|m| !m.terminating || m.ready).take(left) {
            let list = if member.ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().extend(address(member));
        }
        let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
        let total = count(&subset.addresses) + count(&subset.not_ready_addresses);
        left -= total.min(left);
        if total > 0 {
            subsets.push(subset);
        }
    }
    subsets
}

fn address(member: &Member<'_>) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: member.pod.ips.first()?.clone(),
        hostname: member.hostname.clone(),
        node_name: member.pod.node.as_ref().map(|n| n.to_string()),
        target_ref: Some(target_ref(member.pod)),
    })
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|n| !n.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn create(service: &Service, subsets: &[EndpointSubset], plan: &mut Plan) {
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": service.metadata.name,
            "namespace": namespace,
            "labels": own_labels(service),
        },
    });
    if !subsets.is_empty() {
        body["subsets"] = json!(subsets);
    }
    plan.act(Verb::Create { api_version: "v1", kind: "Endpoints", namespace, body });
}

fn update(service: &Service, endpoints: &Endpoints, subsets: &[EndpointSubset], plan: &mut Plan) {
    let labels = own_labels(service);
    let before = endpoints.metadata.labels.clone().unwrap_or_default();
    if endpoints.subsets.as_deref().unwrap_or_default() == subsets && before == labels {
        return;
    }
    let mut changes: BTreeMap<&str, Value> = labels.iter().map(|(k, v)| (k.as_str(), json!(v))).collect();
    for gone in before.keys().filter(|k| !labels.contains_key(*k)) {
        changes.insert(gone, Value::Null);
    }
    let subsets = if subsets.is_empty() { Value::Null } else { json!(subsets) };
    let version = endpoints.metadata.resource_version.as_deref().unwrap_or_default();
    plan.act(Verb::Patch {
        target: Reference::to(endpoints),
        part: Part::Main,
        guard: Guard::unchanged(version),
        change: Change::Merge(json!({ "metadata": { "labels": changes }, "subsets": subsets })),
    });
}
