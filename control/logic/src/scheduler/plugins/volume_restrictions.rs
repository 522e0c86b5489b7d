//! VolumeRestrictions: a claim that only one pod may use (`ReadWriteOncePod`) is used by one pod.
//!
//! Rules: <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes>.

use crate::scheduler::framework::{Cycle, Event, Misfit, PreFilter, Reason};
use crate::world::facts::{Key, Pod};

const CONFLICT: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// The pod's claims that only one pod may use, and how many others use them.
#[derive(Clone, Debug, Default)]
pub struct State {
    claims: Vec<Key>,
    users: i64,
}

/// Counts the pods that use such claims of this pod, on whatever node.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    let mut found = State::default();
    for name in &cycle.pod.claims {
        let key = Key { namespace: cycle.pod.meta.key.namespace.clone(), name: name.clone() };
        let Some(claim) = cycle.seen.persistent_volume_claims.get(&key) else {
            let text = format!("persistentvolumeclaim \"{name}\" not found");
            return PreFilter::Reject(Misfit { unresolvable: true, reason: Reason::Named(text.into()) });
        };
        let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
        if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            let users = cycle.snapshot.nodes().filter_map(|n| n.claims.get(&key));
            found.users += users.map(|n| i64::from(*n)).sum::<i64>();
            found.claims.push(key);
        }
    }
    if found.claims.is_empty() {
        return PreFilter::Skip;
    }
    *state = found;
    PreFilter::Filter
}

/// True if nobody else uses them.
pub fn filter(state: &State) -> Result<(), Misfit> {
    if state.users > 0 { Err(Misfit::unschedulable(CONFLICT)) } else { Ok(()) }
}

/// Counts another pod in (`amount` 1) or out (-1).
pub fn change(state: &mut State, other: &Pod, amount: i64) {
    let uses = |key: &&Key| key.namespace == other.meta.key.namespace && other.claims.contains(&key.name);
    let shared = i64::try_from(state.claims.iter().filter(uses).count()).unwrap_or(i64::MAX);
    state.users += amount * shared;
}

/// True if a pod with one of the claims has gone, or a claim has come.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::PodGone(other) => {
            other.meta.key.namespace == pod.meta.key.namespace
                && other.claims.iter().any(|claim| pod.claims.contains(claim))
        }
        Event::Other { kind: "PersistentVolumeClaim", key } => {
            key.namespace == pod.meta.key.namespace && pod.claims.contains(&key.name)
        }
        _ => false,
    }
}
