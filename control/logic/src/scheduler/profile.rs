//! Profile: which plugins place the pods of one `schedulerName`, with which weights and settings.

use super::args::Args;
use super::plugins::Plugin;
use super::queue::BackOff;
use crate::world::facts::Pod;

/// The settings of the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// One for each `schedulerName`.
    pub profiles: Vec<Profile>,
    /// How long a pod that fits nowhere waits.
    pub back_off: BackOff,
}

impl Default for Settings {
    fn default() -> Self {
        let profiles = vec![Profile::new(proa_api::names::DEFAULT_SCHEDULER)];
        Settings { profiles, back_off: BackOff::default() }
    }
}

impl Settings {
    /// The profile for a pod that is not bound; `None` if it is another scheduler's.
    pub fn profile(&self, pod: &Pod) -> Option<&Profile> {
        let name = &pod.wishes.as_ref()?.scheduler;
        self.profiles.iter().find(|p| *p.name == **name)
    }
}

/// The settings for the pods of one `schedulerName`.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `spec.schedulerName` of its pods.
    pub name: String,
    /// Who looks at a pod before any node.
    pub pre_filter: Vec<Plugin>,
    /// Who rejects nodes, in this order.
    pub filter: Vec<Plugin>,
    /// Who looks at the nodes that are left before they are scored.
    pub pre_score: Vec<Plugin>,
    /// Who scores, and how much it counts.
    pub score: Vec<(Plugin, i64)>,
    /// True if less important pods may be sent away.
    pub preempts: bool,
    /// The settings of the plugins.
    pub args: Args,
    /// Of so many nodes in a hundred that fit, the best is good enough; `None` adapts to the size
    /// of the cluster.
    pub percentage_of_nodes_to_score: Option<i64>,
}

impl Profile {
    /// The stock profile under this name.
    pub fn new(name: &str) -> Self {
        let having = |has: fn(Plugin) -> bool| Plugin::ALL.iter().copied().filter(move |p| has(*p));
        Profile {
            name: name.to_owned(),
            pre_filter: having(Plugin::has_pre_filter).collect(),
            filter: having(Plugin::has_filter).collect(),
            pre_score: having(Plugin::has_pre_score).collect(),
            score: having(Plugin::has_score).map(|p| (p, p.default_weight())).collect(),
            preempts: true,
            args: Args::default(),
            percentage_of_nodes_to_score: None,
        }
    }
}
