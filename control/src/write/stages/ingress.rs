//! The class of an Ingress that names none.

use proa_api::names::ANNOTATION_DEFAULT_INGRESS_CLASS;
use proa_kinds::Kind;
use serde_json::{Value, json};

use crate::store::Store;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// The annotation that named the class before the field did.
const ANNOTATION_CLASS: &str = "kubernetes.io/ingress.class";

/// Names the default class.
pub struct DefaultIngressClass;

impl Stage for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("networking.k8s.io", "Ingress")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        if attempt.operation == Operation::Create {
            default_class(attempt.store, new);
        }
        Verdict::PASSED
    }
}

/// Names the default IngressClass in an Ingress without a class. Of several defaults the newest
/// counts, as in the stock server.
fn default_class(store: &Store, ingress: &mut Value) {
    let has_class = ingress["spec"]["ingressClassName"].is_string()
        || ingress["metadata"]["annotations"][ANNOTATION_CLASS].is_string();
    if has_class {
        return;
    }
    let mut newest: Option<(String, String)> = None;
    for class in store.collection("ingressclasses.networking.k8s.io").all(None) {
        let value = class.value();
        if value["metadata"]["annotations"][ANNOTATION_DEFAULT_INGRESS_CLASS] != "true" {
            continue;
        }
        let made = value["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        if newest.as_ref().is_none_or(|(best, _)| made > *best) {
            newest = Some((made, class.key.name.to_string()));
        }
    }
    let Some((_, name)) = newest else { return };
    match ingress["spec"].as_object_mut() {
        Some(spec) => {
            spec.insert("ingressClassName".to_owned(), name.into());
        }
        None => ingress["spec"] = json!({"ingressClassName": name}),
    }
}
