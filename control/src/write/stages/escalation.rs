//! Nobody grants what they do not have: checked when somebody writes a role or a binding.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use proa_api::Refusal;
use proa_api::status::Resource;
use proa_kinds::rbac::{Attributes, GROUP, User, escalation, index};
use proa_kinds::{Kind, Part};
use serde::Deserialize;
use serde_json::Value;

use crate::policy::Policy;
use crate::write::stage::{Allows, Attempt, Operation, Stage, Verdict};

/// Lets nobody grant what they do not have.
pub struct Escalation {
    /// Who may do what.
    pub allows: Allows,
    /// The roles and bindings.
    pub policy: Arc<Policy>,
}

impl Stage for Escalation {
    fn name(&self) -> &'static str {
        "RBAC"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.group == GROUP
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        if !matches!(attempt.operation, Operation::Create | Operation::Update(Part::Main))
            || attempt.caller.is_master()
            || attempt.old.is_some_and(|old| leaves_rights_alone(old, new))
        {
            return Verdict::PASSED;
        }
        match attempt.kind.plural.as_str() {
            "roles" | "clusterroles" => self.check_role(attempt, new).into(),
            "rolebindings" | "clusterrolebindings" => self.check_binding(attempt, new).into(),
            _ => Verdict::PASSED,
        }
    }
}

impl Escalation {
    fn check_role(&self, attempt: &Attempt<'_>, new: &Value) -> Result<(), Refusal> {
        if self.may(attempt, "escalate", &attempt.kind.plural, attempt.name) {
            return Ok(());
        }
        self.check_rules(attempt, &rules(new))?;
        let aggregates = |role: &Value| role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
        if aggregates(new) || attempt.old.is_some_and(aggregates) {
            // It can gather anything.
            let full = self.check_rules(attempt, &escalation::full_authority());
            full.map_err(|_| {
                let text = "must have cluster-admin privileges to use an aggregationRule";
                Refusal::forbidden(attempt.kind.resource(), attempt.name, text)
            })?;
        }
        Ok(())
    }

    fn check_binding(&self, attempt: &Attempt<'_>, new: &Value) -> Result<(), Refusal> {
        // What is no reference at all, validation has refused.
        let Ok(role) = RoleRef::deserialize(&new["roleRef"]) else { return Ok(()) };
        let plural = match role.kind.as_str() {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            _ => return Ok(()),
        };
        if self.may(attempt, "bind", plural, &role.name) {
            return Ok(());
        }
        let granted = {
            let policy = self.policy.read();
            policy.role(&role, attempt.namespace).map(<[PolicyRule]>::to_vec)
        };
        match granted {
            Some(rules) => self.check_rules(attempt, &rules),
            None => {
                let mut refusal = Refusal::not_found(Resource { group: GROUP, plural }, &role.name);
                refusal.0.message = Some(index::missing(&role));
                Err(refusal)
            }
        }
    }

    fn check_rules(&self, attempt: &Attempt<'_>, granted: &[PolicyRule]) -> Result<(), Refusal> {
        let user = User { name: &attempt.caller.user, groups: &attempt.caller.groups };
        let policy = self.policy.read();
        let (held, denied) = policy.rules(user, namespace(attempt));
        let Some(mut text) = escalation::refusal(user, &held, granted) else { return Ok(()) };
        if !denied.missing.is_empty() {
            text.push_str(&format!("; resolution errors: [{denied}]"));
        }
        Err(Refusal::forbidden(attempt.kind.resource(), attempt.name, text))
    }

    fn may(&self, attempt: &Attempt<'_>, verb: &str, plural: &str, name: &str) -> bool {
        let namespace = namespace(attempt);
        let what = Attributes::Resource { verb, group: GROUP, plural, subresource: "", namespace, name };
        (self.allows)(attempt.caller, &what)
    }
}

fn namespace<'a>(attempt: &Attempt<'a>) -> Option<&'a str> {
    attempt.kind.namespaced.then_some(attempt.namespace)
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

fn rules(role: &Value) -> Vec<PolicyRule> {
    Deserialize::deserialize(&role["rules"]).unwrap_or_default()
}
