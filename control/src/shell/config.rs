//! What the shell is set up with.

use std::sync::Arc;

use proa_logic::scheduler::settings::Settings;
use proa_logic::world::settings::ClusterSettings;

use crate::bootstrap::objects::Place;
use crate::kubelet::metrics::Metrics;
use crate::pki::Pki;

/// The part of Proa that the controllers are, as Events of the Node name it.
pub const COMPONENT: &str = "kube-controller-manager";

/// What the controllers need to know of the cluster.
#[derive(Clone, Default)]
pub struct ShellConfig {
    /// The CA certificates that each namespace publishes for its pods, in PEM.
    pub ca_pem: String,
    /// Who this control plane is among those on the same store.
    pub identity: String,
    /// How pods are placed.
    pub scheduler: Settings,
    /// What decisions depend on.
    pub settings: ClusterSettings,
    /// What nodes and pods use; without it autoscalers see none of it.
    pub metrics: Option<Arc<Metrics>>,
    /// Signs certificates and tokens; without it none are signed.
    pub pki: Option<Arc<Pki>>,
    /// Where the API is, for the cluster's own objects; without it nobody looks after them.
    pub place: Option<Place>,
}
