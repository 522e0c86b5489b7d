//! Who may do what.
//!
//! The handler asks a [`Chain`] of [`Authorizer`]s before anything else happens: the first that
//! allows decides. [`Masters`] lets administrators do everything; the others stand in files of
//! their own.

use std::collections::HashSet;

use proa_api::Refusal;
use proa_api::status::Resource;
use serde_json::{Value, json};

use crate::registry::Caller;
pub use proa_kinds::rbac::Attributes;

/// What one authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The caller may do it.
    Allow,
    /// It is not for this authorizer to say; perhaps with a sentence about why, for the refusal
    /// that follows if nobody else allows it.
    NoOpinion(String),
}

impl Decision {
    /// Nothing to say at all.
    pub const NO_OPINION: Decision = Decision::NoOpinion(String::new());
}

/// Decides what callers may do.
pub trait Authorizer: Send + Sync {
    /// Whether the caller may do it.
    fn decide(&self, caller: &Caller, what: &Attributes<'_>) -> Decision;

    /// Why something is allowed, in a sentence for reviews; empty if there is nothing to say.
    fn explain(&self, _caller: &Caller, _what: &Attributes<'_>) -> String {
        String::new()
    }

    /// Adds what the caller may do in a namespace.
    fn rules(&self, caller: &Caller, namespace: &str, rules: &mut Rules);
}

/// What somebody may do in a namespace: the status of a SelfSubjectRulesReview.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `ResourceRule`s.
    pub resource: Vec<Value>,
    /// `NonResourceRule`s.
    pub non_resource: Vec<Value>,
    /// Why the list is not complete; empty if it is.
    pub errors: Vec<String>,
}

/// Authorizers that are asked in turn: the first that allows decides, and what none allows is
/// refused.
pub struct Chain(Vec<Box<dyn Authorizer>>);

impl Chain {
    /// Asks these, in this order.
    pub fn new(authorizers: Vec<Box<dyn Authorizer>>) -> Self {
        Chain(authorizers)
    }

    /// True if the caller may do it.
    pub fn allows(&self, caller: &Caller, what: &Attributes<'_>) -> bool {
        self.0.iter().any(|authorizer| authorizer.decide(caller, what) == Decision::Allow)
    }

    /// A refusal unless the caller may do it.
    ///
    /// # Errors
    /// 403 in the words of the stock server.
    pub fn check(&self, caller: &Caller, what: &Attributes<'_>) -> Result<(), Refusal> {
        match self.ask(caller, what) {
            Ok(_) => Ok(()),
            Err(reason) => Err(forbidden(caller, what, &reason)),
        }
    }

    /// The status of an access review.
    pub fn review(&self, caller: &Caller, what: &Attributes<'_>) -> Value {
        let (allowed, reason) = match self.ask(caller, what) {
            Ok(authorizer) => (true, authorizer.explain(caller, what)),
            Err(reason) => (false, reason),
        };
        let mut status = json!({ "allowed": allowed });
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        status
    }

    /// What the caller may do in a namespace, as the status of a SelfSubjectRulesReview.
    pub fn rules(&self, caller: &Caller, namespace: &str) -> Value {
        let mut rules = Rules::default();
        for authorizer in &self.0 {
            authorizer.rules(caller, namespace, &mut rules);
        }
        for list in [&mut rules.resource, &mut rules.non_resource] {
            let mut told = HashSet::new();
            list.retain(|rule| told.insert(rule.to_string()));
        }
        let mut status = json!({
            "resourceRules": rules.resource,
            "nonResourceRules": rules.non_resource,
            "incomplete": !rules.errors.is_empty(),
        });
        if !rules.errors.is_empty() {
            status["evaluationError"] = rules.errors.join("\n").into();
        }
        status
    }

    /// Who allows it, or why nobody does.
    fn ask(&self, caller: &Caller, what: &Attributes<'_>) -> Result<&dyn Authorizer, String> {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.decide(caller, what) {
                Decision::Allow => return Ok(authorizer.as_ref()),
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("\n"))
    }
}

/// Allows members of `system:masters` everything.
pub struct Masters;

impl Authorizer for Masters {
    fn decide(&self, caller: &Caller, _what: &Attributes<'_>) -> Decision {
        if caller.is_master() { Decision::Allow } else { Decision::NO_OPINION }
    }

    fn rules(&self, caller: &Caller, _namespace: &str, rules: &mut Rules) {
        if caller.is_master() {
            everything(rules);
        }
    }
}

fn everything(rules: &mut Rules) {
    rules.resource.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
    rules.non_resource.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
}

/// The refusal of what is not allowed.
/// `reason` is what the authorizers had to say about it; may be empty.
pub fn forbidden(caller: &Caller, what: &Attributes<'_>, reason: &str) -> Refusal {
    let colon = if reason.is_empty() { "" } else { ": " };
    let text = format!("User {:?} cannot {what}{colon}{reason}", caller.user);
    match *what {
        Attributes::Path { .. } => Refusal::new(403, "Forbidden", format!("forbidden: {text}")),
        Attributes::Resource { group, plural, name, .. } => {
            Refusal::forbidden(Resource { group, plural }, name, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str, groups: &[&str]) -> Caller {
        Caller {
            user: user.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Caller::default()
        }
    }

    const LIST_PODS: Attributes<'_> = Attributes::Resource {
        verb: "list",
        group: "",
        plural: "pods",
        subresource: "",
        namespace: Some("default"),
        name: "",
    };

    #[test]
    fn masters_may_do_everything() {
        let chain = Chain::new(vec![Box::new(Masters)]);
        assert!(chain.allows(&caller("jane", &["system:masters"]), &LIST_PODS));
        assert!(!chain.allows(&caller("system:kube-scheduler", &[]), &LIST_PODS));
        let refusal = chain.check(&caller("jane", &[]), &LIST_PODS).unwrap_err();
        assert_eq!((refusal.code(), refusal.reason()), (403, "Forbidden"));
        let status = chain.review(&caller("jane", &["system:masters"]), &LIST_PODS);
        assert_eq!(status, json!({ "allowed": true }));
    }

    #[test]
    fn texts_are_those_of_the_stock_server() {
        let account = caller("system:serviceaccount:a:b", &[]);
        assert_eq!(
            forbidden(&account, &LIST_PODS, "").to_string(),
            "pods is forbidden: User \"system:serviceaccount:a:b\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let scale = Attributes::Resource {
            verb: "patch",
            group: "apps",
            plural: "deployments",
            subresource: "scale",
            namespace: None,
            name: "x",
        };
        assert_eq!(
            forbidden(&account, &scale, "because").to_string(),
            "deployments.apps \"x\" is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"deployments/scale\" in API group \"apps\" at the cluster scope: because"
        );
        assert_eq!(
            forbidden(&account, &Attributes::Path { verb: "get", path: "/metrics" }, "").to_string(),
            "forbidden: User \"system:serviceaccount:a:b\" cannot get path \"/metrics\""
        );
    }
}
