//! Plugins: each knows one rule of where pods belong, under its stock name.
//!
//! One file per plugin, named after it. A plugin is plain functions; which of them are called when
//! is said by its row in the [`REGISTRY`], whose columns are those of [`Points`]. What a plugin
//! keeps of a pod is its own `State`, which is a field of [`Kept`].
//!
//! To add a plugin: its file, its name in [`Plugin`] at its place in the stock order, its row here,
//! and a field of [`Kept`] if it keeps something.

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

use super::args::Args;
use super::framework::{self, Event, Listens, Points, PreFilter};
use super::plugin::Plugin;
use super::profile::Profile;

/// What the plugins keep of one pod: a field for each that keeps something.
#[derive(Clone, Debug, Default)]
pub struct Kept {
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

/// What all of them together have worked out about one pod.
pub type CycleState = framework::CycleState<Kept>;

/// What a plugin has to say.
pub fn of(plugin: Plugin) -> &'static Points<Kept> {
    &REGISTRY[plugin as usize]
}

/// The stock profile under this name: each plugin has its say wherever it has one.
pub fn stock_profile(name: &str) -> Profile {
    let having = |has: fn(Plugin) -> bool| Plugin::ALL.iter().copied().filter(move |p| has(*p));
    Profile {
        name: name.to_owned(),
        pre_filter: having(|p| of(p).pre_filter.is_some()).collect(),
        filter: having(|p| of(p).filter.is_some()).collect(),
        pre_score: having(|p| of(p).pre_score.is_some()).collect(),
        score: having(|p| of(p).score.is_some()).map(|p| (p, of(p).weight)).collect(),
        preempts: true,
        args: Args::default(),
        percentage_of_nodes_to_score: None,
    }
}

