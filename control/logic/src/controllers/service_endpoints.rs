//! What a Service leads to: its pods as endpoints with the ports that each of them serves.
//!
//! Read by `endpoint_slice.rs` and `endpoints.rs`, which write the same answer in two forms.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::selector::Labels;

use crate::world::facts::Pod;
use crate::world::observed::Observed;

/// Label of what belongs to a Service without an address of its own.
pub(super) const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";

/// One port as a pod serves it; ordered as in the Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// The Service port's name, empty if it has none.
    pub name: String,
    /// The pod's port.
    pub number: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// What it speaks, if the Service says so.
    pub app_protocol: Option<String>,
}

/// One pod of a Service.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub pod: &'a Arc<Pod>,
    /// Its ready condition.
    pub serving: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Traffic may go to it.
    pub ready: bool,
    /// Its name in DNS.
    pub hostname: Option<String>,
}

/// The pods that a Service selects and that have an address, by the ports that they serve.
/// `None` for a Service that selects nothing by itself.
pub(super) fn members<'a>(
    seen: &'a Observed,
    service: &Service,
) -> Option<BTreeMap<Vec<Port>, Vec<Member<'a>>>> {
    let spec = service.spec.as_ref()?;
    let selector = selector(spec)?;
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut groups: BTreeMap<Vec<Port>, Vec<Member<'a>>> = BTreeMap::new();
    for pod in seen.pods.labelled(namespace, selector) {
        if pod.ips.is_empty() || pod.is_finished() {
            continue;
        }
        let serving = pod.ready_since.is_some();
        let terminating = pod.meta.deleted.is_some();
        let named = pod.subdomain.as_deref() == Some(name);
        let member = Member {
            pod,
            serving,
            terminating,
            ready: publish || (serving && !terminating),
            hostname: pod.hostname.as_deref().filter(|h| named && !h.is_empty()).map(str::to_owned),
        };
        groups.entry(ports(spec, pod)).or_default().push(member);
    }
    Some(groups)
}

/// The selector of a Service whose endpoints are kept for it.
pub(super) fn selector(spec: &ServiceSpec) -> Option<&Labels> {
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|s| !s.is_empty() && !external)
}

/// True for a Service without an address of its own.
pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The ports of a pod that the Service's ports lead to. A named port that the pod does not have
/// leads nowhere.
fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Port> {
    let resolved = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => {
                let named = pod.ports.iter().find(|p| *p.name == **name && &*p.protocol == protocol);
                named?.number
            }
        };
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            number,
            protocol: protocol.to_owned(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

/// The reference from an endpoint to its pod.
pub(super) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.meta.key.namespace.to_string()),
        name: Some(pod.meta.key.name.to_string()),
        uid: Some(pod.meta.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// The Service's labels, for what belongs to it.
pub(super) fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(LABEL_HEADLESS);
    if is_headless(service) {
        labels.insert(LABEL_HEADLESS.to_owned(), String::new());
    }
    labels
}
