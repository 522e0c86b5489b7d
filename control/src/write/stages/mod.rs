//! The stages, in the order that writes pass them.
//!
//! Each file is one of the stock server's admission plugins, or the part of one that is needed here,
//! and named after what it is about.

pub mod certificates;
pub mod escalation;
mod external_ips;
mod ingress;
mod limit_range;
pub mod namespace;
pub mod node;
mod node_addresses;
mod pod_security;
mod priority;
mod quota;
mod runtime_class;
pub mod service;
mod service_account;
mod storage;

use std::sync::Arc;

use proa_logic::controllers::node_ipam::Range;

pub use quota::count;

use super::stage::Stage;
use node_addresses::Ranges;
use service::{AddressRange, PortRange};

/// What the stages need to know of the cluster.
#[derive(Clone, Debug)]
pub struct StagesConfig {
    /// Where nodes get the addresses of their pods; `None` if that is not known.
    pub pod_range: Option<Range>,
    /// Where Services get their addresses.
    pub service_range: AddressRange,
    /// Where Services get their node ports.
    pub node_ports: PortRange,
    /// Puts the volume with a service account's token into pods.
    pub token_volumes: bool,
    /// Refuses objects in namespaces that are not there.
    pub check_namespaces: bool,
    /// Refuses external addresses of Services.
    pub deny_external_ips: bool,
}

impl Default for StagesConfig {
    fn default() -> Self {
        StagesConfig {
            pod_range: None,
            service_range: AddressRange::default(),
            node_ports: PortRange::default(),
            token_volumes: true,
            check_namespaces: true,
            deny_external_ips: false,
        }
    }
}

/// The stages that every cluster has.
pub fn all(config: &StagesConfig) -> Vec<Arc<dyn Stage>> {
    let mut stages: Vec<Arc<dyn Stage>> = vec![
        Arc::new(certificates::CertificateRequester),
        Arc::new(node::NodeRestriction(Ranges { pods: config.pod_range, services: config.service_range })),
    ];
    if config.check_namespaces {
        stages.push(Arc::new(namespace::NamespaceLifecycle));
    }
    stages.extend([
        Arc::new(service_account::ServiceAccount { token_volumes: config.token_volumes }) as Arc<dyn Stage>,
        Arc::new(limit_range::LimitRanger),
        Arc::new(priority::Priority),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(ingress::DefaultIngressClass),
        Arc::new(storage::Storage),
        Arc::new(pod_security::PodSecurity),
    ]);
    if config.deny_external_ips {
        stages.push(Arc::new(external_ips::DenyServiceExternalIPs));
    }
    stages.push(Arc::new(service::ServiceAddresses::new(config.service_range, config.node_ports)));
    stages.push(Arc::new(quota::ResourceQuota));
    stages
}

#[cfg(test)]
mod tests;
