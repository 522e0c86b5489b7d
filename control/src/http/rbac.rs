//! RBAC among the authorizers: what roles and bindings allow.
//!
//! Asked by the [`Chain`](super::authorize::Chain) on every request; reads the [`Policy`].

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::PolicyRule;
use proa_kinds::rbac::rule::list;
use proa_kinds::rbac::{Attributes, User};
use serde_json::{Map, Value, json};

use super::authorize::{Authorizer, Decision, Rules};
use crate::policy::Policy;
use crate::registry::Caller;

/// Allows what the policy allows.
pub struct Rbac(pub Arc<Policy>);

/// The caller as the policy knows users.
pub fn user(caller: &Caller) -> User<'_> {
    User { name: &caller.user, groups: &caller.groups }
}

impl Authorizer for Rbac {
    fn decide(&self, caller: &Caller, what: &Attributes<'_>) -> Decision {
        match self.0.read().decide(user(caller), what) {
            Ok(_) => Decision::Allow,
            Err(denied) if denied.missing.is_empty() => Decision::NO_OPINION,
            Err(denied) => Decision::NoOpinion(format!("RBAC: {denied}")),
        }
    }

    fn explain(&self, caller: &Caller, what: &Attributes<'_>) -> String {
        let policy = self.0.read();
        policy.decide(user(caller), what).map(|grant| format!("RBAC: allowed by {grant}")).unwrap_or_default()
    }

    fn rules(&self, caller: &Caller, namespace: &str, rules: &mut Rules) {
        let policy = self.0.read();
        let (found, denied) = policy.rules(user(caller), Some(namespace));
        for rule in found {
            let is_path = !list(&rule.non_resource_urls).is_empty();
            let to = if is_path { &mut rules.non_resource } else { &mut rules.resource };
            to.push(shown(rule));
        }
        if !denied.missing.is_empty() {
            rules.errors.push(denied.to_string());
        }
    }
}

/// A rule as the ResourceRule or NonResourceRule of a review.
fn shown(rule: &PolicyRule) -> Value {
    let mut shown = Map::from_iter([("verbs".to_owned(), json!(rule.verbs))]);
    for (name, list) in [
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            shown.insert(name.to_owned(), json!(list));
        }
    }
    Value::Object(shown)
}
