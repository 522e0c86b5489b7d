//! Profile: which plugins place the pods of one `schedulerName`, with which weights and settings.

use super::args::Args;
use super::plugin::Plugin;

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
