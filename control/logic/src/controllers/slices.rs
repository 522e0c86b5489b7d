//! EndpointSlices as a set: puts the endpoints of something into slices, with as few changes as
//! possible. An endpoint stays in its slice as long as it can.
//!
//! Used by `endpoint_slice.rs`, which keeps the slices of Services with a selector, and by
//! `endpoint_slice_mirroring.rs`, which keeps those of Endpoints made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proa_api::names;
use proa_api::owner::controller_of;
use proa_api::selector::Labels;
use serde_json::{Value, json};

use super::service_endpoints::Port;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

/// A slice holds no more endpoints than this.
const SLICE_SIZE: usize = 100;

/// Whose slices they are.
pub(super) struct Keeper<'a> {
    /// Who keeps them: the value of the label that says so.
    pub manager: &'static str,
    /// The Service that they are for.
    pub service: &'a str,
    /// Where.
    pub namespace: &'a str,
    /// What they belong to.
    pub owner: OwnerReference,
    /// Labels beside those that say whose they are.
    pub labels: Labels,
    /// Annotations that they have at least.
    pub annotations: Labels,
}

/// The slices that `manager` keeps for the object with this uid, by name.
pub(super) fn kept(seen: &Observed, uid: &str, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let slices = seen.graph.dependents(uid).filter(|m| m.kind.is::<EndpointSlice>() && m.deleted.is_none());
    let mut slices: Vec<Arc<EndpointSlice>> = slices
        .filter_map(|m| seen.endpoint_slices.get(&m.key))
        .filter(|s| {
            let labels = s.metadata.labels.as_ref();
            let label = labels.and_then(|l| l.get(names::LABEL_ENDPOINT_SLICE_MANAGED_BY));
            label.is_some_and(|m| m == manager) && controller_of(&s.metadata).is_some_and(|c| c.uid == uid)
        })
        .cloned()
        .collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    slices
}

/// The address family of an address.
pub(super) fn family_of(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// Puts the endpoints of one address family into slices: each group of ports into its own.
pub(super) fn arrange(
    keeper: &Keeper<'_>,
    family: &'static str,
    wanted: BTreeMap<Vec<Port>, Vec<Endpoint>>,
    slices: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
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
        fill(keeper, family, &ports, endpoints, fitting, plan);
    }
    for slice in left {
        delete(&slice, plan);
    }
}

/// Keeps one slice without endpoints, so that readers can tell a Service that has none from one
/// that has not been looked at yet.
pub(super) fn empty(keeper: &Keeper<'_>, family: &str, slices: &[Arc<EndpointSlice>], plan: &mut Plan) {
    let Some((first, others)) = slices.split_first() else {
        create(keeper, family, &[], &[], plan);
        return;
    };
    update(keeper, first, first.ports.as_deref().unwrap_or_default(), &[], plan);
    others.iter().for_each(|slice| delete(slice, plan));
}

fn fill(
    keeper: &Keeper<'_>,
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
            update(keeper, slice, ports, list, plan);
        }
    }
    let rest: Vec<Endpoint> = waiting.collect();
    for chunk in rest.chunks(SLICE_SIZE) {
        create(keeper, family, ports, chunk, plan);
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

fn labels_of(keeper: &Keeper<'_>) -> Labels {
    let mut labels = keeper.labels.clone();
    labels.insert(names::LABEL_SERVICE_NAME.to_owned(), keeper.service.to_owned());
    labels.insert(names::LABEL_ENDPOINT_SLICE_MANAGED_BY.to_owned(), keeper.manager.to_owned());
    labels
}

fn create(
    keeper: &Keeper<'_>,
    family: &str,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
    plan: &mut Plan,
) {
    let mut body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", keeper.service),
            "namespace": keeper.namespace,
            "labels": labels_of(keeper),
            "ownerReferences": [keeper.owner],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    });
    if !keeper.annotations.is_empty() {
        body["metadata"]["annotations"] = json!(keeper.annotations);
    }
    let namespace = keeper.namespace.to_owned();
    plan.act(Verb::Create { api_version: "discovery.k8s.io/v1", kind: "EndpointSlice", namespace, body });
}

fn update(
    keeper: &Keeper<'_>,
    slice: &EndpointSlice,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
    plan: &mut Plan,
) {
    let labels = labels_of(keeper);
    let before = slice.metadata.labels.clone().unwrap_or_default();
    let noted = slice.metadata.annotations.as_ref();
    let is_noted = |(k, v): (&String, &String)| noted.and_then(|n| n.get(k)) == Some(v);
    if slice.endpoints == endpoints
        && same_ports(slice, ports)
        && before == labels
        && keeper.annotations.iter().all(is_noted)
    {
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
        change: Change::Merge(json!({
            "metadata": { "labels": changes, "annotations": keeper.annotations },
            "endpoints": endpoints,
            "ports": ports,
        })),
    });
}

pub(super) fn delete(slice: &EndpointSlice, plan: &mut Plan) {
    plan.act(Verb::Delete {
        target: Reference::to(slice),
        resource_version: None,
        propagation: None,
        grace_period_seconds: None,
        unless: Vec::new(),
    });
}
