//! EndpointSlice: the addresses behind each Service that has a selector.
//!
//! Rules: <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. An endpoint
//! stays in its slice as long as it can, so that a change touches as few slices as possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use proa_api::names;
use proa_api::owner::{controller_of, controller_reference};
use proa_api::selector::Labels;
use serde_json::{Value, json};

use super::facts::Key;
use super::observed::Observed;
use super::plan::{Change, Guard, Plan, Reference, Verb};
use super::service_endpoints::{Member, Port, labels, members, target_ref};
use crate::kinds::Part;

/// The value of the label that says who keeps a slice.
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// A slice holds no more endpoints than this.
const SLICE_SIZE: usize = 100;

/// Decides what the slices of one Service need.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = seen.services.get(key) else { return plan };
    if service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(groups) = members(seen, service) else { return plan };
    let mut existing = own_slices(seen, service);
    for family in families(service) {
        let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
        for (ports, group) in &groups {
            let endpoints: Vec<Endpoint> = group.iter().filter_map(|m| endpoint(seen, m, family)).collect();
            if !endpoints.is_empty() {
                wanted.insert(ports.clone(), endpoints);
            }
        }
        let (same_family, others) = existing.into_iter().partition(|s| s.address_type == family);
        existing = others;
        arrange(service, family, wanted, same_family, &mut plan);
    }
    // What is left is of an address family that the Service no longer has.
    for slice in existing {
        delete(&slice, &mut plan);
    }
    plan
}

fn families(service: &Service) -> Vec<&'static str> {
    let listed = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let name = |family: &String| if family == "IPv6" { "IPv6" } else { "IPv4" };
    match listed {
        Some(list) if !list.is_empty() => list.iter().map(name).collect(),
        _ => vec!["IPv4"],
    }
}

fn own_slices(seen: &Observed, service: &Service) -> Vec<Arc<EndpointSlice>> {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let slices =
        seen.graph.dependents(uid).filter(|m| &*m.kind.kind == "EndpointSlice" && m.deleted.is_none());
    let mut slices: Vec<Arc<EndpointSlice>> = slices
        .filter_map(|m| seen.endpoint_slices.get(&m.key))
        .filter(|s| {
            let manager =
                s.metadata.labels.as_ref().and_then(|l| l.get(names::LABEL_ENDPOINT_SLICE_MANAGED_BY));
            manager.is_some_and(|m| m == MANAGED_BY)
                && controller_of(&s.metadata).is_some_and(|c| c.uid == uid)
        })
        .cloned()
        .collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    slices
}

fn endpoint(seen: &Observed, member: &Member<'_>, family: &str) -> Option<Endpoint> {
    let pod = member.pod;
    let address = pod.ips.iter().find(|ip| ip.contains(':') == (family == "IPv6"))?;
    let node = pod.node.as_ref().and_then(|n| seen.nodes.get(n));
    Some(Endpoint {
        addresses: vec![address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(member.ready),
            serving: Some(member.serving),
            terminating: Some(member.terminating),
        }),
        hostname: member.hostname.clone(),
        node_name: pod.node.as_ref().map(|n| n.to_string()),
        target_ref: Some(target_ref(pod)),
        zone: node.and_then(|n| n.labels.get("topology.kubernetes.io/zone").cloned()),
        ..Endpoint::default()
    })
}

