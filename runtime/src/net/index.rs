//! What is known of Services and EndpointSlices, and the rules that follow from it.
//!
//! Pure. Fed by `proxy`'s watches; it keeps the few fields that matter, not the objects.
//! Source: <https://kubernetes.io/docs/reference/networking/virtual-ips/>.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proa_api::names::LABEL_SERVICE_NAME;

use super::cidr::Ipv4Net;
use super::rules::{Backends, Endpoint, Frontend, Pick, Protocol, Rules};

/// Namespace and name.
pub type Key = (String, String);

/// All Services and EndpointSlices, as far as the rules need them.
#[derive(Default)]
pub struct Index {
    services: BTreeMap<Key, ServiceEntry>,
    slices: BTreeMap<Key, SliceEntry>,
}

/// What the rules must know about the node.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The addresses of the node's own pods, for traffic policies of `Local`.
    pub node: Ipv4Net,
    /// The address of the DNS server, which answers there itself: no rule may lead elsewhere.
    pub dns_address: Ipv4Addr,
}

struct ServiceEntry {
    cluster_addresses: Vec<Ipv4Addr>,
    external_addresses: Vec<Ipv4Addr>,
    pick: Pick,
    only_local_internally: bool,
    only_local_externally: bool,
    ports: Vec<PortEntry>,
}

struct PortEntry {
    name: String,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
}

struct SliceEntry {
    service: Key,
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<EndpointEntry>,
}

struct EndpointEntry {
    address: Ipv4Addr,
    ready: bool,
    /// Shutting down but still answering; used while nobody is ready.
    draining: bool,
}

impl Index {
    /// Learns a Service.
    pub fn apply_service(&mut self, service: &Service) {
        let Some(key) = key(&service.metadata.namespace, &service.metadata.name) else { return };
        match service_entry(service) {
            Some(entry) => self.services.insert(key, entry),
            None => self.services.remove(&key),
        };
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, service: &Service) {
        if let Some(key) = key(&service.metadata.namespace, &service.metadata.name) {
            self.services.remove(&key);
        }
    }

    /// Forgets all Services, before they are listed again.
    pub fn reset_services(&mut self) {
        self.services.clear();
    }

    /// Learns an EndpointSlice.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let Some(key) = key(&slice.metadata.namespace, &slice.metadata.name) else { return };
        match slice_entry(slice, &key.0) {
            Some(entry) => self.slices.insert(key, entry),
            None => self.slices.remove(&key),
        };
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, slice: &EndpointSlice) {
        if let Some(key) = key(&slice.metadata.namespace, &slice.metadata.name) {
            self.slices.remove(&key);
        }
    }

    /// Forgets all EndpointSlices, before they are listed again.
    pub fn reset_slices(&mut self) {
        self.slices.clear();
    }

    /// The rules for all services.
    pub fn rules(&self, scope: &Scope) -> Rules {
        let mut of_service: BTreeMap<&Key, Vec<&SliceEntry>> = BTreeMap::new();
        for slice in self.slices.values() {
            of_service.entry(&slice.service).or_default().push(slice);
        }
        let mut rules = Rules::new();
        for (key, service) in &self.services {
            let slices = of_service.get(key).map_or(&[][..], Vec::as_slice);
            for port in &service.ports {
                service_rules(service, port, slices, scope, &mut rules);
            }
        }
        rules
    }
}

fn service_rules(
    service: &ServiceEntry,
    port: &PortEntry,
    slices: &[&SliceEntry],
    scope: &Scope,
    rules: &mut Rules,
) {
    let mut add = |addresses: &[Ipv4Addr], number: u16, only_local: bool| {
        let endpoints = endpoints(port, slices, only_local.then_some(&scope.node));
        if endpoints.is_empty() {
            return;
        }
        for address in addresses.iter().filter(|address| **address != scope.dns_address) {
            let frontend = Frontend { address: *address, protocol: port.protocol, port: number };
            let backends = Backends { pick: service.pick, endpoints: endpoints.clone() };
            // Two services can claim one external address; the first by name has it.
            rules.entry(frontend).or_insert(backends);
        }
    };
    add(&service.cluster_addresses, port.port, service.only_local_internally);
    add(&service.external_addresses, port.port, service.only_local_externally);
    if let Some(node_port) = port.node_port {
        add(&[Ipv4Addr::UNSPECIFIED], node_port, service.only_local_externally);
    }
}

