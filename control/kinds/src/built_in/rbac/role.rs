//! Role: what may be done in one namespace.

use k8s_openapi::api::rbac::v1::Role;
use proa_api::field::FieldErrors;

use super::{created_at, policy};
use crate::Kind;
use crate::columns::name;
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};

/// The rules of Roles.
pub struct Roles;

/// The row of Roles.
pub fn kind() -> Kind {
    Kind { columns: vec![name(), created_at()], ..row::<Roles>() }
}

impl TypedRules for Roles {
    type Object = Role;
    const NAME: NameFormat = NameFormat::PathSegment;

    fn validate(role: &Role, errors: &mut FieldErrors) {
        policy::validate(role.rules.as_deref(), true, errors);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals};

    const BASE: &str = "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, \
                        rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}";

    #[test]
    fn rules() {
        created(
            &BASE.replace("rules", "metadata: {name: 'a:B'}, rules"),
            expect![[r#"
            apiVersion: rbac.authorization.k8s.io/v1
            kind: Role
            metadata:
              name: a:B
              namespace: default
            rules:
            - apiGroups:
              - ''
              resources:
              - pods
              verbs:
              - get
        "#]],
        );
        refusals(
            BASE,
            &[
                "{rules: null}",
                "{metadata: {name: a/b}}",
                "{rules: [{verbs: []}]}",
                "{rules: [{apiGroups: []}]}",
                "{rules: [{resources: []}]}",
                "{rules: [{nonResourceURLs: [/a]}]}",
            ],
            expect![[r#"
                accepted: {"rules":null}
                metadata.name: Invalid value: "a/b": may not contain '/'
                rules[0].verbs: Required value: verbs must contain at least one value
                rules[0].apiGroups: Required value: resource rules must supply at least one api group
                rules[0].resources: Required value: resource rules must supply at least one resource
                rules[0].nonResourceURLs: Invalid value: ["/a"]: namespaced rules cannot apply to non-resource URLs
                rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs
            "#]],
        );
    }
}
