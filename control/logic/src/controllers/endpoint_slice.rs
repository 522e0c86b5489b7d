//! EndpointSlice: the addresses behind each Service that has a selector.
//!
//! Rules: <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. An endpoint
//! stays in its slice as long as it can, so that a change touches as few slices as possible.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};
use proa_api::owner::controller_reference;

use super::service_endpoints::{Member, Port, labels, members, target_ref};
use super::slices::{self, Keeper};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::Plan;

/// The value of the label that says who keeps a slice.
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// Decides what the slices of one Service need.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = seen.services.get(key) else { return plan };
    if service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(groups) = members(seen, service) else { return plan };
    let keeper = Keeper {
        manager: MANAGED_BY,
        service: &key.name,
        namespace: &key.namespace,
        owner: controller_reference(&**service),
        labels: labels(service),
        annotations: BTreeMap::new(),
    };
    let mut existing = slices::kept(seen, &keeper.owner.uid, MANAGED_BY);
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
        if wanted.is_empty() {
            slices::empty(&keeper, family, &same_family, &mut plan);
        } else {
            slices::arrange(&keeper, family, wanted, same_family, &mut plan);
        }
    }
    // What is left is of an address family that the Service no longer has.
    for slice in existing {
        slices::delete(&slice, &mut plan);
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

fn endpoint(seen: &Observed, member: &Member<'_>, family: &str) -> Option<Endpoint> {
    let pod = member.pod;
    let address = pod.ips.iter().find(|ip| slices::family_of(ip) == family)?;
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
