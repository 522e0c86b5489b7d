//! What DNS must know of Services and EndpointSlices.
//!
//! Pure. Filled by `watch`, read by `answer`. It keeps the few fields that matter, not the objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as ApiService, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proa_api::namespaced_name::{self, NamespacedName};
use proa_api::slices::{Slice, Slices};

/// All Services and their endpoints.
#[derive(Default, Debug)]
pub struct Zone {
    services: BTreeMap<NamespacedName, Service>,
    slices: Slices,
}

/// A Service as DNS sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Service {
    /// It has addresses of its own.
    Addresses {
        /// Cluster addresses.
        addresses: Vec<IpAddr>,
        /// Its ports.
        ports: Vec<Port>,
    },
    /// It stands for its endpoints.
    Headless {
        /// Whether endpoints that are not ready count too.
        publish_not_ready: bool,
    },
    /// It stands for a name elsewhere.
    ExternalName(String),
}

/// A named port. Ports without a name have no records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Name, lower case.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Number.
    pub number: u16,
}

impl Zone {
    /// Learns a Service.
    pub fn apply_service(&mut self, service: &ApiService) {
        let key = namespaced_name::of(&service.metadata);
        match read_service(service) {
            Some(entry) => self.services.insert(key, entry),
            None => self.services.remove(&key),
        };
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, service: &ApiService) {
        self.services.remove(&namespaced_name::of(&service.metadata));
    }

    /// Forgets all Services, before they are listed again.
    pub fn reset_services(&mut self) {
        self.services.clear();
    }

    /// Learns an EndpointSlice.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        self.slices.apply(slice);
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, slice: &EndpointSlice) {
        self.slices.delete(&slice.metadata);
    }

    /// Forgets all EndpointSlices, before they are listed again.
    pub fn reset_slices(&mut self) {
        self.slices = Slices::default();
    }

    /// Replaces the Services by those of a zone that was filled beside, and leaves that without.
    pub fn take_services(&mut self, other: &mut Zone) {
        self.services = std::mem::take(&mut other.services);
    }

    /// Replaces the EndpointSlices likewise.
    pub fn take_slices(&mut self, other: &mut Zone) {
        self.slices = std::mem::take(&mut other.slices);
    }

    /// A Service by namespace and name, lower case.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether any Service is in the namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        self.services.range(first..).next().is_some_and(|((found, _), _)| found == namespace)
    }

    /// The slices of a Service.
    pub fn slices(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Slice> {
        self.slices.of(&(namespace.to_owned(), name.to_owned()))
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = (&NamespacedName, &Service)> {
        self.services.iter()
    }
}

fn read_service(service: &ApiService) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Service::ExternalName);
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
        return Some(Service::Headless { publish_not_ready });
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok())
    {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // A Service that has no address yet has no records yet.
    if addresses.is_empty() {
        return None;
    }
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(read_port).collect();
    Some(Service::Addresses { addresses, ports })
}

fn read_port(port: &ServicePort) -> Option<Port> {
    let name = port.name.as_ref().filter(|name| !name.is_empty())?.to_lowercase();
    let protocol = port.protocol.as_deref().unwrap_or("tcp").to_lowercase();
    Some(Port { name, protocol, number: u16::try_from(port.port).ok()? })
}
