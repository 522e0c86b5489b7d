//! What is known of Services and EndpointSlices, and the rules that follow from it.
//!
//! Pure. Fed by `proxy`'s watches; it keeps the few fields that matter, not the objects.
//! Source: <https://kubernetes.io/docs/reference/networking/virtual-ips/>.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proa_api::namespaced_name::{self, NamespacedName};
use proa_api::slices::{Slice, Slices};

use super::entry::{self, External, PortEntry, ServiceEntry};
use super::rules::{Backends, Endpoint, Frontend, Protocol, Rules};
use super::scope::Scope;

/// Of so many addresses of a Service it is told why they are not served.
const MOST_PROBLEMS: usize = 16;
/// So many pairs of an address beside its own and a port has a Service at most.
const MOST_FRONTENDS: usize = 1024;

/// An address that a Service asks for and does not get.
pub const REASON_ADDRESS: &str = "ExternalAddressNotServed";
/// Endpoints that this node cannot reach.
pub const REASON_ENDPOINTS: &str = "EndpointsNotReachable";

/// All Services, EndpointSlices and Nodes, as far as the rules need them.
#[derive(Default)]
pub struct Index {
    services: BTreeMap<NamespacedName, ServiceEntry>,
    slices: Slices,
    nodes: BTreeMap<String, Vec<Ipv4Addr>>,
}

/// What follows from an index.
#[derive(Default)]
pub struct Decision {
    /// The rules for all Services.
    pub rules: Rules,
    /// What Services ask for and do not get.
    pub problems: Vec<Problem>,
}

/// Something a Service asks for and does not get, to be said in an Event of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The Service.
    pub about: ObjectReference,
    /// Constant.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Index {
    /// Learns a Service.
    pub fn apply_service(&mut self, service: &Service) {
        let key = namespaced_name::of(&service.metadata);
        match entry::service_entry(service) {
            Some(entry) => self.services.insert(key, entry),
            None => self.services.remove(&key),
        };
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, service: &Service) {
        self.services.remove(&namespaced_name::of(&service.metadata));
    }

    /// Forgets all Services, before they are listed again.
    pub fn reset_services(&mut self) {
        self.services.clear();
    }

    /// Learns an EndpointSlice.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        if entry::is_left_to_others(&slice.metadata) {
            self.slices.delete(&slice.metadata);
        } else {
            self.slices.apply(slice);
        }
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, slice: &EndpointSlice) {
        self.slices.delete(&slice.metadata);
    }

    /// Forgets all EndpointSlices, before they are listed again.
    pub fn reset_slices(&mut self) {
        self.slices = Slices::default();
    }

    /// Learns a Node.
    pub fn apply_node(&mut self, node: &Node) {
        let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
        let addresses = addresses.filter_map(|a| a.address.parse().ok()).collect();
        self.nodes.insert(node.metadata.name.clone().unwrap_or_default(), addresses);
    }

    /// Forgets a Node.
    pub fn delete_node(&mut self, node: &Node) {
        self.nodes.remove(node.metadata.name.as_deref().unwrap_or_default());
    }

    /// Forgets all Nodes, before they are listed again.
    pub fn reset_nodes(&mut self) {
        self.nodes.clear();
    }

    /// The addresses of all Nodes.
    pub fn nodes(&self) -> BTreeSet<Ipv4Addr> {
        self.nodes.values().flatten().copied().collect()
    }

    /// The rules for all services.
    pub fn decide(&self, scope: &Scope) -> Decision {
        let mut decision = Decision::default();
        for (key, service) in &self.services {
            add_own(service, self.slices.of(key), scope, &mut decision);
        }
        // An address that several ask for is the oldest one's, also while that has no endpoints.
        let mut by_age: Vec<_> = self.services.iter().collect();
        by_age.sort_by_key(|(key, service)| (service.created, *key));
        let mut owners = BTreeMap::new();
        for (key, service) in by_age {
            add_external(key, service, self.slices.of(key), scope, &mut owners, &mut decision);
        }
        decision
    }
}

/// A Service's own addresses and its node ports.
fn add_own<'s>(
    service: &ServiceEntry,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    scope: &Scope,
    decision: &mut Decision,
) {
    let mut left_out = false;
    for port in &service.ports {
        let (all, local, out) = endpoints(port, slices.clone(), scope);
        left_out |= out;
        let choose = |only_local| if only_local { &local } else { &all };
        let own = service.cluster_addresses.iter().filter(|address| **address != scope.dns_address);
        for address in own {
            let frontend = frontend(*address, port.protocol, port.port);
            serve(service, frontend, choose(service.only_local_internally), decision);
        }
        if let Some(node_port) = port.node_port {
            let frontend =
                Frontend { on_host: true, ..frontend(Ipv4Addr::UNSPECIFIED, port.protocol, node_port) };
            serve(service, frontend, choose(service.only_local_externally), decision);
        }
    }
    if left_out {
        let node = &scope.node_name;
        let message = format!(
            "node {node} cannot reach the pods of other nodes yet: from there only its own endpoints are used"
        );
        decision.problems.push(Problem { about: service.about.clone(), reason: REASON_ENDPOINTS, message });
    }
}

