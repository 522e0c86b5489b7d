//! NodeRestriction: the addresses that a node may say it and its pods have.
//!
//! Services and Ingresses lead to the addresses in the status of pods, the API server calls nodes at
//! theirs, and no Service gets an address that a Node shows. A node writes all of these itself, so it
//! may write none that is somebody else's. The stock plugin leaves this to the network; here the
//! addresses of pods are those of their node's range, and nothing else gives them out.

use std::net::IpAddr;

use proa_api::Refusal;
use proa_logic::controllers::node_ipam::Range;
use serde_json::Value;

use super::service::AddressRange;
use crate::store::Store;
use crate::write::stage::Attempt;

/// Addresses that one write may add to a Node.
const MAX_ADDRESSES: usize = 64;

/// Whose addresses are not a node's to have.
#[derive(Clone, Copy)]
pub struct Ranges {
    /// Where nodes get the addresses of their pods; `None` if that is not known.
    pub pods: Option<Range>,
    /// Where Services get their addresses.
    pub services: AddressRange,
}

/// Refuses what a node may not say of addresses. `old` is what was there before; `new` has been
/// validated.
pub fn check(attempt: &Attempt<'_>, cluster: Ranges, node: &str, new: &Value) -> Result<(), Refusal> {
    let (store, kind, old) = (attempt.store, attempt.kind, attempt.old);
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let wrong = match (kind.group.as_str(), kind.kind.as_str()) {
        // A Node that is there cannot be made: that is told, and nothing of it is looked at.
        ("", "Node") if old.is_none() && store.collection("nodes").get("", node).is_some() => None,
        ("", "Node") => wrong_range(store, cluster, node, old, new)
            .or_else(|| wrong_address(store, cluster, node, old, new)),
        ("", "Pod") => wrong_pod_address(store, node, old, new),
        _ => None,
    };
    match wrong {
        Some(why) => Err(Refusal::forbidden(kind.resource(), name, format!("node {node:?} {why}"))),
        None => Ok(()),
    }
}

/// A node may register with a range for its pods, if it is free and no wider than the cluster gives
/// out. Later the range is not its to set.
fn wrong_range(
    store: &Store,
    cluster: Ranges,
    node: &str,
    old: Option<&Value>,
    new: &Value,
) -> Option<String> {
    let none = Value::Null;
    let before = old.map_or(&none, |old| &old["spec"]);
    if before["podCIDR"] == new["spec"]["podCIDR"] && before["podCIDRs"] == new["spec"]["podCIDRs"] {
        return None;
    }
    if old.is_some() {
        return Some("is not allowed to modify podCIDR".to_owned());
    }
    let set: Vec<&str> = ranges(new).collect();
    for text in &set {
        let refuse = |why: &str| Some(format!("is not allowed to set podCIDR {text}: {why}"));
        let Some(range) = Range::parse(text).filter(|range| range.fits_one_node()) else {
            return refuse("it is no range of one node");
        };
        if cluster.pods.is_some_and(|pods| !pods.covers(range)) {
            return refuse("it is outside the cluster's range");
        }
        let taken = other_nodes(store, node)
            .into_iter()
            .find(|other| ranges(other).filter_map(Range::parse).any(|other| other.overlaps(range)));
        if let Some(other) = taken {
            return refuse(&format!("node {} has addresses of it", other["metadata"]["name"]));
        }
    }
    None
}

fn ranges(node: &Value) -> impl Iterator<Item = &str> {
    let all = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    all.chain([&node["spec"]["podCIDR"]]).filter_map(Value::as_str).filter(|text| !text.is_empty())
}

/// Addresses that the Node has already may stay: a Service does not get them.
fn wrong_address(
    store: &Store,
    cluster: Ranges,
    node: &str,
    old: Option<&Value>,
    new: &Value,
) -> Option<String> {
    let had: Vec<IpAddr> = old.into_iter().flat_map(node_addresses).collect();
    // A loopback address is each machine's own, and leads nobody anywhere else.
    let added: Vec<IpAddr> = node_addresses(new)
        .filter(|ip| !ip.is_loopback() && !had.contains(ip))
        .take(MAX_ADDRESSES + 1)
        .collect();
    if added.is_empty() {
        return None;
    }
    if added.len() > MAX_ADDRESSES {
        return Some(format!("is not allowed to add more than {MAX_ADDRESSES} addresses"));
    }
    let refuse = |ip: IpAddr, why: &str| Some(format!("is not allowed to set address {ip}: {why}"));
    for ip in &added {
        if cluster.pods.is_some_and(|pods| pods.contains(*ip)) {
            return refuse(*ip, "it is one of the pods' addresses");
        }
        if cluster.services.contains(*ip) {
            return refuse(*ip, "it is one of the Services' addresses");
        }
    }
    for other in other_nodes(store, node) {
        if let Some(ip) = node_addresses(&other).find(|ip| added.contains(ip)) {
            return refuse(ip, &format!("node {} has it", other["metadata"]["name"]));
        }
    }
    let services = store.collection("services").all(None);
    let taken = services.iter().find_map(|object| {
        let value = object.value();
        service_addresses(&value).find(|ip| added.contains(ip))
    });
    taken.and_then(|ip| refuse(ip, "a Service has it"))
}

fn node_addresses(node: &Value) -> impl Iterator<Item = IpAddr> {
    let all = node["status"]["addresses"].as_array().into_iter().flatten();
    all.filter_map(|address| ip(&address["address"]))
}

/// The addresses that lead to a Service beside its own, which are in the range of all Services.
fn service_addresses(service: &Value) -> impl Iterator<Item = IpAddr> {
    let external = service["spec"]["externalIPs"].as_array().into_iter().flatten();
    let balanced = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    external.chain(balanced.map(|ingress| &ingress["ip"])).filter_map(ip)
}

fn other_nodes(store: &Store, node: &str) -> Vec<Value> {
    let nodes = store.collection("nodes").all(None);
    nodes.iter().filter(|object| &*object.key.name != node).map(|object| object.value()).collect()
}

/// A pod has an address of its node's range, or the node's own with `hostNetwork`.
fn wrong_pod_address(store: &Store, node: &str, old: Option<&Value>, new: &Value) -> Option<String> {
    let before = old.map(pod_addresses).unwrap_or_default();
    let now = pod_addresses(new);
    if now == before {
        return None;
    }
    let own = store.collection("nodes").get("", node).map(|object| object.value()).unwrap_or_default();
    let on_host = new["spec"]["hostNetwork"] == true;
    for text in now {
        let address = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let is_own = |ip: IpAddr| match on_host {
            true => node_addresses(&own).any(|own| own == ip),
            false => ranges(&own).filter_map(Range::parse).any(|range| range.contains(ip)),
        };
        if !address.is_some_and(is_own) {
            let whose = if on_host { "the node's own" } else { "of the node's podCIDR" };
            return Some(format!("is not allowed to set podIP {text}: it is not {whose}"));
        }
    }
    None
}

fn pod_addresses(pod: &Value) -> Vec<&str> {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|entry| &entry["ip"]);
    all.chain([&pod["status"]["podIP"]]).filter_map(Value::as_str).filter(|ip| !ip.is_empty()).collect()
}

fn ip(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
