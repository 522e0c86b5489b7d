//! NodeVolumeLimits: no more volumes of a CSI driver on a node than its CSINode says can be there.
//!
//! Rules: <https://kubernetes.io/docs/concepts/storage/storage-limits/>. Volumes that are yet to be
//! made count for the driver that makes them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::scheduler::framework::{Cycle, Event, Misfit, PreFilter};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::{Key, Pod};
use crate::world::observed::Observed;
use crate::world::volumes;

const EXCEEDED: &str = "node(s) exceed max volume count";

/// The pod's volumes: what tells one from another, and its driver.
pub type State = BTreeMap<String, String>;

/// What tells the volume of a claim from others, and its driver; `None` if no driver is known.
fn volume(claim: &PersistentVolumeClaim, seen: &Observed) -> Option<(String, String)> {
    if let Some(volume) = volumes::volume_of(claim, seen) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((format!("{}/{}", csi.driver, csi.volume_handle), csi.driver.clone()));
    }
    let class = volumes::class(seen, claim)?;
    let meta = &claim.metadata;
    let id = format!(
        "{}-{}/{}",
        class.provisioner,
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    );
    Some((id, class.provisioner.clone()))
}

/// Looks up the drivers of the pod's claims.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    let mut own = State::new();
    for name in &cycle.pod.claims {
        let key = Key { namespace: cycle.pod.meta.key.namespace.clone(), name: name.clone() };
        let claim = cycle.seen.persistent_volume_claims.get(&key);
        own.extend(claim.and_then(|claim| volume(claim, cycle.seen)));
    }
    if own.is_empty() || cycle.seen.csi_nodes.iter().next().is_none() {
        return PreFilter::Skip;
    }
    *state = own;
    PreFilter::Filter
}

/// True if no driver gets more volumes than it can have on the node.
pub fn filter(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    let key = Key { namespace: "".into(), name: node.name().clone() };
    let Some(limits) = cycle.seen.csi_nodes.get(&key) else { return Ok(()) };
    let limits = limits.spec.drivers.iter().filter_map(|d| Some((&d.name, d.allocatable.as_ref()?.count?)));
    let limits: BTreeMap<&String, i32> = limits.collect();
    if !state.values().any(|driver| limits.contains_key(driver)) {
        return Ok(());
    }
    let claims = node.claims.keys().filter_map(|key| cycle.seen.persistent_volume_claims.get(key));
    let there: State = claims.filter_map(|claim| volume(claim, cycle.seen)).collect();
    for (driver, limit) in limits {
        let of_driver = |volumes: &State| volumes.values().filter(|d| *d == driver).count();
        let own = state.iter().filter(|(id, d)| *d == driver && !there.contains_key(*id));
        let own = own.count();
        let all = i64::try_from(of_driver(&there) + own).unwrap_or(i64::MAX);
        if own > 0 && all > i64::from(limit) {
            return Err(Misfit::unschedulable(EXCEEDED));
        }
    }
    Ok(())
}

/// True if a pod with volumes has gone, or a limit may have changed.
pub fn may_fit_after(_pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::PodGone(other) => !other.claims.is_empty(),
        Event::Other { kind, .. } => ["CSINode", "PersistentVolumeClaim", "PersistentVolume"].contains(kind),
        _ => false,
    }
}
