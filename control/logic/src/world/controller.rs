//! Controller: the names of the controllers, by which they are woken, asked and told of refusals.
//!
//! Names only: what each of them does is in [`crate::controllers`].

/// The controllers, each with keys of its own sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// By Deployment.
    Deployment,
    /// By ReplicaSet.
    ReplicaSet,
    /// By ReplicationController.
    ReplicationController,
    /// By DaemonSet.
    DaemonSet,
    /// By StatefulSet.
    StatefulSet,
    /// By Job.
    Job,
    /// By CronJob.
    CronJob,
    /// By pod that a Job's finalizer holds.
    JobOrphan,
    /// By ResourceQuota.
    ResourceQuota,
    /// By PodDisruptionBudget.
    Disruption,
    /// By pod that was said to go.
    StaleDisruption,
    /// By Service.
    EndpointSlice,
    /// By Endpoints.
    EndpointSliceMirroring,
    /// By Service.
    Endpoints,
    /// By uid, as the name.
    GarbageCollector,
    /// By HorizontalPodAutoscaler.
    HorizontalPodAutoscaler,
    /// By namespace, as the name.
    Namespace,
    /// By namespace, as the name.
    ServiceAccount,
    /// By namespace, as the name.
    RootCa,
    /// By node.
    Node,
    /// By node.
    PodGarbage,
    /// By PersistentVolumeClaim.
    ClaimBinder,
    /// By PersistentVolume.
    VolumeBinder,
    /// By PersistentVolumeClaim.
    ClaimProtection,
    /// By PersistentVolume.
    VolumeProtection,
    /// By PersistentVolumeClaim.
    VolumeExpansion,
    /// By pod that brings claims along.
    EphemeralVolume,
    /// By node.
    LocalPath,
    /// By ClusterRole.
    ClusterRoleAggregation,
    /// One key for all nodes.
    NodeIpam,
    /// By CertificateSigningRequest.
    CertificateApproving,
    /// By CertificateSigningRequest.
    CertificateSigning,
    /// By CertificateSigningRequest.
    CertificateCleaner,
    /// By Secret of a bootstrap token.
    TokenCleaner,
    /// By Secret of a ServiceAccount's token.
    AccountToken,
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
            Controller::AccountToken => "serviceaccount-token-controller",
            Controller::ClaimBinder | Controller::VolumeBinder => "persistentvolume-controller",
            Controller::ClaimProtection => "persistentvolumeclaim-protection-controller",
            Controller::VolumeProtection => "persistentvolume-protection-controller",
            Controller::VolumeExpansion => "volume_expand",
            Controller::EphemeralVolume => "ephemeral_volume",
            Controller::LocalPath => proa_api::names::LOCAL_PATH_PROVISIONER,
        }
    }
}