/// The addresses that a Service asks for beside its own, where they are nobody else's.
fn add_external<'a, 's>(
    key: &'a NamespacedName,
    service: &ServiceEntry,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    scope: &Scope,
    owners: &mut BTreeMap<Frontend, &'a NamespacedName>,
    decision: &mut Decision,
) {
    let mut said = BTreeSet::new();
    let mut refuse = |external: &External, why: &str| {
        let message = match said.len() {
            MOST_PROBLEMS => "further addresses are not served".to_owned(),
            _ => format!("{} {} is not served: {why}", external.field, external.text),
        };
        if said.len() <= MOST_PROBLEMS && said.insert(message.clone()) {
            decision.problems.push(Problem { about: service.about.clone(), reason: REASON_ADDRESS, message });
        }
    };
    let mut served = Vec::new();
    for (at, external) in service.external.iter().enumerate() {
        if at * service.ports.len() >= MOST_FRONTENDS {
            refuse(external, &format!("the Service asks for more than {MOST_FRONTENDS} addresses and ports"));
            break;
        }
        let Ok(address) = external.text.parse::<Ipv4Addr>() else {
            refuse(external, "it is no IPv4 address");
            continue;
        };
        if let Some(why) = scope.refusal(address) {
            refuse(external, &why);
            continue;
        }
        if external.restricted {
            refuse(external, "loadBalancerSourceRanges is not supported");
            continue;
        }
        // Until all Nodes are known, this may be the address of one.
        if scope.nodes.is_none() {
            continue;
        }
        for port in &service.ports {
            let frontend = frontend(address, port.protocol, port.port);
            let owner = *owners.entry(frontend).or_insert(key);
            if owner == key {
                served.push((frontend, port));
            } else {
                let (namespace, name) = owner;
                let protocol = format!("{:?}", port.protocol).to_uppercase();
                let number = port.port;
                refuse(
                    external,
                    &format!(
                        "port {number}/{protocol} there is that of Service {namespace}/{name}, which is older"
                    ),
                );
            }
        }
    }
    for (frontend, port) in served {
        let (all, local, _) = endpoints(port, slices.clone(), scope);
        serve(service, frontend, if service.only_local_externally { &local } else { &all }, decision);
    }
}

fn frontend(address: Ipv4Addr, protocol: Protocol, port: u16) -> Frontend {
    Frontend { on_host: false, address, protocol, port }
}

fn serve(service: &ServiceEntry, frontend: Frontend, endpoints: &[Endpoint], decision: &mut Decision) {
    if !endpoints.is_empty() {
        let backends = Backends { pick: service.pick, endpoints: endpoints.to_vec() };
        decision.rules.entry(frontend).or_insert(backends);
    }
}

/// The ready endpoints of one port, or if there are none those that are shutting down but still
/// answer: all that this node reaches, the node's own, and whether others were left out.
fn endpoints<'s>(
    port: &PortEntry,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    scope: &Scope,
) -> (Vec<Endpoint>, Vec<Endpoint>, bool) {
    let (mut ready, mut draining, mut left_out) = (Vec::new(), Vec::new(), false);
    for slice in slices {
        let matching = slice.ports.iter().filter(|found| {
            found.name == port.name && Protocol::from_api(Some(&found.protocol)) == Some(port.protocol)
        });
        for number in matching.map(|found| found.number) {
            for entry in &slice.endpoints {
                let IpAddr::V4(address) = entry.address else { continue };
                let endpoint = Endpoint { address, port: number };
                if !scope.reaches(address) {
                    left_out |= entry.ready;
                } else if entry.ready {
                    ready.push(endpoint);
                } else if entry.draining {
                    draining.push(endpoint);
                }
            }
        }
    }
    let all = chosen(ready.clone(), draining.clone());
    let own = |found: Vec<Endpoint>| found.into_iter().filter(|e| scope.node.contains(e.address)).collect();
    (all, chosen(own(ready), own(draining)), left_out)
}

fn chosen(ready: Vec<Endpoint>, draining: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut chosen = if ready.is_empty() { draining } else { ready };
    chosen.sort();
    chosen.dedup();
    chosen
}

#[cfg(test)]
mod tests;
