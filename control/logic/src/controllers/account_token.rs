//! AccountToken: a Secret that asks for a token of a ServiceAccount gets it, and goes with the account.
//!
//! Rules: <https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets>.

use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Report, Verb};

/// Decides what the Secret needs. One that has all already is filled once more, which changes nothing.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(token) = seen.account_tokens.get(key).filter(|token| token.meta.deleted.is_none()) else {
        return plan;
    };
    let named = Key { namespace: key.namespace.clone(), name: token.account.clone() };
    let mut account = Reference::named("v1", "ServiceAccount", &key.namespace, &token.account);
    account.uid = token.account_uid.clone();
    let found = seen.service_accounts.get(&named);
    let secret = token.meta.reference();
    let failed = Some(("FailedToFillToken", "{}".to_owned()));
    let report = Report { about: secret.clone(), done: None, failed };
    let verb = match found.filter(|uid| account.uid.is_empty() || account.uid == **uid) {
        Some(uid) => Verb::FillToken { secret, account: Reference { uid: uid.clone(), ..account } },
        None => Verb::Delete {
            target: secret,
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
            unless: vec![account],
        },
    };
    plan.act_and_report(verb, report);
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::tests::{object, seen};

    #[track_caller]
    fn check(annotations: serde_json::Value, deleted: bool, wanted: &str) {
        let mut secret = json!({
            "metadata": { "annotations": annotations },
            "type": "kubernetes.io/service-account-token",
        });
        if deleted {
            secret["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let account = |name| object("v1", "ServiceAccount", name, json!({}));
        let seen = seen(vec![object("v1", "Secret", "s", secret), account("robot"), account("other")]);
        let plan = reconcile(&seen, &Key::new("d", "s"));
        let does = match plan.actions.first().map(|action| &action.verb) {
            Some(Verb::FillToken { account, .. }) => format!("fill {} {}", account.name, account.uid),
            Some(Verb::Delete { unless, .. }) => format!("delete unless {}", unless[0]),
            other => format!("{other:?}"),
        };
        assert_eq!(does, wanted);
    }

    #[test]
    fn a_secret_goes_with_its_account() {
        const NAME: &str = "kubernetes.io/service-account.name";
        const UID: &str = "kubernetes.io/service-account.uid";
        check(json!({ NAME: "robot" }), false, "fill robot robot");
        check(json!({ NAME: "robot", UID: "robot" }), false, "fill robot robot");
        let goes = "delete unless ServiceAccount d/robot";
        check(json!({ NAME: "robot", UID: "of-one-before" }), false, goes);
        check(json!({ NAME: "gone" }), false, "delete unless ServiceAccount d/gone");
        check(json!({ NAME: "robot" }), true, "None");
    }
}
