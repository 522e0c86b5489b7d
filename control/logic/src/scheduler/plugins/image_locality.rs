//! ImageLocality: a node that has the pod's images already is better.
//!
//! The larger the images and the more nodes have them, the more they count: an image that only one
//! node has does not draw all pods there.

use crate::scheduler::framework::{Cycle, MAX_SCORE};
use crate::scheduler::node_info::NodeInfo;

const MIB: i64 = 1024 * 1024;
/// Below this many bytes of images a node is as good as without.
const LOWEST: i64 = 23 * MIB;
/// From this many bytes per container on, a node is as good as can be.
const HIGHEST_PER_CONTAINER: i64 = 1000 * MIB;

/// For each image of the pod: its name, and how many nodes have it.
pub type State = Vec<(Box<str>, i64)>;

/// Looks which images are on nodes. False if none is.
pub fn pre_score(cycle: &Cycle<'_>, state: &mut State) -> bool {
    let images = cycle.wishes.images.iter();
    let there = images.map(|image| (image.clone(), cycle.snapshot.nodes_with_image(image)));
    *state = there.filter(|(_, nodes)| *nodes > 0).collect();
    !state.is_empty()
}

/// How much of the images the node has.
pub fn score(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> i64 {
    let all = i64::try_from(cycle.snapshot.len()).unwrap_or(i64::MAX).max(1);
    let spread = |(image, nodes): &(Box<str>, i64)| {
        let size = node.node.images.get(image).copied().unwrap_or(0);
        i64::try_from(i128::from(size) * i128::from(*nodes) / i128::from(all)).unwrap_or(0)
    };
    let sum: i64 = state.iter().map(spread).sum();
    let containers = i64::try_from(cycle.wishes.images.len()).unwrap_or(1).max(1);
    let highest = HIGHEST_PER_CONTAINER * containers;
    MAX_SCORE * (sum.clamp(LOWEST, highest) - LOWEST) / (highest - LOWEST)
}
