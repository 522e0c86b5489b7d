//! The ClusterRole aggregation controller: a ClusterRole with an aggregation rule has the rules of
//! all ClusterRoles that the rule's selectors select.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>: what
//! somebody writes into the rules of such a role by hand is overwritten.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use proa_api::selector::Selector;
use serde_json::json;

use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

/// Decides whether the rules of a ClusterRole are those that it gathers.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(role) = seen.cluster_roles.get(key) else { return plan };
    if role.aggregation_rule.is_none() || role.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let wanted = gathered(seen, role);
    if role.rules.as_deref().unwrap_or_default() != wanted {
        plan.act(Verb::Patch {
            target: Reference::to(&**role),
            part: Part::Main,
            guard: Guard::unchanged(role.metadata.resource_version.as_deref().unwrap_or_default()),
            change: Change::Merge(json!({ "rules": wanted })),
        });
    }
    plan
}

/// The rules of the selected roles, selector by selector and by name, each once.
fn gathered(seen: &Observed, role: &ClusterRole) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    let selectors = role.aggregation_rule.as_ref().and_then(|r| r.cluster_role_selectors.as_deref());
    for selector in selectors.unwrap_or_default() {
        let selector = Selector::from_object(Some(selector));
        for (_, other) in seen.cluster_roles.iter() {
            let is_other = other.metadata.name != role.metadata.name;
            if is_other && selector.matches(other.metadata.labels.as_ref()) {
                for rule in other.rules.iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jiff::Timestamp;

    use super::*;

    fn check(roles: &[&str], expected: expect_test::Expect) {
        let mut seen = Observed::default();
        for yaml in roles {
            let role: ClusterRole = serde_yaml::from_str(yaml).expect("a ClusterRole");
            seen.apply(role.into(), Timestamp::UNIX_EPOCH);
        }
        let plan = reconcile(&seen, &Key::new("", "all"));
        let text: Vec<String> = plan
            .actions
            .iter()
            .map(|action| match &action.verb {
                Verb::Patch { change: Change::Merge(change), .. } => change.to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        expected.assert_eq(&text.join("\n"));
    }

    const ALL: &str = "{metadata: {name: all, uid: u0}, aggregationRule: {clusterRoleSelectors: \
                       [{matchLabels: {to: all}}, {matchLabels: {also: all}}]}, rules: [RULES]}";
    const A: &str = "{verbs: [a], apiGroups: [''], resources: [a]}";
    const B: &str = "{verbs: [b], apiGroups: [''], resources: [b]}";

    #[test]
    fn gathers_the_rules_of_selected_roles() {
        let role = |name: &str, labels: &str, rules: &str| {
            format!("{{metadata: {{name: {name}, uid: {name}, labels: {{{labels}}}}}, rules: [{rules}]}}")
        };
        let (x, y) = (role("x", "also: all", A), role("y", "to: all", &format!("{B}, {B}")));
        let z = role("z", "to: none", A);
        let unset = ALL.replace("RULES", "");
        let done = ALL.replace("RULES", &format!("{B}, {A}"));
        check(
            &[&x, &y, &z, &unset],
            expect![[
                r#"{"rules":[{"apiGroups":[""],"resources":["b"],"verbs":["b"]},{"apiGroups":[""],"resources":["a"],"verbs":["a"]}]}"#
            ]],
        );
        check(&[&x, &y, &z, &done], expect![[r#""#]]);
        check(&[&z, &done], expect![[r#"{"rules":[]}"#]]);
        check(&[&x, "{metadata: {name: all, uid: u0}, rules: []}"], expect![[r#""#]]);
        // It does not gather from itself.
        let own = done.replace("uid: u0", "uid: u0, labels: {to: all}");
        check(&[&own], expect![[r#"{"rules":[]}"#]]);
    }
}
