//! TokenCleaner: bootstrap tokens go when their time is over.
//!
//! Rules: <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#token-management>.

use jiff::Timestamp;

use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Verb};

/// Decides whether the Secret of a token goes.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some((ends, meta)) = seen.bootstrap_tokens.get(key) else { return plan };
    if *ends > now {
        plan.look_again(*ends);
        return plan;
    }
    plan.act(Verb::Delete {
        target: meta.reference(),
        resource_version: Some(meta.resource_version.to_string()),
        propagation: None,
        grace_period_seconds: None,
        unless: Vec::new(),
    });
    plan
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::tests::{at, object, seen};

    #[track_caller]
    fn check(namespace: &str, name: &str, data: Value, goes: Option<Timestamp>) {
        let secret = json!({
            "metadata": { "namespace": namespace }, "type": "bootstrap.kubernetes.io/token", "data": data,
        });
        let seen = seen(vec![object("v1", "Secret", name, secret)]);
        let key = Key::new(namespace, name);
        for now in [0, 100] {
            let plan = reconcile(&seen, &key, at(now));
            assert_eq!(!plan.actions.is_empty(), goes.is_some_and(|goes| goes <= at(now)), "{plan:?}");
            assert_eq!(plan.again_at, goes.filter(|goes| *goes > at(now)));
        }
    }

    #[test]
    fn tokens_end() {
        let ends = |seconds: i64| json!({ "expiration": BASE64.encode(at(seconds).to_string()) });
        let name = "bootstrap-token-abcdef";
        check("kube-system", name, ends(50), Some(at(50)));
        check("kube-system", name, ends(500), Some(at(500)));
        check("kube-system", name, json!({}), None);
        check("kube-system", name, json!({ "expiration": BASE64.encode("soon") }), None);
        check("kube-system", "other", ends(50), None);
        check("default", name, ends(50), None);
    }
}
