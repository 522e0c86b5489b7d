//! What bindings refer to: the role that they grant and the subjects they grant it to.

use k8s_openapi::api::rbac::v1::{RoleRef, Subject};
use proa_api::field::{FieldErrors, Path};
use serde_json::json;

use crate::meta::NameFormat;
use crate::rbac::GROUP;
use crate::syntax::report;

const ROLE_REF: Path<'static> = Path::root("roleRef");

/// Fills in the groups that a binding leaves out.
pub fn default(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role.api_group.is_empty() {
        role.api_group = GROUP.to_owned();
    }
    for subject in subjects.into_iter().flatten() {
        let is_named = matches!(subject.kind.as_str(), "User" | "Group");
        if is_named && subject.api_group.as_deref().unwrap_or_default().is_empty() {
            subject.api_group = Some(GROUP.to_owned());
        }
        if subject.kind == "ServiceAccount" && subject.api_group.as_deref() == Some("") {
            subject.api_group = None;
        }
    }
}

/// Reports what is wrong with a reference to a role of one of these kinds.
pub fn validate_role(role: &RoleRef, kinds: &[&str], errors: &mut FieldErrors) {
    if role.api_group != GROUP {
        errors.not_supported(&ROLE_REF.field("apiGroup"), role.api_group.as_str(), &[GROUP]);
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&ROLE_REF.field("kind"), role.kind.as_str(), kinds);
    }
    if role.name.is_empty() {
        errors.required(&ROLE_REF.field("name"), "");
    } else {
        let faults = NameFormat::PathSegment.faults(&role.name, false);
        report(faults, &ROLE_REF.field("name"), &role.name, errors);
    }
}

/// A binding is about one role for as long as it lives: whoever may change its subjects need not
/// be able to grant another role.
pub fn validate_role_kept(old: &RoleRef, new: &RoleRef, errors: &mut FieldErrors) {
    if old != new {
        let value = json!({ "APIGroup": new.api_group, "Kind": new.kind, "Name": new.name });
        errors.invalid(&ROLE_REF, value, "cannot change roleRef");
    }
}

/// Reports what is wrong with the subjects of a binding.
pub fn validate_subjects(subjects: Option<&[Subject]>, namespaced: bool, errors: &mut FieldErrors) {
    let path = Path::root("subjects");
    for (i, subject) in subjects.into_iter().flatten().enumerate() {
        validate_subject(subject, namespaced, &path.index(i), errors);
    }
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, group) = (subject.name.as_str(), subject.api_group.as_deref().unwrap_or_default());
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                report(NameFormat::Subdomain.faults(name, false), &path.field("name"), name, errors);
            }
            if !group.is_empty() {
                errors.not_supported(&path.field("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.namespace.as_deref().unwrap_or_default().is_empty() {
                errors.required(&path.field("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.not_supported(&path.field("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        other => errors.not_supported(&path.field("kind"), other, &["Group", "ServiceAccount", "User"]),
    }
}
