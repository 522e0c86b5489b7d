//! Every key that every controller could be asked about, for the last check: at rest, none of them
//! plans anything.

use std::sync::Arc;

use proa_logic::world::observed::Shelf;
use proa_logic::world::{Controller, Key, Observed};

/// Makes the list of all controllers and of what their keys are. A controller that has no line
/// here does not compile.
macro_rules! keys {
    ($seen:ident => $($controller:ident: $keys:expr,)*) => {
        const ALL: &[Controller] = &[$(Controller::$controller),*];

        fn keys_of(controller: Controller, $seen: &Observed) -> Vec<Key> {
            match controller {
                $(Controller::$controller => $keys,)*
            }
        }
    };
}

keys! { seen =>
    Deployment: of(&seen.deployments),
    ReplicaSet: of(&seen.replica_sets),
    ReplicationController: of(&seen.replication_controllers),
    DaemonSet: of(&seen.daemon_sets),
    StatefulSet: of(&seen.stateful_sets),
    Job: of(&seen.jobs),
    CronJob: of(&seen.cron_jobs),
    JobOrphan: pods(seen),
    ResourceQuota: of(&seen.resource_quotas),
    Disruption: of(&seen.pod_disruption_budgets),
    StaleDisruption: pods(seen),
    EndpointSlice: of(&seen.services),
    EndpointSliceMirroring: of(&seen.endpoints),
    Endpoints: of(&seen.services),
    GarbageCollector: named(seen.graph.iter().map(|meta| &meta.uid)),
    HorizontalPodAutoscaler: of(&seen.horizontal_pod_autoscalers),
    Namespace: named(seen.namespaces.keys()),
    ServiceAccount: named(seen.namespaces.keys()),
    RootCa: named(seen.namespaces.keys()),
    Node: named(seen.nodes.keys().chain(seen.heartbeats.keys())),
    PodGarbage: named(seen.nodes.keys().chain(seen.vanished.keys())),
    ClaimBinder: of(&seen.persistent_volume_claims),
    VolumeBinder: of(&seen.persistent_volumes),
    ClaimProtection: of(&seen.persistent_volume_claims),
    VolumeProtection: of(&seen.persistent_volumes),
    VolumeExpansion: of(&seen.persistent_volume_claims),
    EphemeralVolume: pods(seen),
    ClusterRoleAggregation: of(&seen.cluster_roles),
    NodeIpam: vec![Key::new("", "")],
    CertificateApproving: of(&seen.certificate_signing_requests),
    CertificateSigning: of(&seen.certificate_signing_requests),
    CertificateCleaner: of(&seen.certificate_signing_requests),
    LocalPath: named(seen.nodes.keys().chain(seen.heartbeats.keys())),
    TokenCleaner: seen.bootstrap_tokens.keys().cloned().collect(),
    AccountToken: of(&seen.account_tokens),
}

/// All keys of all controllers.
pub fn all(seen: &Observed) -> impl Iterator<Item = (Controller, Key)> {
    ALL.iter().flat_map(|controller| keys_of(*controller, seen).into_iter().map(|key| (*controller, key)))
}

fn of<T>(shelf: &Shelf<T>) -> Vec<Key> {
    shelf.iter().map(|(key, _)| key.clone()).collect()
}

fn pods(seen: &Observed) -> Vec<Key> {
    seen.pods.iter().map(|pod| pod.meta.key.clone()).collect()
}

fn named<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> Vec<Key> {
    names.map(|name| Key::new("", name)).collect()
}
