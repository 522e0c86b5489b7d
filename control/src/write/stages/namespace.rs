//! The life of namespaces, as it bears on what is made in them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use proa_api::Refusal;
use proa_api::names::PROTECTED_NAMESPACES;
use proa_api::status::Resource;
use proa_kinds::Kind;
use serde_json::Value;

use crate::store::{Key, Object, Settle};
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

const NAMESPACES: Resource<'static> = Resource { group: "", plural: "namespaces" };

/// Lets nothing be made in a namespace that is not there or on its way out, and no namespace be
/// deleted that every cluster has.
pub struct NamespaceLifecycle;

impl Stage for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.namespaced || kind.is("", "Namespace")
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, _new: &'a mut Value) -> Verdict<'a> {
        if attempt.operation != Operation::Create || !attempt.kind.namespaced {
            return Verdict::PASSED;
        }
        let found = attempt.store.collection("namespaces").get("", attempt.namespace);
        check(found.as_deref(), attempt.kind.resource(), attempt.namespace, attempt.name).into()
    }

    fn validate_delete<'a>(&'a self, attempt: &'a Attempt<'_>) -> Verdict<'a> {
        if attempt.kind.namespaced || !PROTECTED_NAMESPACES.contains(&attempt.name) {
            return Verdict::PASSED;
        }
        let why = "this namespace may not be deleted";
        Err(Refusal::forbidden(attempt.kind.resource(), attempt.name, why)).into()
    }

    fn settle(&self, attempt: &Attempt<'_>, _new: Option<&Value>) -> Option<Settle> {
        if attempt.operation != Operation::Create || !attempt.kind.namespaced {
            return None;
        }
        let (group, plural) = (attempt.kind.group.clone(), attempt.kind.plural.clone());
        let (namespace, name) = (attempt.namespace.to_owned(), attempt.name.to_owned());
        Some(Box::new(move |live, _| {
            let found = live.get(&Key::new("namespaces", "", &namespace));
            let resource = Resource { group: &group, plural: &plural };
            check(found.as_deref(), resource, &namespace, &name).map(|()| Vec::new())
        }))
    }
}

/// Refuses to make `name` in a namespace that is not there or on its way out.
fn check(found: Option<&Object>, resource: Resource<'_>, namespace: &str, name: &str) -> Result<(), Refusal> {
    let Some(object) = found else {
        return Err(Refusal::not_found(NAMESPACES, namespace));
    };
    if !object.deleting {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut refusal = Refusal::forbidden(resource, name, why);
    if let Some(details) = &mut refusal.0.details {
        details.causes = Some(vec![StatusCause {
            field: Some("metadata.namespace".to_owned()),
            message: Some(format!("namespace {namespace} is being terminated")),
            reason: Some("NamespaceTerminating".to_owned()),
        }]);
    }
    Err(refusal)
}
