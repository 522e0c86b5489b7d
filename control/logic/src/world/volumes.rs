//! What claims and volumes say: of each other, of their class and of their node.
//!
//! Read by the binder, the provisioner, the scheduler and the wakes. For whoever is concerned by a
//! change, each answer errs on the side of naming too many.

use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::names::{
    ANNOTATION_BIND_COMPLETED, ANNOTATION_PROVISIONED_BY, ANNOTATION_SELECTED_NODE, ANNOTATION_STORAGE_CLASS,
    ANNOTATION_STORAGE_PROVISIONER, LABEL_HOSTNAME, LOCAL_PATH_PROVISIONER, STORAGE,
};
use proa_api::quantity::Amount;
use proa_api::selector::Selector;

use super::facts::Key;
use super::observed::Observed;

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

/// True for a claim that is bound only when a pod uses it.
pub fn waits_for_consumer(seen: &Observed, claim: &PersistentVolumeClaim) -> bool {
    let mode = class(seen, claim).and_then(|class| class.volume_binding_mode.as_deref());
    mode == Some("WaitForFirstConsumer")
}

/// True for a claim that names no volume yet.
pub fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_empty()
}

/// The volume that a claim names; empty if none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// True if the binder has finished with the claim.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !is_unbound(claim) && annotation(claim, ANNOTATION_BIND_COMPLETED).is_some()
}

/// The volume that a claim names, if it is there.
pub fn volume_of<'a>(claim: &PersistentVolumeClaim, seen: &'a Observed) -> Option<&'a PersistentVolume> {
    seen.persistent_volumes.get(&Key::new("", volume_name(claim))).map(|v| &**v)
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

/// True if both are filesystems, or both are blocks.
pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    of_volume.unwrap_or("Filesystem") == of_claim.unwrap_or("Filesystem")
}

/// True if the volume can be mounted in every way that the claim asks for.
pub fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = access_modes(volume);
    let wants = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    wants.iter().all(|mode| has.contains(mode))
}

/// The ways in which a volume can be mounted.
pub fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default()
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

/// The claims that a volume may be for.
pub fn claims_of(seen: &Observed, volume: &PersistentVolume) -> Vec<Key> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let promised = reference.and_then(|r| Some(Key::new(r.namespace.as_deref()?, r.name.as_deref()?)));
    let class = volume_class_name(volume);
    let others = seen.persistent_volume_claims.iter().filter(|(_, claim)| match volume_name(claim) {
        "" => promised.is_none() && class_name(claim).unwrap_or_default() == class,
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
    let concerned = concerned.filter(|(_, claim)| class_name(claim).is_none_or(|name| name == class));
    concerned.map(|(key, _)| key.clone()).collect()
}

/// The node on which a claim is to have its local path.
pub fn node_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    let ours = annotation(claim, ANNOTATION_STORAGE_PROVISIONER) == Some(LOCAL_PATH_PROVISIONER);
    annotation(claim, ANNOTATION_SELECTED_NODE).filter(|_| ours)
}

/// The node whose local path a volume is.
pub fn node_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let expressions =
        affinity.node_selector_terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    let here = |e: &&NodeSelectorRequirement| e.key == LABEL_HOSTNAME && e.operator == "In";
    let values = expressions.filter(here).find_map(|e| e.values.as_deref())?;
    let ours = annotation(volume, ANNOTATION_PROVISIONED_BY) == Some(LOCAL_PATH_PROVISIONER);
    match values {
        [node] if ours => Some(node),
        _ => None,
    }
}

/// The value of an object's annotation.
pub fn annotation<'a>(object: &'a impl Metadata<Ty = ObjectMeta>, name: &str) -> Option<&'a str> {
    object.metadata().annotations.as_ref()?.get(name).map(String::as_str)
}