/// The plugins, each at the place of its name in [`Plugin`].
static REGISTRY: [Points<Kept>; Plugin::ALL.len()] = [
    Points {
        filter: Some(|cycle, _, node| node_unschedulable::filter(cycle, node)),
        listens: Listens::ToNoPod,
        may_fit_after: node_unschedulable::may_fit_after,
        ..Points::of(Plugin::NodeUnschedulable)
    },
    Points {
        filter: Some(|cycle, _, node| node_name::filter(cycle, node)),
        listens: Listens::ToNoPod,
        may_fit_after: |_, event| matches!(event, Event::NodeAdded(_)),
        ..Points::of(Plugin::NodeName)
    },
    Points {
        weight: 3,
        filter: Some(|cycle, _, node| taint_toleration::filter(cycle, node)),
        pre_score: Some(|_, _, nodes| taint_toleration::pre_score(nodes)),
        score: Some(|cycle, _, node| taint_toleration::score(cycle, node)),
        normalize: Some(|scores| framework::normalize(scores, true)),
        listens: Listens::ToNoPod,
        may_fit_after: taint_toleration::may_fit_after,
        ..Points::of(Plugin::TaintToleration)
    },
    Points {
        weight: 2,
        pre_filter: Some(|cycle, kept| node_affinity::pre_filter(cycle, &mut kept.node_affinity)),
        filter: Some(|cycle, kept, node| node_affinity::filter(cycle, &kept.node_affinity, node)),
        pre_score: Some(|cycle, kept, _| node_affinity::pre_score(cycle, &mut kept.node_affinity)),
        score: Some(|_, kept, node| node_affinity::score(&kept.node_affinity, node)),
        normalize: Some(|scores| framework::normalize(scores, false)),
        listens: Listens::ToNoPod,
        may_fit_after: node_affinity::may_fit_after,
        ..Points::of(Plugin::NodeAffinity)
    },
    Points {
        pre_filter: Some(|cycle, kept| image_architecture::pre_filter(cycle, &mut kept.image_architecture)),
        filter: Some(|_, kept, node| image_architecture::filter(&kept.image_architecture, node)),
        may_fit_after: |_, event| image_architecture::may_fit_after(event),
        ..Points::of(Plugin::ImageArchitecture)
    },
    Points {
        pre_filter: Some(|cycle, _| node_ports::pre_filter(cycle)),
        filter: Some(|cycle, _, node| node_ports::filter(cycle, node)),
        listens: Listens::ToPodsThatLeave,
        may_fit_after: node_ports::may_fit_after,
        ..Points::of(Plugin::NodePorts)
    },
    Points {
        // Nothing has to be worked out: profiles turn the point off and on by its stock name.
        pre_filter: Some(|_, _| PreFilter::Filter),
        filter: Some(|cycle, _, node| node_resources_fit::filter(cycle, node)),
        score: Some(|cycle, _, node| node_resources_fit::score(cycle, node)),
        listens: Listens::ToPodsThatLeave,
        may_fit_after: node_resources_fit::may_fit_after,
        ..Points::of(Plugin::NodeResourcesFit)
    },
    Points {
        pre_filter: Some(|cycle, kept| volume_restrictions::pre_filter(cycle, &mut kept.volume_restrictions)),
        filter: Some(|_, kept, _| volume_restrictions::filter(&kept.volume_restrictions)),
        count_pod: Some(|_, kept, other, _, amount| {
            volume_restrictions::change(&mut kept.volume_restrictions, other, amount);
        }),
        may_fit_after: volume_restrictions::may_fit_after,
        ..Points::of(Plugin::VolumeRestrictions)
    },
    Points {
        pre_filter: Some(|cycle, kept| node_volume_limits::pre_filter(cycle, &mut kept.node_volume_limits)),
        filter: Some(|cycle, kept, node| node_volume_limits::filter(cycle, &kept.node_volume_limits, node)),
        may_fit_after: node_volume_limits::may_fit_after,
        ..Points::of(Plugin::NodeVolumeLimits)
    },
    Points {
        pre_filter: Some(|cycle, kept| volume_binding::pre_filter(cycle, &mut kept.volume_binding)),
        filter: Some(|_, kept, node| volume_binding::filter(&kept.volume_binding, node)),
        pre_bind: Some(|cycle, kept, node| volume_binding::pre_bind(cycle, &kept.volume_binding, node)),
        may_fit_after: volume_binding::may_fit_after,
        ..Points::of(Plugin::VolumeBinding)
    },
    Points {
        pre_filter: Some(|cycle, kept| volume_zone::pre_filter(cycle, &mut kept.volume_zone)),
        filter: Some(|_, kept, node| volume_zone::filter(&kept.volume_zone, node)),
        may_fit_after: volume_zone::may_fit_after,
        ..Points::of(Plugin::VolumeZone)
    },
    Points {
        weight: 2,
        pre_filter: Some(|cycle, kept| {
            pod_topology_spread::pre_filter(cycle, &kept.node_affinity, &mut kept.pod_topology_spread)
        }),
        filter: Some(|_, kept, node| pod_topology_spread::filter(&kept.pod_topology_spread, node)),
        count_pod: Some(|cycle, kept, other, node, amount| {
            let (affinity, state) = (&kept.node_affinity, &mut kept.pod_topology_spread);
            pod_topology_spread::change(cycle, affinity, state, other, node, amount);
        }),
        pre_score: Some(|cycle, kept, nodes| {
            pod_topology_spread::pre_score(cycle, &kept.node_affinity, &mut kept.pod_topology_spread, nodes)
        }),
        score: Some(|_, kept, node| pod_topology_spread::score(&kept.pod_topology_spread, node)),
        normalize: Some(pod_topology_spread::normalize),
        may_fit_after: pod_topology_spread::may_fit_after,
        ..Points::of(Plugin::PodTopologySpread)
    },
    Points {
        weight: 2,
        pre_filter: Some(|cycle, kept| inter_pod_affinity::pre_filter(cycle, &mut kept.inter_pod_affinity)),
        filter: Some(|_, kept, node| inter_pod_affinity::filter(&kept.inter_pod_affinity, node)),
        count_pod: Some(|cycle, kept, other, node, amount| {
            inter_pod_affinity::change(cycle, &mut kept.inter_pod_affinity, other, node, amount);
        }),
        pre_score: Some(|cycle, kept, _| inter_pod_affinity::pre_score(cycle, &mut kept.inter_pod_affinity)),
        score: Some(|_, kept, node| inter_pod_affinity::score(&kept.inter_pod_affinity, node)),
        normalize: Some(inter_pod_affinity::normalize),
        may_fit_after: inter_pod_affinity::may_fit_after,
        ..Points::of(Plugin::InterPodAffinity)
    },
    Points {
        pre_score: Some(|cycle, _, _| node_resources_balanced_allocation::pre_score(cycle)),
        score: Some(|cycle, _, node| node_resources_balanced_allocation::score(cycle, node)),
        ..Points::of(Plugin::NodeResourcesBalancedAllocation)
    },
    Points {
        pre_score: Some(|cycle, kept, _| image_locality::pre_score(cycle, &mut kept.image_locality)),
        score: Some(|cycle, kept, node| image_locality::score(cycle, &kept.image_locality, node)),
        ..Points::of(Plugin::ImageLocality)
    },
];

/// A row at the place of another name would be another's.
const _: () = {
    let mut place = 0;
    while place < Plugin::ALL.len() {
        assert!(Plugin::ALL[place] as usize == place && REGISTRY[place].plugin as usize == place);
        place += 1;
    }
};