/// The ready endpoints of one port; if there are none, those that are shutting down but still answer.
fn endpoints(port: &PortEntry, slices: &[&SliceEntry], node: Option<&Ipv4Net>) -> Vec<Endpoint> {
    let (mut ready, mut draining) = (Vec::new(), Vec::new());
    for slice in slices {
        let matching =
            slice.ports.iter().filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        for (_, _, number) in matching {
            for entry in slice.endpoints.iter().filter(|e| node.is_none_or(|n| n.contains(e.address))) {
                let endpoint = Endpoint { address: entry.address, port: *number };
                if entry.ready {
                    ready.push(endpoint);
                } else if entry.draining {
                    draining.push(endpoint);
                }
            }
        }
    }
    let mut chosen = if ready.is_empty() { draining } else { ready };
    chosen.sort();
    chosen.dedup();
    chosen
}

/// `None` for Services that have no address: headless ones and names of elsewhere.
fn service_entry(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    if type_ == "ExternalName" || spec.cluster_ip.as_deref() == Some("None") {
        return None;
    }
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut cluster_addresses: Vec<Ipv4Addr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    cluster_addresses.sort();
    cluster_addresses.dedup();
    let ingress =
        service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|b| b.ingress.iter().flatten());
    let balancers = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let external = spec.external_ips.iter().flatten().chain(balancers).filter_map(|ip| ip.parse().ok());
    let has_node_ports = matches!(type_, "NodePort" | "LoadBalancer");
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(PortEntry {
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::from_api(port.protocol.as_deref())?,
            port: valid_port(port.port)?,
            node_port: port.node_port.filter(|_| has_node_ports).and_then(valid_port),
        })
    });
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    Some(ServiceEntry {
        cluster_addresses,
        external_addresses: external.collect(),
        pick: if sticky { Pick::Client } else { Pick::Random },
        only_local_internally: spec.internal_traffic_policy.as_deref() == Some("Local"),
        only_local_externally: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: ports.collect(),
    })
}

/// `None` for slices of other address families and of no Service.
fn slice_entry(slice: &EndpointSlice, namespace: &str) -> Option<SliceEntry> {
    if slice.address_type != "IPv4" {
        return None;
    }
    let service = slice.metadata.labels.as_ref()?.get(LABEL_SERVICE_NAME)?;
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::from_api(port.protocol.as_deref())?;
        Some((port.name.clone().unwrap_or_default(), protocol, port.port.and_then(valid_port)?))
    });
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions.as_ref();
        // Absent means yes for ready, and as ready for serving.
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        // All addresses of one endpoint are alike; the first is the one to use.
        if let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) {
            endpoints.push(EndpointEntry { address, ready, draining: serving && terminating });
        }
    }
    Some(SliceEntry { service: (namespace.to_owned(), service.clone()), ports: ports.collect(), endpoints })
}

fn key(namespace: &Option<String>, name: &Option<String>) -> Option<Key> {
    Some((namespace.clone()?, name.clone()?))
}

