//! The plugins by name. What each of them does is in the registry of [`super::plugins`].

/// The plugins that filter or score, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    /// Cordoned nodes take no pods.
    NodeUnschedulable,
    /// A pod that names its node.
    NodeName,
    /// Taints and tolerations.
    TaintToleration,
    /// `nodeSelector` and node affinity.
    NodeAffinity,
    /// Images that have a manifest for the node's architecture.
    ImageArchitecture,
    /// Ports of the node.
    NodePorts,
    /// Requests fit into what the node offers.
    NodeResourcesFit,
    /// Claims that only one pod may use.
    VolumeRestrictions,
    /// How many volumes of a driver a node can have.
    NodeVolumeLimits,
    /// Where the pod's volumes are, or can be made.
    VolumeBinding,
    /// Volumes with the label of a zone.
    VolumeZone,
    /// Pods are spread evenly over domains.
    PodTopologySpread,
    /// Pods that want or do not want each other near.
    InterPodAffinity,
    /// CPU and memory are used evenly.
    NodeResourcesBalancedAllocation,
    /// Images that are there already.
    ImageLocality,
}

impl Plugin {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Plugin; 15] = [
        Plugin::NodeUnschedulable,
        Plugin::NodeName,
        Plugin::TaintToleration,
        Plugin::NodeAffinity,
        Plugin::ImageArchitecture,
        Plugin::NodePorts,
        Plugin::NodeResourcesFit,
        Plugin::VolumeRestrictions,
        Plugin::NodeVolumeLimits,
        Plugin::VolumeBinding,
        Plugin::VolumeZone,
        Plugin::PodTopologySpread,
        Plugin::InterPodAffinity,
        Plugin::NodeResourcesBalancedAllocation,
        Plugin::ImageLocality,
    ];

    /// Its stock name.
    pub const fn name(self) -> &'static str {
        match self {
            Plugin::NodeUnschedulable => "NodeUnschedulable",
            Plugin::NodeName => "NodeName",
            Plugin::TaintToleration => "TaintToleration",
            Plugin::NodeAffinity => "NodeAffinity",
            Plugin::ImageArchitecture => "ImageArchitecture",
            Plugin::NodePorts => "NodePorts",
            Plugin::NodeResourcesFit => "NodeResourcesFit",
            Plugin::VolumeRestrictions => "VolumeRestrictions",
            Plugin::NodeVolumeLimits => "NodeVolumeLimits",
            Plugin::VolumeBinding => "VolumeBinding",
            Plugin::VolumeZone => "VolumeZone",
            Plugin::PodTopologySpread => "PodTopologySpread",
            Plugin::InterPodAffinity => "InterPodAffinity",
            Plugin::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Plugin::ImageLocality => "ImageLocality",
        }
    }
}
