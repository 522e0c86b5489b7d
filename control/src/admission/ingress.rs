//! The class of an Ingress that names none.

use proa_api::names::ANNOTATION_DEFAULT_INGRESS_CLASS;
use serde_json::{Value, json};

use crate::store::Store;

/// The annotation that named the class before the field did.
const ANNOTATION_CLASS: &str = "kubernetes.io/ingress.class";

/// Names the default IngressClass in an Ingress without a class. Of several defaults the newest
/// counts, as in the stock server.
pub fn default_class(store: &Store, ingress: &mut Value) {
    let has_class = ingress["spec"]["ingressClassName"].is_string()
        || ingress["metadata"]["annotations"][ANNOTATION_CLASS].is_string();
    if has_class {
        return;
    }
    let mut newest: Option<(String, String)> = None;
    store.collection("ingressclasses.networking.k8s.io").visit(
        None,
        None,
        || 0,
        |class| {
            let value = class.value();
            if value["metadata"]["annotations"][ANNOTATION_DEFAULT_INGRESS_CLASS] == "true" {
                let made = value["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
                if newest.as_ref().is_none_or(|(best, _)| made > *best) {
                    newest = Some((made, class.key.name.to_string()));
                }
            }
            true
        },
    );
    let Some((_, name)) = newest else { return };
    match ingress["spec"].as_object_mut() {
        Some(spec) => {
            spec.insert("ingressClassName".to_owned(), name.into());
        }
        None => ingress["spec"] = json!({"ingressClassName": name}),
    }
}
