//! What the volume plugins read in claims and volumes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use proa_api::names;

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
