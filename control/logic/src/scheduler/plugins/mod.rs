//! Plugins: each knows one rule of where pods belong, under its stock name.
//!
//! One file per plugin, named after it. A plugin is plain functions, called from the `match`es
//! below; there is no trait, so the compiler sees through every call. Which functions it has is
//! said by [`Plugin::has_pre_filter`] and its like:
//!
//! - `pre_filter(cycle, &mut state) -> PreFilter`: once per pod. Works out what the filter needs
//!   and keeps it in its own field of [`CycleState`]. May say that it has nothing to say of the
//!   pod ([`PreFilter::Skip`]), or that the pod fits nowhere.
//! - `filter(cycle, state, node) -> Result<(), Misfit>`: once per node. Allocates nothing for a
//!   node that fits. `node` may be another than the snapshot has at its place: preemption tries
//!   nodes without some of their pods.
//! - `add_pod` and `remove_pod(cycle, &mut state, other, node)`: keep the state true while
//!   preemption tries what happens without `other`, or with a nominated pod. Only for plugins
//!   whose state counts pods.
//! - `pre_score(cycle, nodes, &mut state) -> bool`: once per pod, with the nodes that it fits
//!   on. False if all nodes are alike to the plugin: it is not asked for scores then.
//! - `score(cycle, state, node) -> i64`: once per such node.
//! - `normalize(cycle, state, nodes, &mut scores)`: brings the scores to 0..=100.
//! - `pre_bind(cycle, state, node) -> PreBind`: before the pod is bound to the node that was chosen. For
//!   what has to be done or waited for first, such as a volume. Asked again, with a fresh state, until
//!   it is ready.
//! - `may_fit_after(pod, event) -> bool`: true if the event may void its rejection of the pod.
//!   Err on the side of true; a pod that is woken in vain costs a little time.
//!
//! To add a plugin: its file, a variant of [`Plugin`] at its place in the stock order, an arm
//! where it has something to say, and a field of [`CycleState`] if it keeps something.

mod default_selector;
pub mod image_architecture;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
mod resource_score;
pub mod taint_toleration;
#[cfg(test)]
mod tests;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use super::framework::{Cycle, Event, Misfit, PreBind, PreFilter};
use super::snapshot::NodeInfo;
use crate::world::facts::Pod;

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

/// What the plugins have worked out about one pod: a field for each that keeps something.
#[derive(Clone, Debug, Default)]
pub struct CycleState {
    /// The plugins that have nothing to say of the pod when nodes are filtered: bits.
    skip_filter: u64,
    /// The same when nodes are scored.
    skip_score: u64,
    /// Of NodeAffinity.
    pub node_affinity: node_affinity::State,
    /// Of ImageArchitecture.
    pub image_architecture: image_architecture::State,
    /// Of VolumeRestrictions.
    pub volume_restrictions: volume_restrictions::State,
    /// Of NodeVolumeLimits.
    pub node_volume_limits: node_volume_limits::State,
    /// Of VolumeBinding.
    pub volume_binding: volume_binding::State,
    /// Of VolumeZone.
    pub volume_zone: volume_zone::State,
    /// Of PodTopologySpread.
    pub pod_topology_spread: pod_topology_spread::State,
    /// Of InterPodAffinity.
    pub inter_pod_affinity: inter_pod_affinity::State,
    /// Of ImageLocality.
    pub image_locality: image_locality::State,
}

impl CycleState {
    /// True if the plugin's filter is not called for this pod.
    pub fn skips_filter(&self, plugin: Plugin) -> bool {
        self.skip_filter & plugin.bit() != 0
    }

    /// True if the plugin gives no scores for this pod.
    pub fn skips_score(&self, plugin: Plugin) -> bool {
        self.skip_score & plugin.bit() != 0
    }

    /// Says that the plugin's filter is not called.
    pub fn skip_filter(&mut self, plugin: Plugin) {
        self.skip_filter |= plugin.bit();
    }

    /// Says that the plugin gives no scores.
    pub fn skip_score(&mut self, plugin: Plugin) {
        self.skip_score |= plugin.bit();
    }
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

    const fn bit(self) -> u64 {
        1 << self as u64
    }

    /// True if it has a `pre_filter`.
    pub fn has_pre_filter(self) -> bool {
        matches!(
            self,
            Plugin::NodeAffinity
                | Plugin::ImageArchitecture
                | Plugin::NodePorts
                | Plugin::NodeResourcesFit
                | Plugin::VolumeRestrictions
                | Plugin::NodeVolumeLimits
                | Plugin::VolumeBinding
                | Plugin::VolumeZone
                | Plugin::PodTopologySpread
                | Plugin::InterPodAffinity
        )
    }

