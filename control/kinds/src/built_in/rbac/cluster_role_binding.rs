//! ClusterRoleBinding: who may do in the whole cluster what a ClusterRole says.

use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use proa_api::field::FieldErrors;

use super::{reference, role_column, subject_columns};
use crate::Kind;
use crate::columns::{age, name};
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};

/// The rules of ClusterRoleBindings.
pub struct ClusterRoleBindings;

/// The row of ClusterRoleBindings.
pub fn kind() -> Kind {
    let mut columns = vec![name(), role_column(), age()];
    columns.extend(subject_columns());
    Kind { columns, ..row::<ClusterRoleBindings>() }
}

impl TypedRules for ClusterRoleBindings {
    type Object = ClusterRoleBinding;
    const NAME: NameFormat = NameFormat::PathSegment;
    const NAMESPACED: bool = false;

    fn default(binding: &mut ClusterRoleBinding) {
        reference::default(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(binding: &ClusterRoleBinding, errors: &mut FieldErrors) {
        reference::validate_role(&binding.role_ref, &["ClusterRole"], errors);
        reference::validate_subjects(binding.subjects.as_deref(), false, errors);
    }

    fn validate_update(old: &ClusterRoleBinding, new: &ClusterRoleBinding, errors: &mut FieldErrors) {
        reference::validate_role_kept(&old.role_ref, &new.role_ref, errors);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{refusals, update_refusals};

    const BASE: &str = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, \
                        roleRef: {kind: ClusterRole, name: r}, \
                        subjects: [{kind: ServiceAccount, name: a, namespace: b}]}";

    #[test]
    fn rules() {
        refusals(
            BASE,
            &["{metadata: {name: 'system:a'}}", "{roleRef: {kind: Role}}", "{subjects: [{namespace: ''}]}"],
            expect![[r#"
                accepted: {"metadata":{"name":"system:a"}}
                roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"
                subjects[0].namespace: Required value
            "#]],
        );
        update_refusals(
            BASE,
            &["{roleRef: {name: other}}"],
            expect![[r#"
            roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole","Name":"other"}: cannot change roleRef
        "#]],
        );
    }
}
