//! ControllerRevision: one template that a DaemonSet or StatefulSet has had.

use k8s_openapi::api::apps::v1::ControllerRevision;
use proa_api::field::{FieldErrors, Path};

use crate::Kind;
use crate::columns::{age, column, items, name, number, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{IMMUTABLE, NOT_NEGATIVE};

/// The rules of ControllerRevisions.
pub struct ControllerRevisions;

/// The row of ControllerRevisions.
pub fn kind() -> Kind {
    Kind {
        columns: vec![
            name(),
            column("Controller", "string", "Controller of the object", |o, _| {
                let mut owners = items(o, "/metadata/ownerReferences");
                match owners.find(|r| r["controller"] == true) {
                    None => "<none>".into(),
                    Some(owner) => {
                        let api_version = text(owner, "/apiVersion");
                        let group = api_version.split_once('/').map(|(group, _)| format!(".{group}"));
                        let kind = text(owner, "/kind").to_lowercase();
                        format!("{kind}{}/{}", group.unwrap_or_default(), text(owner, "/name")).into()
                    }
                }
            }),
            column("Revision", "integer", "Revision of the state represented by Data.", |o, _| {
                number(o, "/revision").into()
            }),
            age(),
        ],
        ..row::<ControllerRevisions>()
    }
}

impl TypedRules for ControllerRevisions {
    type Object = ControllerRevision;

    fn validate(revision: &ControllerRevision, errors: &mut FieldErrors) {
        if revision.data.as_ref().is_none_or(|data| data.0.is_null()) {
            errors.required(&Path::root("data"), "data is mandatory");
        }
        if revision.revision < 0 {
            errors.invalid(&Path::root("revision"), revision.revision, NOT_NEGATIVE);
        }
    }

    fn validate_update(old: &ControllerRevision, new: &ControllerRevision, errors: &mut FieldErrors) {
        if old.data != new.data {
            let value = new.data.as_ref().map(|data| data.0.clone()).unwrap_or_default();
            errors.invalid(&Path::root("data"), value, IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{refusals, update_refusals};

    const BASE: &str =
        "{apiVersion: apps/v1, kind: ControllerRevision, data: {b: {x: 1}, a: null}, revision: 1}";

    #[test]
    fn rules() {
        refusals(
            BASE,
            &["{revision: -1}", "{data: null}"],
            expect![[r#"
                revision: Invalid value: -1: must be greater than or equal to 0
                data: Required value: data is mandatory
            "#]],
        );
        update_refusals(
            BASE,
            &["{revision: 2}", "{data: {b: {x: 2}}}"],
            expect![[r#"
                accepted: {"revision":2}
                data: Invalid value: {"b":{"x":2},"a":null}: field is immutable
            "#]],
        );
    }
}