fn valid_port(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    /// One line per rule, from Services and EndpointSlices in JSON.
    fn check(services: &[Value], slices: &[Value], expected: Expect) {
        let mut index = Index::default();
        for (number, slice) in slices.iter().enumerate() {
            let mut slice = slice.clone();
            slice["metadata"]["namespace"] = json!("default");
            slice["metadata"]["name"] = json!(format!("slice-{number}"));
            slice["addressType"] = json!(slice.get("addressType").unwrap_or(&json!("IPv4")));
            index.apply_slice(&serde_json::from_value(slice).unwrap());
        }
        for service in services {
            let mut service = service.clone();
            service["metadata"]["namespace"] = json!("default");
            index.apply_service(&serde_json::from_value(service).unwrap());
        }
        let scope =
            Scope { node: "10.42.0.0/24".parse().unwrap(), dns_address: Ipv4Addr::new(10, 43, 0, 10) };
        let lines: Vec<String> = index
            .rules(&scope)
            .iter()
            .map(|(f, b)| {
                let to: Vec<_> = b.endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
                format!("{:?} {}:{} {:?} {}\n", f.protocol, f.address, f.port, b.pick, to.join(" "))
            })
            .collect();
        expected.assert_eq(&lines.concat());
    }

    fn slice(service: &str, ports: Value, endpoints: Value) -> Value {
        json!({"metadata": {"labels": {LABEL_SERVICE_NAME: service}}, "ports": ports, "endpoints": endpoints})
    }

    #[test]
    fn named_ports_meet_across_slices() {
        check(
            &[json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.7", "ports": [
                {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}})],
            &[
                slice("web", json!([{"name": "http", "port": 8080}]), json!([{"addresses": ["10.42.0.3"]}])),
                slice(
                    "web",
                    json!([{"name": "http", "port": 8081}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
                    json!([{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.0.9"], "conditions": {"ready": false}}]),
                ),
                slice("other", json!([{"name": "http", "port": 1}]), json!([{"addresses": ["10.42.0.4"]}])),
            ],
            expect![[r#"
                Tcp 10.43.0.7:80 Random 10.42.0.2:8081 10.42.0.3:8080
                Udp 10.43.0.7:53 Random 10.42.0.2:5353
            "#]],
        );
    }

    #[test]
    fn draining_endpoints_serve_while_none_is_ready() {
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        let ports = json!([{"port": 8080}]);
        let draining = slice(
            "web",
            ports.clone(),
            json!([{"addresses": ["10.42.0.2"], "conditions": conditions},
                   {"addresses": ["10.42.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}}]),
        );
        let ready = slice("web", ports, json!([{"addresses": ["10.42.0.3"], "conditions": {"ready": true}}]));
        let service =
            json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}});
        check(
            std::slice::from_ref(&service),
            std::slice::from_ref(&draining),
            expect![[r#"
                Tcp 10.43.0.7:80 Random 10.42.0.2:8080
            "#]],
        );
        check(
            &[service],
            &[draining, ready],
            expect![[r#"
                Tcp 10.43.0.7:80 Random 10.42.0.3:8080
            "#]],
        );
    }

    #[test]
    fn node_ports_and_external_addresses_follow_the_external_policy() {
        check(
            &[json!({"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7",
                "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
                "ports": [{"port": 80, "nodePort": 30080}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "lb.example"}]}}})],
            &[slice(
                "web",
                json!([{"port": 8080}]),
                json!([{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.1.2"]}]),
            )],
            expect![[r#"
                Tcp 0.0.0.0:30080 Client 10.42.0.2:8080
                Tcp 10.43.0.7:80 Client 10.42.0.2:8080 10.42.1.2:8080
                Tcp 192.0.2.1:80 Client 10.42.0.2:8080
                Tcp 192.0.2.2:80 Client 10.42.0.2:8080
            "#]],
        );
    }

    #[test]
    fn what_has_no_rules() {
        let port = json!([{"port": 80, "nodePort": 30080}]);
        let endpoints = json!([{"addresses": ["10.42.0.2"]}]);
        check(
            &[
                json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": port}}),
                json!({"metadata": {"name": "elsewhere"}, "spec": {"type": "ExternalName", "externalName": "a.example"}}),
                json!({"metadata": {"name": "empty"}, "spec": {"clusterIP": "10.43.0.8", "ports": port}}),
                json!({"metadata": {"name": "six"}, "spec": {"clusterIP": "10.43.0.9", "ports": port}}),
                json!({"metadata": {"name": "dns"}, "spec": {"clusterIP": "10.43.0.10", "ports": port}}),
            ],
            &[
                slice("headless", json!([{"port": 80}]), endpoints.clone()),
                slice("elsewhere", json!([{"port": 80}]), endpoints.clone()),
                slice("dns", json!([{"port": 80}]), endpoints),
                json!({"metadata": {"labels": {LABEL_SERVICE_NAME: "six"}}, "addressType": "IPv6",
                       "ports": [{"port": 80}], "endpoints": [{"addresses": ["fd00::2"]}]}),
            ],
            expect![""],
        );
    }

    #[test]
    fn what_is_deleted_is_gone() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}}))
            .unwrap();
        let mut raw = slice("web", json!([{"port": 80}]), json!([{"addresses": ["10.42.0.2"]}]));
        raw["metadata"]["name"] = json!("web-1");
        raw["metadata"]["namespace"] = json!("default");
        raw["addressType"] = json!("IPv4");
        let slice: EndpointSlice = serde_json::from_value(raw).unwrap();
        let scope =
            Scope { node: "10.42.0.0/24".parse().unwrap(), dns_address: Ipv4Addr::new(10, 43, 0, 10) };
        let mut index = Index::default();
        index.apply_service(&service);
        index.apply_slice(&slice);
        assert_eq!(index.rules(&scope).len(), 1);
        index.delete_slice(&slice);
        assert_eq!(index.rules(&scope).len(), 0);
        index.apply_slice(&slice);
        index.reset_services();
        assert_eq!(index.rules(&scope).len(), 0);
    }
}
