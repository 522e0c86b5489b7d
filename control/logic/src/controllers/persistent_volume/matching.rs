//! Which volume is good for a claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use proa_api::names::ANNOTATION_DEFAULT_STORAGE_CLASS;

use super::is_deleted;
use crate::world::facts::time;
use crate::world::observed::Observed;
use crate::world::volumes::{
    access_modes, annotation, capacity, class_name, fits, has_access_modes, is_bound_to, is_free, requested,
    same_mode, volume_class_name,
};

/// The class of claims that say nothing: of several the newest, then the first by name.
pub fn default_class(seen: &Observed) -> Option<&Arc<StorageClass>> {
    let marked = |class: &StorageClass| annotation(class, ANNOTATION_DEFAULT_STORAGE_CLASS) == Some("true");
    let classes = seen.storage_classes.iter().filter(|(_, class)| marked(class) && !is_deleted(&***class));
    let newest = classes.max_by(|(a_name, a), (b_name, b)| {
        let made = |class: &StorageClass| time(&class.metadata.creation_timestamp);
        made(a).cmp(&made(b)).then(b_name.cmp(a_name))
    });
    newest.map(|(_, class)| class)
}

/// Why a claim that names a volume cannot have it.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if is_deleted(volume) {
        return Some("the volume is marked for deletion");
    }
    if capacity(volume) < requested(claim) {
        return Some("requested PV is too small");
    }
    if volume_class_name(volume) != class_name(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if !same_attributes_class(volume, claim) {
        return Some("volumeAttributesClassName does not match");
    }
    if !same_mode(volume, claim) {
        return Some("incompatible volumeMode");
    }
    if !has_access_modes(volume, claim) {
        return Some("incompatible accessMode");
    }
    None
}

fn same_attributes_class(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

/// The volume for a claim that names none: one that is kept for it, else the smallest that fits.
///
/// A claim that waits for its first consumer only gets what is kept for it: where its pod runs is
/// the scheduler's choice.
pub fn best<'a>(
    seen: &'a Observed,
    claim: &PersistentVolumeClaim,
    waits: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let candidates = || {
        seen.persistent_volumes.iter().map(|(_, volume)| volume).filter(|volume| {
            !is_deleted(&***volume)
                && same_mode(volume, claim)
                && same_attributes_class(volume, claim)
                && capacity(volume) >= requested(claim)
        })
    };
    let kept = candidates().find(|volume| is_bound_to(volume, claim) && has_access_modes(volume, claim));
    if kept.is_some() || waits {
        return kept;
    }
    candidates()
        .filter(|volume| is_free(volume) && fits(volume, claim))
        .min_by_key(|volume| (access_modes(volume).len(), capacity(volume), volume.metadata.name.clone()))
}
