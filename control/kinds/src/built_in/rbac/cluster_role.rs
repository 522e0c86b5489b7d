//! ClusterRole: what may be done in the whole cluster, or, through a RoleBinding, in a namespace;
//! perhaps gathered from other ClusterRoles.

use k8s_openapi::api::rbac::v1::ClusterRole;
use proa_api::field::{FieldErrors, Path};

use super::{created_at, policy};
use crate::Kind;
use crate::columns::name;
use crate::meta::{self, NameFormat};
use crate::rules::{TypedRules, row};

/// The rules of ClusterRoles.
pub struct ClusterRoles;

/// The row of ClusterRoles.
pub fn kind() -> Kind {
    Kind { columns: vec![name(), created_at()], ..row::<ClusterRoles>() }
}

impl TypedRules for ClusterRoles {
    type Object = ClusterRole;
    const NAME: NameFormat = NameFormat::PathSegment;
    const NAMESPACED: bool = false;

    fn validate(role: &ClusterRole, errors: &mut FieldErrors) {
        policy::validate(role.rules.as_deref(), false, errors);
        let Some(aggregation) = &role.aggregation_rule else { return };
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        let path = Path::root("aggregationRule");
        let path = path.field("clusterRoleSelectors");
        if selectors.is_empty() {
            let text = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(&path, text);
        }
        for (i, selector) in selectors.iter().enumerate() {
            meta::label_selector(selector, &path.index(i), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::refusals;

    const BASE: &str = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, \
                        rules: [{nonResourceURLs: [/metrics], verbs: [get]}]}";

    #[test]
    fn rules() {
        refusals(
            BASE,
            &[
                "{aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}}",
                "{rules: [{resources: [pods]}]}",
                "{rules: [{resourceNames: [a]}]}",
                "{aggregationRule: {}}",
                "{aggregationRule: {clusterRoleSelectors: [{matchExpressions: [{key: a, operator: Like}]}]}}",
            ],
            expect![[r#"
                accepted: {"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]}}
                rules[0].nonResourceURLs: Invalid value: ["/metrics"]: rules cannot apply to both regular resources and non-resource URLs
                rules[0].nonResourceURLs: Invalid value: ["/metrics"]: rules cannot apply to both regular resources and non-resource URLs
                aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil
                aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator
            "#]],
        );
    }
}
