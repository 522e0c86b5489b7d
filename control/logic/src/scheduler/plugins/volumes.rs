//! What the volume plugins read in claims and volumes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use proa_api::names;
use proa_api::quantity::Amount;

use crate::controllers::facts::Key;
use crate::controllers::observed::Observed;

/// True if the binder has finished with the claim.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).is_some_and(|n| !n.is_empty());
    let annotations = claim.metadata.annotations.as_ref();
    named && annotations.is_some_and(|a| a.contains_key(names::ANNOTATION_BIND_COMPLETED))
}

/// The volume that a claim names.
pub fn of<'a>(claim: &PersistentVolumeClaim, seen: &'a Observed) -> Option<&'a PersistentVolume> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    seen.persistent_volumes.get(&Key::new("", name)).map(|v| &**v)
}

/// The class of a claim; the annotation that named it before the field did goes first.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotation = claim.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_STORAGE_CLASS));
    annotation.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// The class of a volume, likewise.
pub fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let annotation =
        volume.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_STORAGE_CLASS));
    annotation.or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Amount {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get(names::STORAGE));
    capacity.and_then(|q| Amount::parse(&q.0).ok()).unwrap_or_default()
}
