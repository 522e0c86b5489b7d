//! RoleBinding: who may do in one namespace what a role says.

use k8s_openapi::api::rbac::v1::RoleBinding;
use proa_api::field::FieldErrors;

use super::{reference, role_column, subject_columns};
use crate::Kind;
use crate::columns::{age, name};
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};

/// The rules of RoleBindings.
pub struct RoleBindings;

/// The row of RoleBindings.
pub fn kind() -> Kind {
    let mut columns = vec![name(), role_column(), age()];
    columns.extend(subject_columns());
    Kind { columns, ..row::<RoleBindings>() }
}

impl TypedRules for RoleBindings {
    type Object = RoleBinding;
    const NAME: NameFormat = NameFormat::PathSegment;

    fn default(binding: &mut RoleBinding) {
        reference::default(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(binding: &RoleBinding, errors: &mut FieldErrors) {
        reference::validate_role(&binding.role_ref, &["ClusterRole", "Role"], errors);
        reference::validate_subjects(binding.subjects.as_deref(), true, errors);
    }

    fn validate_update(old: &RoleBinding, new: &RoleBinding, errors: &mut FieldErrors) {
        reference::validate_role_kept(&old.role_ref, &new.role_ref, errors);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, \
                        roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: jane}]}";

    #[test]
    fn rules() {
        created(
            &BASE.replace("[{kind: User", "[{kind: ServiceAccount, name: a}, {kind: User"),
            expect![[r#"
                apiVersion: rbac.authorization.k8s.io/v1
                kind: RoleBinding
                metadata:
                  name: x
                  namespace: default
                roleRef:
                  apiGroup: rbac.authorization.k8s.io
                  kind: Role
                  name: r
                subjects:
                - kind: ServiceAccount
                  name: a
                - apiGroup: rbac.authorization.k8s.io
                  kind: User
                  name: jane
            "#]],
        );
        refusals(
            BASE,
            &[
                "{roleRef: {apiGroup: apps}}",
                "{roleRef: {kind: Deployment}}",
                "{roleRef: {name: ''}}",
                "{roleRef: {name: a/b}}",
                "{subjects: [{name: ''}]}",
                "{subjects: [{kind: Robot}]}",
                "{subjects: [{apiGroup: apps}]}",
                "{subjects: [{kind: ServiceAccount, name: A, apiGroup: apps}]}",
            ],
            expect![[r#"
                roleRef.apiGroup: Unsupported value: "apps": supported values: "rbac.authorization.k8s.io"
                roleRef.kind: Unsupported value: "Deployment": supported values: "ClusterRole", "Role"
                roleRef.name: Required value
                roleRef.name: Invalid value: "a/b": may not contain '/'
                subjects[0].name: Required value
                subjects[0].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User"
                subjects[0].apiGroup: Unsupported value: "apps": supported values: "rbac.authorization.k8s.io"
                subjects[0].name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                subjects[0].apiGroup: Unsupported value: "apps": supported values: ""
            "#]],
        );
        update_refusals(
            BASE,
            &["{roleRef: {name: other}}", "{subjects: null}", "{subjects: [{name: joe}]}"],
            expect![[r#"
                roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"other"}: cannot change roleRef
                accepted: {"subjects":null}
                accepted: {"subjects":[{"name":"joe"}]}
            "#]],
        );
    }
}
