//! What claims and volumes get when they are made, and when a claim may grow.
//!
//! The parts of the stock server's plugins DefaultStorageClass, StorageObjectInUseProtection and
//! PersistentVolumeClaimResize.

use proa_api::Refusal;
use proa_api::names::{ANNOTATION_STORAGE_CLASS, FINALIZER_PV_PROTECTION, FINALIZER_PVC_PROTECTION, STORAGE};
use proa_api::quantity::Amount;
use proa_kinds::built_in::storage_class;
use proa_kinds::{Kind, Part};
use serde_json::{Value, json};

use crate::store::Store;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

const CLASSES: &str = "storageclasses.storage.k8s.io";

/// Gives claims their class, protects claims and volumes while they are used, and says when a claim
/// may grow.
pub struct Storage;

impl Stage for Storage {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "PersistentVolumeClaim") || kind.is("", "PersistentVolume")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        match attempt.kind.kind.as_str() {
            _ if attempt.operation != Operation::Create => {}
            "PersistentVolume" => protect(new, FINALIZER_PV_PROTECTION),
            _ => claim(attempt.store, new),
        }
        Verdict::PASSED
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        match (&attempt.operation, attempt.old) {
            (Operation::Update(Part::Main), Some(old)) if attempt.kind.kind == "PersistentVolumeClaim" => {
                resize(attempt.store, attempt.kind, old, new).into()
            }
            _ => Verdict::PASSED,
        }
    }
}

/// Names the default StorageClass in a new claim without a class, and protects it.
fn claim(store: &Store, claim: &mut Value) {
    protect(claim, FINALIZER_PVC_PROTECTION);
    let has_class = claim["spec"]["storageClassName"].is_string()
        || claim["metadata"]["annotations"][ANNOTATION_STORAGE_CLASS].is_string();
    // A body without a spec is for validation to refuse.
    if has_class || !claim["spec"].is_object() {
        return;
    }
    if let Some(class) = default_class(store) {
        claim["spec"]["storageClassName"] = class.into();
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    match metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(list) if list.iter().any(|f| f == finalizer) => {}
        Some(list) => list.push(finalizer.into()),
        None => {
            metadata.insert("finalizers".to_owned(), json!([finalizer]));
        }
    }
}

/// Of several default classes the newest, and of those of one second the first by name.
fn default_class(store: &Store) -> Option<String> {
    let mut newest: Option<(String, String)> = None;
    for class in store.collection(CLASSES).all(None) {
        let value = class.value();
        if !storage_class::is_default(&value) {
            continue;
        }
        let made = value["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        let name = class.key.name.to_string();
        let better = |(at, other): &(String, String)| made > *at || made == *at && name < *other;
        if newest.as_ref().is_none_or(better) {
            newest = Some((made, name));
        }
    }
    newest.map(|(_, name)| name)
}

/// Refuses to let a claim grow that is not bound, or whose class does not say that it may.
fn resize(store: &Store, kind: &Kind, old: &Value, new: &Value) -> Result<(), Refusal> {
    if size(new) <= size(old) {
        return Ok(());
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let forbidden = |text: &str| Err(Refusal::forbidden(kind.resource(), name, text));
    if old["status"]["phase"] != "Bound" {
        return forbidden("Only bound persistent volume claims can be expanded");
    }
    let class = |claim: &Value| {
        let annotated = claim["metadata"]["annotations"][ANNOTATION_STORAGE_CLASS].as_str();
        annotated.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default().to_owned()
    };
    let class = class(new);
    let grows = !class.is_empty()
        && store
            .collection(CLASSES)
            .get("", &class)
            .is_some_and(|class| class.value()["allowVolumeExpansion"] == true);
    if !grows {
        return forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc \
             must support resize",
        );
    }
    Ok(())
}

fn size(claim: &Value) -> Amount {
    let text = claim["spec"]["resources"]["requests"][STORAGE].as_str().unwrap_or_default();
    Amount::parse(text).unwrap_or_default()
}
