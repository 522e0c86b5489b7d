//! The controllers: each brings one kind of object to the state that its spec asks for.
//!
//! The shell in `proa-control` folds watch events into [`Observed`], asks [`Wakes`] who has to
//! look again, calls [`reconcile`] and executes the [`Plan`]. A decision reads the state and the
//! time, and nothing else; it never learns what has happened, only what is.

pub mod plan;

pub mod election;
pub mod facts;
pub mod graph;
pub mod observed;
pub mod pods;
pub use proa_api::resources;
pub mod wakes;

mod claims;
mod revisions;
mod templates;

pub mod certificates;
pub mod cluster_role_aggregation;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod ephemeral_volume;
pub mod garbage_collector;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod local_path;
pub mod namespace;
pub mod node;
pub mod node_ipam;
pub mod persistent_volume;
pub mod replica_set;
pub mod resource_quota;
mod service_endpoints;
mod slices;
pub mod stateful_set;
#[cfg(test)]
mod tests;
mod token_cleaner;

use jiff::Timestamp;

pub use facts::{Key, KindName, Object};
pub use observed::Observed;
pub use plan::Plan;
pub use wakes::{Controller, Wakes};

/// Decides what one key of one controller needs now.
pub fn reconcile(controller: Controller, seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    match controller {
        Controller::Deployment => deployment::reconcile(seen, key, now),
        Controller::ReplicaSet => replica_set::reconcile(seen, key, now),
        Controller::ReplicationController => replica_set::reconcile_replication_controller(seen, key, now),
        Controller::DaemonSet => daemon_set::reconcile(seen, key, now),
        Controller::StatefulSet => stateful_set::reconcile(seen, key, now),
        Controller::Job => job::reconcile(seen, key, now),
        Controller::CronJob => cron_job::reconcile(seen, key, now),
        Controller::JobOrphan => job::reconcile_orphan(seen, key),
        Controller::EndpointSlice => endpoint_slice::reconcile(seen, key),
        Controller::EndpointSliceMirroring => endpoint_slice_mirroring::reconcile(seen, key),
        Controller::Endpoints => endpoints::reconcile(seen, key),
        Controller::GarbageCollector => garbage_collector::reconcile(seen, key),
        Controller::HorizontalPodAutoscaler => horizontal_pod_autoscaler::reconcile(seen, key, now),
        Controller::Namespace => namespace::reconcile(seen, key, now),
        Controller::ServiceAccount => namespace::reconcile_service_account(seen, key),
        Controller::RootCa => namespace::reconcile_root_ca(seen, key),
        Controller::ResourceQuota => resource_quota::reconcile(seen, key, now),
        Controller::Disruption => disruption::reconcile(seen, key, now),
        Controller::StaleDisruption => disruption::reconcile_stale(seen, key, now),
        Controller::Node => node::reconcile(seen, key, now),
        Controller::ClusterRoleAggregation => cluster_role_aggregation::reconcile(seen, key),
        Controller::PodGarbage => node::reconcile_pod_garbage(seen, key, now),
        Controller::NodeIpam => node_ipam::reconcile(seen),
        Controller::CertificateApproving => certificates::reconcile_approval(seen, key, now),
        Controller::CertificateSigning => certificates::reconcile_signing(seen, key, now),
        Controller::CertificateCleaner => certificates::reconcile_cleaning(seen, key, now),
        Controller::TokenCleaner => token_cleaner::reconcile(seen, key, now),
        Controller::ClaimBinder => persistent_volume::reconcile_claim(seen, key, now),
        Controller::VolumeBinder => persistent_volume::reconcile_volume(seen, key, now),
        Controller::ClaimProtection => persistent_volume::reconcile_claim_protection(seen, key),
        Controller::VolumeProtection => persistent_volume::reconcile_volume_protection(seen, key),
        Controller::VolumeExpansion => persistent_volume::reconcile_expansion(seen, key),
        Controller::EphemeralVolume => ephemeral_volume::reconcile(seen, key),
        Controller::LocalPath => local_path::reconcile(seen, key),
    }
}

impl Controller {
    /// Who an Event says it comes from.
    pub fn component(self) -> &'static str {
        match self {
            Controller::Deployment => "deployment-controller",
            Controller::ReplicaSet => "replicaset-controller",
            Controller::ReplicationController => "replication-controller",
            Controller::DaemonSet => "daemonset-controller",
            Controller::StatefulSet => "statefulset-controller",
            Controller::CronJob => "cronjob-controller",
            Controller::Job | Controller::JobOrphan => "job-controller",
            Controller::EndpointSlice => "endpoint-slice-controller",
            Controller::EndpointSliceMirroring => "endpoint-slice-mirroring-controller",
            Controller::Endpoints => "endpoint-controller",
            Controller::GarbageCollector => "garbage-collector-controller",
            Controller::HorizontalPodAutoscaler => "horizontal-pod-autoscaler",
            Controller::Namespace => "namespace-controller",
            Controller::ServiceAccount => "serviceaccount-controller",
            Controller::RootCa => "root-ca-certificate-publisher-controller",
            Controller::ResourceQuota => "resourcequota-controller",
            Controller::Disruption | Controller::StaleDisruption => "controllermanager",
            Controller::Node => "node-controller",
            Controller::ClusterRoleAggregation => "clusterrole-aggregation-controller",
            Controller::PodGarbage => "pod-garbage-collector-controller",
            Controller::NodeIpam => "node-ipam-controller",
            Controller::CertificateApproving => "certificatesigningrequest-approving-controller",
            Controller::CertificateSigning => "certificatesigningrequest-signing-controller",
            Controller::CertificateCleaner => "certificatesigningrequest-cleaner-controller",
            Controller::TokenCleaner => "token-cleaner-controller",
            Controller::ClaimBinder | Controller::VolumeBinder => "persistentvolume-controller",
            Controller::ClaimProtection => "persistentvolumeclaim-protection-controller",
            Controller::VolumeProtection => "persistentvolume-protection-controller",
            Controller::VolumeExpansion => "volume_expand",
            Controller::EphemeralVolume => "ephemeral_volume",
            Controller::LocalPath => proa_api::names::LOCAL_PATH_PROVISIONER,
        }
    }
}
