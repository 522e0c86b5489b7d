//! ImageArchitecture: a pod does not go where one of its images has nothing to run.
//!
//! Proa's own. A node that finds no manifest for its architecture in an image's index says so in an
//! annotation; what one node has found holds for all nodes of its architecture. An image that runs
//! anywhere, such as a Wasm image, is never listed.

use proa_api::names::LABEL_ARCH;

use crate::scheduler::framework::{Cycle, Event, Misfit, PreFilter, Reason};
use crate::scheduler::node_info::NodeInfo;

/// Architectures that the pod cannot run on, and the text that says why.
pub type State = Vec<(String, Box<str>)>;

/// Looks for the pod's images in what nodes have found.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    let mut foreign = State::new();
    for info in cycle.snapshot.nodes_with_foreign_images() {
        let Some(architecture) = info.node.labels.get(LABEL_ARCH) else { continue };
        if foreign.iter().any(|(known, _)| known == architecture) {
            continue;
        }
        let image = cycle.wishes.images.iter().find(|image| info.node.foreign_images.contains(image));
        if let Some(image) = image {
            let text = format!(
                "node(s) had architecture {architecture}, which image \"{image}\" has no manifest for"
            );
            foreign.push((architecture.clone(), text.into()));
        }
    }
    if foreign.is_empty() {
        return PreFilter::Skip;
    }
    *state = foreign;
    PreFilter::Filter
}

/// True if all images may have something to run on the node.
pub fn filter(state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    let architecture = node.node.labels.get(LABEL_ARCH);
    match state.iter().find(|(foreign, _)| Some(foreign) == architecture) {
        Some((_, text)) => Err(Misfit { unresolvable: true, reason: Reason::Named(text.clone()) }),
        None => Ok(()),
    }
}

/// True if a node has come, or may have found something else.
pub fn may_fit_after(event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeChanged { old, new } => {
            old.foreign_images != new.foreign_images || old.labels != new.labels
        }
        _ => false,
    }
}
