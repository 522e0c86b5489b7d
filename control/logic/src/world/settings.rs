//! Settings: what the cluster is set up with.
//!
//! Given by the command line, kept by [`super::Observed`], read by every decision.

use std::sync::Arc;

use jiff::SignedDuration;

use super::autoscaling;

/// What the cluster is set up with, as far as decisions depend on it.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// The addresses of all pods: `10.42.0.0/16`. If empty, nodes are given none.
    pub cluster_cidr: Arc<str>,
    /// The addresses of all Services: `10.43.0.0/16`.
    pub service_cidr: Arc<str>,
    /// `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// The DNS names and addresses under which clients reach the API.
    pub api_names: Arc<[String]>,
    /// A node that has not been heard of for this long is not ready.
    pub node_monitor_grace_period: SignedDuration,
    /// What autoscalers are set to.
    pub autoscaler: autoscaling::Settings,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            cluster_cidr: "".into(),
            service_cidr: "".into(),
            cluster_domain: "cluster.local".into(),
            api_names: Arc::default(),
            node_monitor_grace_period: SignedDuration::from_secs(40),
            autoscaler: autoscaling::Settings::default(),
        }
    }
}
