//! Args: what can be set of single plugins, with the stock defaults.
//!
//! Part of a [`Profile`](super::profile::Profile); read by the plugins. Fields and meaning:
//! <https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/>.

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};

/// The settings of all plugins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Args {
    /// Of NodeResourcesFit.
    pub fit: FitArgs,
    /// Of NodeResourcesBalancedAllocation.
    pub balanced: BalancedArgs,
    /// Of PodTopologySpread.
    pub spread: SpreadArgs,
    /// Of InterPodAffinity.
    pub inter_pod_affinity: InterPodAffinityArgs,
    /// Of NodeAffinity.
    pub node_affinity: NodeAffinityArgs,
    /// Of DefaultPreemption.
    pub preemption: PreemptionArgs,
}

/// A resource and how much it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceWeight {
    /// `cpu`.
    pub name: String,
    /// 1–100.
    pub weight: i64,
}

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The emptiest node first.
    LeastAllocated,
    /// The fullest node first.
    MostAllocated,
    /// By a line through points (utilization 0–100, score 0–10).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// `NodeResourcesFitArgs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitArgs {
    /// Extended resources that the filter does not look at.
    pub ignored_resources: Vec<String>,
    /// The same for all of a group: `example.com` ignores `example.com/gpu`.
    pub ignored_resource_groups: Vec<String>,
    /// How nodes are scored.
    pub strategy: Strategy,
    /// By which resources.
    pub resources: Vec<ResourceWeight>,
}

/// `NodeResourcesBalancedAllocationArgs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalancedArgs {
    /// Which resources are to be used evenly.
    pub resources: Vec<ResourceWeight>,
}

/// `PodTopologySpreadArgs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpreadArgs {
    /// For pods that say nothing; `None` is `defaultingType: System`, the built-in ones.
    pub default_constraints: Option<Vec<TopologySpreadConstraint>>,
}

/// `InterPodAffinityArgs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterPodAffinityArgs {
    /// What the required affinity of pods that are there counts towards a new one: 0–100.
    pub hard_pod_affinity_weight: i64,
    /// True if preferences of pods that are there do not count.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

/// `NodeAffinityArgs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeAffinityArgs {
    /// Holds for all pods of the profile, beside what they say.
    pub added_affinity: Option<NodeAffinity>,
}

/// `DefaultPreemptionArgs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreemptionArgs {
    /// At least this share of the nodes is looked at: 0–100.
    pub min_candidate_nodes_percentage: i64,
    /// And at least so many.
    pub min_candidate_nodes_absolute: i64,
}

fn cpu_and_memory() -> Vec<ResourceWeight> {
    ["cpu", "memory"].map(|name| ResourceWeight { name: name.to_owned(), weight: 1 }).into()
}

impl Default for FitArgs {
    fn default() -> Self {
        FitArgs {
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: cpu_and_memory(),
        }
    }
}

impl Default for BalancedArgs {
    fn default() -> Self {
        BalancedArgs { resources: cpu_and_memory() }
    }
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        InterPodAffinityArgs { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

impl Default for PreemptionArgs {
    fn default() -> Self {
        PreemptionArgs { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}
