//! VolumeZone: volumes that carry the label of a zone or region are used there.
//!
//! For volumes without node affinity, from before there was any. Rules:
//! <https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone>.

use crate::scheduler::framework::{Cycle, Event, Misfit, PreFilter};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::{Key, Pod};
use crate::world::volumes;

const CONFLICT: &str = "node(s) had no available volume zone";
const LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// Stands between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

/// A label and the values of it that the node may have.
pub type State = Vec<(&'static str, Vec<String>)>;

/// Reads the labels of the pod's volumes.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    let mut wanted = State::new();
    for name in &cycle.pod.claims {
        let key = Key { namespace: cycle.pod.meta.key.namespace.clone(), name: name.clone() };
        let claim = cycle.seen.persistent_volume_claims.get(&key);
        let Some(volume) = claim.and_then(|claim| volumes::volume_of(claim, cycle.seen)) else { continue };
        let labels = volume.metadata.labels.as_ref();
        for label in LABELS {
            if let Some(value) = labels.and_then(|l| l.get(label)) {
                wanted.push((label, value.split(SEPARATOR).map(str::to_owned).collect()));
            }
        }
    }
    if wanted.is_empty() {
        return PreFilter::Skip;
    }
    *state = wanted;
    PreFilter::Filter
}

/// True if the node is in all of the zones, or in a cluster that has none.
pub fn filter(state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    let labels = &node.node.labels;
    if !LABELS.iter().any(|label| labels.contains_key(*label)) {
        return Ok(());
    }
    let fits = |(label, values): &(&str, Vec<String>)| {
        labels.get(other_name(label)).or_else(|| labels.get(*label)).is_some_and(|v| values.contains(v))
    };
    if state.iter().all(fits) { Ok(()) } else { Err(Misfit::unresolvable(CONFLICT)) }
}

/// The newer name of a beta label, which nodes have.
fn other_name(label: &str) -> &str {
    match label {
        "failure-domain.beta.kubernetes.io/zone" => LABELS[0],
        "failure-domain.beta.kubernetes.io/region" => LABELS[1],
        newer => newer,
    }
}

/// True if a node, claim or volume has changed.
pub fn may_fit_after(_pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeChanged { old, new } => old.labels != new.labels,
        Event::Other { kind, .. } => kind.starts_with("PersistentVolume"),
        _ => false,
    }
}
