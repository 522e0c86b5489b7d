//! The life of namespaces, as it bears on what is made in them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use proa_api::Refusal;
use proa_api::names::{FINALIZER_KUBERNETES, LABEL_METADATA_NAME};
use proa_api::status::Resource;
use proa_kinds::Kind;
use serde_json::{Map, Value, json};

use crate::store::{Key, Store};

const NAMESPACES: Resource<'static> = Resource { group: "", plural: "namespaces" };

/// Where a namespace is stored.
pub fn key(namespace: &str) -> Key {
    Key::new("namespaces", "", namespace)
}

/// Refuses to make `name` in a namespace that is not there or on its way out.
pub fn check(store: &Store, kind: &Kind, namespace: &str, name: &str) -> Result<(), Refusal> {
    let Some(object) = store.collection("namespaces").get("", namespace) else {
        return Err(Refusal::not_found(NAMESPACES, namespace));
    };
    if !object.deleting {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut refusal = Refusal::forbidden(kind.resource(), name, why);
    if let Some(details) = &mut refusal.0.details {
        details.causes = Some(vec![StatusCause {
            field: Some("metadata.namespace".to_owned()),
            message: Some(format!("namespace {namespace} is being terminated")),
            reason: Some("NamespaceTerminating".to_owned()),
        }]);
    }
    Err(refusal)
}

/// Gives a new namespace its label, its finalizer and its phase.
pub fn begin(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    if let Some(metadata) = namespace["metadata"].as_object_mut() {
        let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(LABEL_METADATA_NAME.to_owned(), name);
        }
    }
    let finalizers = namespace.pointer("/spec/finalizers").and_then(Value::as_array).cloned();
    let mut finalizers = finalizers.unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER_KUBERNETES) {
        finalizers.push(FINALIZER_KUBERNETES.into());
    }
    namespace["spec"] = json!({"finalizers": finalizers});
    namespace["status"] = json!({"phase": "Active"});
}
