//! What is observed of the cluster, reduced to what routes are made of.
//!
//! Fed by `watch`, read by `route`. Pure and synchronous.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::names;
use proa_api::namespaced_name::{self, NamespacedName};
use proa_api::slices::Slices;
use rustls::sign::CertifiedKey;

use crate::certificate;

/// How an Ingress named its class before the field `ingressClassName` was there.
const ANNOTATION_CLASS: &str = "kubernetes.io/ingress.class";

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number.
    pub number: i32,
    /// Its endpoints speak HTTP/2 in the clear.
    pub http2: bool,
}

/// A Service as routes see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceEntry {
    pub ports: Vec<Port>,
    /// The name elsewhere that it stands for.
    pub external_name: Option<String>,
}

/// The cluster's ranges of addresses.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// All pods.
    pub pods: IpNet,
    /// The pods of this node, which alone can be reached from it.
    pub node: IpNet,
    /// All Services.
    pub services: IpNet,
}

/// The data of a Secret that holds passwords.
pub type PasswordData = Arc<BTreeMap<String, Vec<u8>>>;

/// Everything the route table depends on.
#[derive(Default)]
pub struct Index {
    /// Ingresses, whole: their rules are the table's source.
    pub ingresses: BTreeMap<NamespacedName, Ingress>,
    /// For each IngressClass of ours, whether it is the default one.
    pub classes: BTreeMap<String, bool>,
    /// The Services.
    pub services: BTreeMap<NamespacedName, ServiceEntry>,
    /// The addresses of the Nodes.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// The Secrets with passwords that Ingresses name: `None` for one that is not there, and no entry
    /// while that is not known.
    pub passwords: BTreeMap<NamespacedName, Option<PasswordData>>,
    /// Where pods and Services are.
    pub ranges: Option<Ranges>,
    /// The Secret with the certificate for names that have none.
    pub default_certificate: Option<NamespacedName>,
    /// The endpoints of Services.
    pub slices: Slices,
    /// Certificates of TLS Secrets; `Err` says why a Secret holds none.
    pub certificates: BTreeMap<NamespacedName, Result<Arc<CertifiedKey>, String>>,
}

/// A kind the index knows how to fold in.
pub trait Indexed {
    /// Puts the object in the place of its earlier state.
    fn apply(self, index: &mut Index);
    /// Forgets the object.
    fn delete(self, index: &mut Index);
    /// Forgets all objects of the kind but those with these keys: the end of a new listing.
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool);
}

impl Indexed for Ingress {
    fn apply(mut self, index: &mut Index) {
        self.metadata.managed_fields = None;
        index.ingresses.insert(namespaced_name::of(&self.metadata), self);
    }
    fn delete(self, index: &mut Index) {
        index.ingresses.remove(&namespaced_name::of(&self.metadata));
    }
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool) {
        index.ingresses.retain(|k, _| keep(k));
    }
}

impl Indexed for IngressClass {
    fn apply(self, index: &mut Index) {
        let name = self.metadata.name.clone().unwrap_or_default();
        let ours =
            self.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(names::INGRESS_CONTROLLER);
        if !ours {
            index.classes.remove(&name);
            return;
        }
        let annotations = self.metadata.annotations.as_ref();
        let default = annotations.and_then(|a| a.get(names::ANNOTATION_DEFAULT_INGRESS_CLASS));
        index.classes.insert(name, default.is_some_and(|v| v == "true"));
    }
    fn delete(self, index: &mut Index) {
        index.classes.remove(self.metadata.name.as_deref().unwrap_or_default());
    }
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool) {
        index.classes.retain(|name, _| keep(&(String::new(), name.clone())));
    }
}

impl Indexed for Service {
    fn apply(self, index: &mut Index) {
        let spec = self.spec.unwrap_or_default();
        let external = spec.type_.as_deref() == Some("ExternalName");
        let ports = spec.ports.unwrap_or_default().into_iter().map(|p| Port {
            name: p.name.unwrap_or_default(),
            number: p.port,
            http2: matches!(p.app_protocol.as_deref(), Some("kubernetes.io/h2c" | "grpc")),
        });
        let external_name = spec.external_name.filter(|_| external);
        let entry = ServiceEntry { ports: ports.collect(), external_name };
        index.services.insert(namespaced_name::of(&self.metadata), entry);
    }
    fn delete(self, index: &mut Index) {
        index.services.remove(&namespaced_name::of(&self.metadata));
    }
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool) {
        index.services.retain(|k, _| keep(k));
    }
}

impl Indexed for EndpointSlice {
    fn apply(self, index: &mut Index) {
        index.slices.apply(&self);
    }
    fn delete(self, index: &mut Index) {
        index.slices.delete(&self.metadata);
    }
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool) {
        index.slices.retain(keep);
    }
}

impl Indexed for Node {
    fn apply(self, index: &mut Index) {
        let addresses = self.status.and_then(|s| s.addresses).unwrap_or_default();
        let addresses = addresses.iter().filter_map(|a| a.address.parse().ok()).collect();
        index.nodes.insert(self.metadata.name.unwrap_or_default(), addresses);
    }
    fn delete(self, index: &mut Index) {
        index.nodes.remove(self.metadata.name.as_deref().unwrap_or_default());
    }
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool) {
        index.nodes.retain(|name, _| keep(&(String::new(), name.clone())));
    }
}

impl Indexed for Secret {
    fn apply(self, index: &mut Index) {
        let key = namespaced_name::of(&self.metadata);
        index.certificates.insert(key, certificate::certified_key(&self));
    }
    fn delete(self, index: &mut Index) {
        index.certificates.remove(&namespaced_name::of(&self.metadata));
    }
    fn retain(index: &mut Index, keep: &dyn Fn(&NamespacedName) -> bool) {
        index.certificates.retain(|k, _| keep(k));
    }
}

impl Index {
    /// True if the built-in ingress serves this Ingress.
    pub fn is_ours(&self, ingress: &Ingress) -> bool {
        let spec = ingress.spec.as_ref();
        let annotations = ingress.metadata.annotations.as_ref();
        // The older annotation goes before the field, by the API's definition.
        let named = annotations
            .and_then(|a| a.get(ANNOTATION_CLASS))
            .or_else(|| spec.and_then(|s| s.ingress_class_name.as_ref()));
        match named {
            Some(class) => self.classes.contains_key(class),
            None => self.classes.values().any(|default| *default),
        }
    }

    /// The port of a Service that a backend names, by number or by name.
    pub fn port(&self, service: &NamespacedName, wanted: &IntOrString) -> Option<&Port> {
        self.services.get(service)?.ports.iter().find(|p| match wanted {
            IntOrString::Int(number) => p.number == *number,
            IntOrString::String(name) => p.name == *name,
        })
    }

    /// The ready endpoints of a port of a Service that can be reached from here, and whether there are
    /// others, pods of other nodes.
    pub fn endpoints(&self, service: &NamespacedName, port: &Port) -> (Vec<SocketAddr>, bool) {
        let mut found = Vec::new();
        for slice in self.slices.of(service) {
            for number in slice.ports.iter().filter(|p| p.name == port.name).map(|p| p.number) {
                let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
                found.extend(ready.map(|endpoint| SocketAddr::new(endpoint.address, number)));
            }
        }
        found.sort_unstable();
        found.dedup();
        let all = found.len();
        if let Some(ranges) = &self.ranges {
            found.retain(|e| !ranges.pods.contains(&e.ip()) || ranges.node.contains(&e.ip()));
        }
        let left_out = found.len() < all;
        (found, left_out)
    }
}