    /// True if it has a `filter`.
    pub fn has_filter(self) -> bool {
        !matches!(self, Plugin::NodeResourcesBalancedAllocation | Plugin::ImageLocality)
    }

    /// True if it has a `pre_score`.
    pub fn has_pre_score(self) -> bool {
        matches!(
            self,
            Plugin::TaintToleration
                | Plugin::NodeAffinity
                | Plugin::PodTopologySpread
                | Plugin::InterPodAffinity
                | Plugin::NodeResourcesBalancedAllocation
                | Plugin::ImageLocality
        )
    }

    /// True if it has a `score`.
    pub fn has_score(self) -> bool {
        matches!(
            self,
            Plugin::TaintToleration
                | Plugin::NodeAffinity
                | Plugin::NodeResourcesFit
                | Plugin::PodTopologySpread
                | Plugin::InterPodAffinity
                | Plugin::NodeResourcesBalancedAllocation
                | Plugin::ImageLocality
        )
    }

    /// How much its score counts unless a profile says otherwise.
    pub fn default_weight(self) -> i64 {
        match self {
            Plugin::TaintToleration => 3,
            Plugin::NodeAffinity | Plugin::PodTopologySpread | Plugin::InterPodAffinity => 2,
            _ => 1,
        }
    }

    /// Looks at the pod before any node.
    pub fn pre_filter(self, cycle: &Cycle<'_>, state: &mut CycleState) -> PreFilter {
        match self {
            Plugin::NodeAffinity => node_affinity::pre_filter(cycle, state),
            Plugin::ImageArchitecture => image_architecture::pre_filter(cycle, state),
            Plugin::NodePorts => node_ports::pre_filter(cycle),
            Plugin::VolumeRestrictions => volume_restrictions::pre_filter(cycle, state),
            Plugin::NodeVolumeLimits => node_volume_limits::pre_filter(cycle, state),
            Plugin::VolumeBinding => volume_binding::pre_filter(cycle, state),
            Plugin::VolumeZone => volume_zone::pre_filter(cycle, state),
            Plugin::PodTopologySpread => pod_topology_spread::pre_filter(cycle, state),
            Plugin::InterPodAffinity => inter_pod_affinity::pre_filter(cycle, state),
            _ => PreFilter::Filter,
        }
    }

