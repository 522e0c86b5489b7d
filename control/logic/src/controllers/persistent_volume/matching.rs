//! Which volume is good for a claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use proa_api::names::{ANNOTATION_DEFAULT_STORAGE_CLASS, ANNOTATION_STORAGE_CLASS, STORAGE};
use proa_api::quantity::Amount;
use proa_api::selector::Selector;

use super::{annotation, is_deleted};
use crate::controllers::facts::{Key, time};
use crate::controllers::observed::Observed;

/// The name of a claim's class: absent if none is said, empty if none is wanted.
pub fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let field = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    annotation(claim, ANNOTATION_STORAGE_CLASS).or(field)
}

/// The name of a volume's class, empty for none.
pub fn volume_class_name(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    annotation(volume, ANNOTATION_STORAGE_CLASS).or(field).unwrap_or_default()
}

/// A claim's class, if it names one that is there.
pub fn class<'a>(seen: &'a Observed, claim: &PersistentVolumeClaim) -> Option<&'a Arc<StorageClass>> {
    seen.storage_classes.get(&Key::new("", class_name(claim)?))
}

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

/// True for a claim that is bound only when a pod uses it.
pub fn waits_for_consumer(seen: &Observed, claim: &PersistentVolumeClaim) -> bool {
    let mode = class(seen, claim).and_then(|class| class.volume_binding_mode.as_deref());
    mode == Some("WaitForFirstConsumer")
}

/// True if the volume says that it is this claim's, be it by name only.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return false };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_ref() == Some(uid))
}

/// What a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Amount {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    requests.and_then(|r| Amount::parse(&r.get(STORAGE)?.0).ok()).unwrap_or_default()
}

/// What a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Amount {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| Amount::parse(&c.get(STORAGE)?.0).ok()).unwrap_or_default()
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

/// True if both are filesystems, or both are blocks.
pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    of_volume.unwrap_or("Filesystem") == of_claim.unwrap_or("Filesystem")
}

fn same_attributes_class(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

/// True if the volume can be mounted in every way that the claim asks for.
pub fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = access_modes(volume);
    let wants = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    wants.iter().all(|mode| has.contains(mode))
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default()
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

/// True if nobody has the volume nor has had it.
pub fn is_free(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none())
        && volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available")
}

/// True if a free volume has the class, labels and access modes that a claim asks for.
pub fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    volume_class_name(volume) == class_name(claim).unwrap_or_default()
        && selector.is_none_or(|s| Selector::from_object(Some(s)).matches(volume.metadata.labels.as_ref()))
        && has_access_modes(volume, claim)
}
