//! Who is concerned when a claim, a volume or a class changes.
//!
//! Read by the wakes. Each answer errs on the side of naming too many.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::matching;
use crate::controllers::facts::Key;
use crate::controllers::observed::Observed;

/// The claims that a volume may be for.
pub fn claims_of(seen: &Observed, volume: &PersistentVolume) -> Vec<Key> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let promised = reference.and_then(|r| Some(Key::new(r.namespace.as_deref()?, r.name.as_deref()?)));
    let class = matching::volume_class_name(volume);
    let others = seen.persistent_volume_claims.iter().filter(|(_, claim)| match volume_name(claim) {
        "" => promised.is_none() && matching::class_name(claim).unwrap_or_default() == class,
        named => named == name,
    });
    let others: Vec<Key> = others.map(|(key, _)| key.clone()).collect();
    promised.clone().into_iter().chain(others).collect()
}

/// The volumes that a claim has, or that are kept for it.
pub fn volumes_of(seen: &Observed, claim: &PersistentVolumeClaim) -> Vec<Key> {
    let named = Some(volume_name(claim)).filter(|name| !name.is_empty()).map(|name| Key::new("", name));
    let kept = seen.persistent_volumes.iter().filter(|(_, volume)| {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        reference.is_some_and(|r| r.name == claim.metadata.name && r.namespace == claim.metadata.namespace)
    });
    named.into_iter().chain(kept.map(|(key, _)| key.clone())).collect()
}

/// The claims of a class, and those without one, which may get it.
pub fn claims_of_class(seen: &Observed, class: &str) -> Vec<Key> {
    let concerned = seen.persistent_volume_claims.iter();
    let concerned =
        concerned.filter(|(_, claim)| matching::class_name(claim).is_none_or(|name| name == class));
    concerned.map(|(key, _)| key.clone()).collect()
}

/// True for a claim that names no volume yet.
pub fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_empty()
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}