/// Puts the endpoints of one address family into slices: each group of ports into its own.
fn arrange(
    service: &Service,
    family: &'static str,
    wanted: BTreeMap<Vec<Port>, Vec<Endpoint>>,
    slices: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    if wanted.is_empty() {
        // A Service without endpoints keeps one empty slice, so that readers can tell it from
        // one that has not been looked at yet.
        let Some((first, others)) = slices.split_first() else {
            create(service, family, &[], &[], plan);
            return;
        };
        update(service, first, first.ports.as_deref().unwrap_or_default(), &[], plan);
        others.iter().for_each(|slice| delete(slice, plan));
        return;
    }
    let mut left = slices;
    for (ports, endpoints) in wanted {
        let ports: Vec<EndpointPort> = ports.iter().map(slice_port).collect();
        // An empty slice serves any ports: it is taken over rather than replaced.
        let (mut fitting, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|s| same_ports(s, &ports));
        left = others;
        if fitting.is_empty()
            && let Some(at) = left.iter().position(|s| s.endpoints.is_empty())
        {
            fitting.push(left.remove(at));
        }
        fill(service, family, &ports, endpoints, fitting, plan);
    }
    for slice in left {
        delete(&slice, plan);
    }
}

fn fill(
    service: &Service,
    family: &'static str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut waiting: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let stay =
            slice.endpoints.iter().filter_map(|e| waiting.remove(&identity(e))).take(SLICE_SIZE).collect();
        kept.push((slice, stay));
    }
    let mut waiting = waiting.into_values();
    for (_, list) in &mut kept {
        let room = SLICE_SIZE.saturating_sub(list.len());
        list.extend(waiting.by_ref().take(room));
    }
    for (slice, list) in &kept {
        if list.is_empty() {
            delete(slice, plan);
        } else {
            update(service, slice, ports, list, plan);
        }
    }
    let rest: Vec<Endpoint> = waiting.collect();
    for chunk in rest.chunks(SLICE_SIZE) {
        create(service, family, ports, chunk, plan);
    }
}

fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
    format!("{uid} {}", endpoint.addresses.first().map(String::as_str).unwrap_or_default())
}

fn slice_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

/// A port without a name has an empty one.
fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    let own = slice.ports.as_deref().unwrap_or_default();
    let bare =
        |p: &EndpointPort| EndpointPort { name: p.name.clone().filter(|n| !n.is_empty()), ..p.clone() };
    own.len() == ports.len() && own.iter().zip(ports).all(|(a, b)| bare(a) == bare(b))
}

fn slice_labels(service: &Service) -> Labels {
    let mut labels = labels(service);
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(names::LABEL_SERVICE_NAME.to_owned(), name);
    labels.insert(names::LABEL_ENDPOINT_SLICE_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    labels
}

fn create(service: &Service, family: &str, ports: &[EndpointPort], endpoints: &[Endpoint], plan: &mut Plan) {
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", service.metadata.name.as_deref().unwrap_or_default()),
            "namespace": service.metadata.namespace,
            "labels": slice_labels(service),
            "ownerReferences": [controller_reference(service)],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    });
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    plan.act(Verb::Create { api_version: "discovery.k8s.io/v1", kind: "EndpointSlice", namespace, body });
}

fn update(
    service: &Service,
    slice: &EndpointSlice,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
    plan: &mut Plan,
) {
    let labels = slice_labels(service);
    let before = slice.metadata.labels.clone().unwrap_or_default();
    if slice.endpoints == endpoints && same_ports(slice, ports) && before == labels {
        return;
    }
    let mut changes: BTreeMap<&str, Value> = labels.iter().map(|(k, v)| (k.as_str(), json!(v))).collect();
    for gone in before.keys().filter(|k| !labels.contains_key(*k)) {
        changes.insert(gone, Value::Null);
    }
    let version = slice.metadata.resource_version.as_deref().unwrap_or_default();
    plan.act(Verb::Patch {
        target: Reference::to(slice),
        part: Part::Main,
        guard: Guard::unchanged(version),
        change: Change::Merge(
            json!({ "metadata": { "labels": changes }, "endpoints": endpoints, "ports": ports }),
        ),
    });
}

fn delete(slice: &EndpointSlice, plan: &mut Plan) {
    plan.act(Verb::Delete {
        target: Reference::to(slice),
        resource_version: None,
        propagation: None,
        grace_period_seconds: None,
        unless: Vec::new(),
    });
}