    /// True if the pod can be on the node, as far as this plugin knows.
    pub fn filter(self, cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> Result<(), Misfit> {
        match self {
            Plugin::NodeUnschedulable => node_unschedulable::filter(cycle, node),
            Plugin::NodeName => node_name::filter(cycle, node),
            Plugin::TaintToleration => taint_toleration::filter(cycle, node),
            Plugin::NodeAffinity => node_affinity::filter(cycle, state, node),
            Plugin::ImageArchitecture => image_architecture::filter(state, node),
            Plugin::NodePorts => node_ports::filter(cycle, node),
            Plugin::NodeResourcesFit => node_resources_fit::filter(cycle, node),
            Plugin::VolumeRestrictions => volume_restrictions::filter(state),
            Plugin::NodeVolumeLimits => node_volume_limits::filter(cycle, state, node),
            Plugin::VolumeBinding => volume_binding::filter(state, node),
            Plugin::VolumeZone => volume_zone::filter(state, node),
            Plugin::PodTopologySpread => pod_topology_spread::filter(state, node),
            Plugin::InterPodAffinity => inter_pod_affinity::filter(state, node),
            Plugin::NodeResourcesBalancedAllocation | Plugin::ImageLocality => Ok(()),
        }
    }

    /// Another pod counts as being on the node from now on.
    pub fn add_pod(self, cycle: &Cycle<'_>, state: &mut CycleState, other: &Pod, node: &NodeInfo) {
        self.count_pod(cycle, state, other, node, 1);
    }

    /// Another pod counts as having left the node.
    pub fn remove_pod(self, cycle: &Cycle<'_>, state: &mut CycleState, other: &Pod, node: &NodeInfo) {
        self.count_pod(cycle, state, other, node, -1);
    }

    fn count_pod(self, cycle: &Cycle<'_>, state: &mut CycleState, other: &Pod, node: &NodeInfo, amount: i64) {
        match self {
            Plugin::VolumeRestrictions => volume_restrictions::change(state, other, amount),
            Plugin::PodTopologySpread => pod_topology_spread::change(cycle, state, other, node, amount),
            Plugin::InterPodAffinity => inter_pod_affinity::change(cycle, state, other, node, amount),
            _ => {}
        }
    }

    /// Looks at the nodes that are left before they are scored. False if they are all alike.
    pub fn pre_score(self, cycle: &Cycle<'_>, nodes: &[&NodeInfo], state: &mut CycleState) -> bool {
        match self {
            Plugin::TaintToleration => taint_toleration::pre_score(nodes),
            Plugin::NodeAffinity => node_affinity::pre_score(cycle, state),
            Plugin::PodTopologySpread => pod_topology_spread::pre_score(cycle, nodes, state),
            Plugin::InterPodAffinity => inter_pod_affinity::pre_score(cycle, state),
            Plugin::NodeResourcesBalancedAllocation => node_resources_balanced_allocation::pre_score(cycle),
            Plugin::ImageLocality => image_locality::pre_score(cycle, state),
            _ => true,
        }
    }

    /// How good the node is for the pod; to be normalized.
    pub fn score(self, cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> i64 {
        match self {
            Plugin::TaintToleration => taint_toleration::score(cycle, node),
            Plugin::NodeAffinity => node_affinity::score(state, node),
            Plugin::NodeResourcesFit => node_resources_fit::score(cycle, node),
            Plugin::PodTopologySpread => pod_topology_spread::score(state, node),
            Plugin::InterPodAffinity => inter_pod_affinity::score(state, node),
            Plugin::NodeResourcesBalancedAllocation => node_resources_balanced_allocation::score(cycle, node),
            Plugin::ImageLocality => image_locality::score(cycle, state, node),
            _ => 0,
        }
    }

    /// Brings the scores of these nodes to 0..=100.
    pub fn normalize(
        self,
        _cycle: &Cycle<'_>,
        _state: &CycleState,
        _nodes: &[&NodeInfo],
        scores: &mut [i64],
    ) {
        match self {
            Plugin::TaintToleration => super::framework::normalize(scores, true),
            Plugin::NodeAffinity => super::framework::normalize(scores, false),
            Plugin::PodTopologySpread => pod_topology_spread::normalize(scores),
            Plugin::InterPodAffinity => inter_pod_affinity::normalize(scores),
            _ => {}
        }
    }

    /// True if it has a `pre_bind`.
    pub fn has_pre_bind(self) -> bool {
        self == Plugin::VolumeBinding
    }

    /// What has to be done before the pod is bound to this node.
    pub fn pre_bind(self, cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> PreBind {
        match self {
            Plugin::VolumeBinding => volume_binding::pre_bind(cycle, state, node),
            _ => PreBind::Ready,
        }
    }

    /// False if no event of this sort ever voids its rejections, whatever the pod.
    pub fn listens_to(self, event: &Event<'_>) -> bool {
        let node_only = matches!(
            self,
            Plugin::NodeUnschedulable | Plugin::NodeName | Plugin::TaintToleration | Plugin::NodeAffinity
        );
        match event {
            Event::PodPlaced(_) => {
                !node_only && !matches!(self, Plugin::NodePorts | Plugin::NodeResourcesFit)
            }
            Event::PodGone(_) | Event::PodChanged { .. } => !node_only,
            _ => true,
        }
    }

    /// True if a pod that it has rejected may fit after the event.
    pub fn may_fit_after(self, pod: &Pod, event: &Event<'_>) -> bool {
        match self {
            Plugin::NodeUnschedulable => node_unschedulable::may_fit_after(pod, event),
            Plugin::NodeName => matches!(event, Event::NodeAdded(_)),
            Plugin::TaintToleration => taint_toleration::may_fit_after(pod, event),
            Plugin::NodeAffinity => node_affinity::may_fit_after(pod, event),
            Plugin::ImageArchitecture => image_architecture::may_fit_after(event),
            Plugin::NodePorts => node_ports::may_fit_after(pod, event),
            Plugin::NodeResourcesFit => node_resources_fit::may_fit_after(pod, event),
            Plugin::VolumeRestrictions => volume_restrictions::may_fit_after(pod, event),
            Plugin::NodeVolumeLimits => node_volume_limits::may_fit_after(pod, event),
            Plugin::VolumeBinding => volume_binding::may_fit_after(pod, event),
            Plugin::VolumeZone => volume_zone::may_fit_after(pod, event),
            Plugin::PodTopologySpread => pod_topology_spread::may_fit_after(pod, event),
            Plugin::InterPodAffinity => inter_pod_affinity::may_fit_after(pod, event),
            Plugin::NodeResourcesBalancedAllocation | Plugin::ImageLocality => false,
        }
    }
}
