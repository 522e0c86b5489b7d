//! What claims and volumes get when they are made, and when a claim may grow.
//!
//! The parts of the stock server's plugins DefaultStorageClass, StorageObjectInUseProtection and
//! PersistentVolumeClaimResize.

use proa_api::Refusal;
use proa_api::names::{ANNOTATION_STORAGE_CLASS, FINALIZER_PV_PROTECTION, FINALIZER_PVC_PROTECTION, STORAGE};
use proa_api::quantity::Amount;
use proa_kinds::Kind;
use proa_kinds::built_in::storage_class;
use serde_json::{Value, json};

use crate::store::Store;

const CLASSES: &str = "storageclasses.storage.k8s.io";

/// Names the default StorageClass in a new claim without a class, and protects it.
pub fn claim(store: &Store, claim: &mut Value) {
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

/// Protects a new volume.
pub fn volume(volume: &mut Value) {
    protect(volume, FINALIZER_PV_PROTECTION);
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
    store.collection(CLASSES).visit(
        None,
        None,
        || 0,
        |class| {
            let value = class.value();
            if storage_class::is_default(&value) {
                let made = value["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
                let name = class.key.name.to_string();
                let better = |(at, other): &(String, String)| made > *at || made == *at && name < *other;
                if newest.as_ref().is_none_or(better) {
                    newest = Some((made, name));
                }
            }
            true
        },
    );
    newest.map(|(_, name)| name)
}

/// Refuses to let a claim grow that is not bound, or whose class does not say that it may.
pub fn resize(store: &Store, kind: &Kind, old: &Value, new: &Value) -> Result<(), Refusal> {
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
