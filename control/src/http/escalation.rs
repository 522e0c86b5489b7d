//! Nobody grants what they do not have: checked when somebody writes a role or a binding.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>
//! Asked by the verbs on objects, before the registry writes; the controllers, which write
//! without HTTP, are above this.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use proa_api::Refusal;
use proa_api::status::Resource;
use proa_kinds::Kind;
use proa_kinds::rbac::{Attributes, GROUP, escalation, index};
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, Call};
use super::authorize::is_master;
use super::rbac::user;

/// True for kinds whose writes have to be checked.
pub fn concerns(kind: &Kind) -> bool {
    kind.group == GROUP
}

/// Refuses a write of `new` in the place of `old` by which the caller would grant what they do
/// not have.
///
/// # Errors
/// 403 with what is missing, 404 if a binding names a role that is not there.
pub fn check(api: &Api, kind: &Kind, call: &Call, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    if is_master(&call.caller) || old.is_some_and(|old| leaves_rights_alone(old, new)) {
        return Ok(());
    }
    match kind.plural.as_str() {
        "roles" | "clusterroles" => check_role(api, kind, call, old, new),
        "rolebindings" | "clusterrolebindings" => check_binding(api, kind, call, new),
        _ => Ok(()),
    }
}

fn check_role(api: &Api, kind: &Kind, call: &Call, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    let escalate = Attributes::Resource {
        verb: "escalate",
        group: GROUP,
        plural: &kind.plural,
        subresource: "",
        namespace: call.path.namespace.as_deref(),
        name: call.name(),
    };
    if api.authorizer.allows(&call.caller, &escalate) {
        return Ok(());
    }
    let name = name(call, new);
    check_rules(api, kind, call, &name, &rules(new))?;
    let aggregates = |role: &Value| role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
    if aggregates(new) || old.is_some_and(aggregates) {
        // It can gather anything.
        let full = check_rules(api, kind, call, &name, &escalation::full_authority());
        full.map_err(|_| {
            let text = "must have cluster-admin privileges to use an aggregationRule";
            Refusal::forbidden(kind.resource(), &name, text)
        })?;
    }
    Ok(())
}

fn check_binding(api: &Api, kind: &Kind, call: &Call, new: &Value) -> Result<(), Refusal> {
    // What is no reference at all is for validation to refuse.
    let Ok(role) = RoleRef::deserialize(&new["roleRef"]) else { return Ok(()) };
    let plural = match role.kind.as_str() {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        _ => return Ok(()),
    };
    let bind = Attributes::Resource {
        verb: "bind",
        group: GROUP,
        plural,
        subresource: "",
        namespace: call.path.namespace.as_deref(),
        name: &role.name,
    };
    if api.authorizer.allows(&call.caller, &bind) {
        return Ok(());
    }
    let granted = {
        let policy = api.policy.read();
        policy.role(&role, call.namespace()).map(<[PolicyRule]>::to_vec)
    };
    match granted {
        Some(rules) => check_rules(api, kind, call, &name(call, new), &rules),
        None => {
            let mut refusal = Refusal::not_found(Resource { group: GROUP, plural }, &role.name);
            refusal.0.message = Some(index::missing(&role));
            Err(refusal)
        }
    }
}

fn check_rules(
    api: &Api,
    kind: &Kind,
    call: &Call,
    name: &str,
    granted: &[PolicyRule],
) -> Result<(), Refusal> {
    let policy = api.policy.read();
    let (held, denied) = policy.rules(user(&call.caller), call.path.namespace.as_deref());
    let Some(mut text) = escalation::refusal(user(&call.caller), &held, granted) else { return Ok(()) };
    if !denied.missing.is_empty() {
        text.push_str(&format!("; resolution errors: [{denied}]"));
    }
    Err(Refusal::forbidden(kind.resource(), name, text))
}

/// True if the change is only about what the garbage collector and finalizers go by.
fn leaves_rights_alone(old: &Value, new: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for member in ["ownerReferences", "finalizers", "resourceVersion", "managedFields"] {
                metadata.remove(member);
            }
        }
        object
    };
    without(old) == without(new)
}

/// Of a body that does not decode nothing is granted: the registry refuses it.
fn rules(role: &Value) -> Vec<PolicyRule> {
    Deserialize::deserialize(&role["rules"]).unwrap_or_default()
}

fn name(call: &Call, object: &Value) -> String {
    let in_body = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    call.path.name.as_deref().unwrap_or(in_body).to_owned()
}
