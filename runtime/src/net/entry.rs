//! The few fields of Services and EndpointSlices that the rules are made of.
//!
//! Pure. Read out of the objects here, kept and judged by `index`.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::rules::{Pick, Protocol};

/// Another program serves the Service; as the stock proxy has it, whatever the label's value.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The Service is for those who ask for its endpoints.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` by default: three hours.
const AFFINITY_TIMEOUT_SECONDS: u32 = 10_800;

/// A Service that is served on this node.
pub struct ServiceEntry {
    /// What problems are reported about.
    pub about: ObjectReference,
    /// When it was made, in seconds since 1970; the older of two comes first.
    pub created: i64,
    pub cluster_addresses: Vec<Ipv4Addr>,
    pub external: Vec<External>,
    pub pick: Pick,
    pub only_local_internally: bool,
    pub only_local_externally: bool,
    pub ports: Vec<PortEntry>,
}

/// An address beside its own that a Service asks for.
pub struct External {
    /// The field it is from.
    pub field: &'static str,
    pub text: String,
    /// Whether only some clients may use it.
    pub restricted: bool,
}

pub struct PortEntry {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// `None` for Services that have no address, headless ones and names of elsewhere, and for those that
/// another program serves.
pub fn service_entry(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if type_ == "ExternalName" || headless || is_left_to_others(&service.metadata) {
        return None;
    }
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut cluster_addresses: Vec<Ipv4Addr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    cluster_addresses.sort();
    cluster_addresses.dedup();
    let has_node_ports = matches!(type_, "NodePort" | "LoadBalancer");
    let created = service.metadata.creation_timestamp.as_ref();
    Some(ServiceEntry {
        about: reference(&service.metadata),
        created: created.map_or(i64::MAX, |at| at.0.as_second()),
        cluster_addresses,
        external: external(service, spec),
        pick: pick(spec),
        only_local_internally: spec.internal_traffic_policy.as_deref() == Some("Local"),
        only_local_externally: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: spec.ports.iter().flatten().filter_map(|port| port_entry(port, has_node_ports)).collect(),
    })
}

/// Whether other programs serve what an object says.
pub fn is_left_to_others(meta: &ObjectMeta) -> bool {
    let has = |label: &str| meta.labels.as_ref().is_some_and(|labels| labels.contains_key(label));
    has(LABEL_PROXY_NAME) || has(LABEL_HEADLESS)
}

fn reference(meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        ..ObjectReference::default()
    }
}

fn external(service: &Service, spec: &ServiceSpec) -> Vec<External> {
    let listed = spec.external_ips.iter().flatten().map(|ip| External {
        field: "externalIPs",
        text: ip.clone(),
        restricted: false,
    });
    let status =
        service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|b| b.ingress.iter().flatten());
    let balancers = status.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let restricted = spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
    let balancers =
        balancers.map(|ip| External { field: "status.loadBalancer", text: ip.clone(), restricted });
    listed.chain(balancers).collect()
}

fn pick(spec: &ServiceSpec) -> Pick {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Pick::Random;
    }
    let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0);
    Pick::Client { timeout_seconds: seconds.unwrap_or(AFFINITY_TIMEOUT_SECONDS) }
}

fn port_entry(port: &ServicePort, has_node_ports: bool) -> Option<PortEntry> {
    Some(PortEntry {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::from_api(port.protocol.as_deref())?,
        port: valid_port(port.port)?,
        node_port: port.node_port.filter(|_| has_node_ports).and_then(valid_port),
    })
}

fn valid_port(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}
