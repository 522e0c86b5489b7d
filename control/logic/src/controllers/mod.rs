//! The controllers: each brings one kind of object to the state that its spec asks for.
//!
//! The shell in `proa-control` folds watch events into [`Observed`], asks the
//! [wakes](crate::world::Wakes) who has to look again, calls [`reconcile`] and executes the
//! [`Plan`]. A decision reads the state and the time, and nothing else; it never learns what has
//! happened, only what is.

mod claims;
mod revisions;
mod templates;

pub mod election;

mod account_token;
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

use crate::world::{Controller, Key, Observed, Plan};

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
        Controller::AccountToken => account_token::reconcile(seen, key),
        Controller::ClaimBinder => persistent_volume::reconcile_claim(seen, key, now),
        Controller::VolumeBinder => persistent_volume::reconcile_volume(seen, key, now),
        Controller::ClaimProtection => persistent_volume::reconcile_claim_protection(seen, key),
        Controller::VolumeProtection => persistent_volume::reconcile_volume_protection(seen, key),
        Controller::VolumeExpansion => persistent_volume::reconcile_expansion(seen, key),
        Controller::EphemeralVolume => ephemeral_volume::reconcile(seen, key),
        Controller::LocalPath => local_path::reconcile(seen, key),
    }
}
