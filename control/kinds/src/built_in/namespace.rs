//! Namespace: a scope for names, emptied by a controller before it goes.
//!
//! The finalizer `kubernetes` in its spec holds it until it is empty; only the `finalize`
//! subresource removes it.

use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus};
use proa_api::field::{FieldErrors, Path};
use proa_api::names::{FINALIZER_KUBERNETES, LABEL_METADATA_NAME};

use crate::columns::{age, column, name, text};
use crate::meta::{self, NameFormat};
use crate::rules::{TypedRules, row};
use crate::{Kind, SelectableField, Subresource};

/// The rules of Namespaces.
pub struct Namespaces;

/// The row of Namespaces.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["ns".into()],
        columns: vec![
            name(),
            column("Status", "string", "The status of the namespace", |o, _| text(o, "/status/phase").into()),
            age(),
        ],
        selectable_fields: vec![SelectableField::at("status.phase", "/status/phase")],
        ..row::<Namespaces>()
    }
    .with([Subresource {
        verbs: &["update"],
        ..Subresource::members("finalize", ["/spec/finalizers"]).and_at_create()
    }])
}

impl TypedRules for Namespaces {
    type Object = Namespace;
    const NAMESPACED: bool = false;
    const NAME: NameFormat = NameFormat::Label;
    const HAS_STATUS: bool = true;

    fn default(namespace: &mut Namespace) {
        if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
            let labels = namespace.metadata.labels.get_or_insert_default();
            labels.insert(LABEL_METADATA_NAME.to_owned(), name);
        }
        namespace.spec.get_or_insert_default();
    }

    fn prepare_create(namespace: &mut Namespace) {
        namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER_KUBERNETES) {
            finalizers.push(FINALIZER_KUBERNETES.to_owned());
        }
    }

    fn prepare_update(old: &Namespace, new: &mut Namespace) {
        let finalizers = old.spec.as_ref().and_then(|spec| spec.finalizers.clone());
        new.spec = Some(NamespaceSpec { finalizers });
    }

    fn validate(namespace: &Namespace, errors: &mut FieldErrors) {
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref());
        meta::finalizers(finalizers.unwrap_or_default(), &Path::root("spec").field("finalizers"), errors);
    }

    fn validate_part_update(_name: &str, _old: &Namespace, new: &Namespace, errors: &mut FieldErrors) {
        Self::validate(new, errors);
    }

    fn validate_status_update(_old: &Namespace, new: &Namespace, errors: &mut FieldErrors) {
        let phase = new.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let terminating = new.metadata.deletion_timestamp.is_some();
        let path = Path::root("status");
        let path = path.field("Phase");
        match (terminating, phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, phase) => {
                errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
            (true, phase) => {
                errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::Part;
    use crate::check::{created, refusals, updated};

    const BASE: &str = "{apiVersion: v1, kind: Namespace}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: Namespace
            metadata:
              labels:
                kubernetes.io/metadata.name: x
              name: x
            spec:
              finalizers:
              - kubernetes
            status:
              phase: Active
        "#]],
        );
        refusals(
            BASE,
            &["{metadata: {name: a.b}}", "{spec: {finalizers: ['a b']}}"],
            expect![[r#"
            metadata.name: Invalid value: "a.b": must not contain dots
            spec.finalizers: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        "#]],
        );
        let finalized =
            "{apiVersion: v1, kind: Namespace, spec: {finalizers: []}, status: {phase: Terminating}}";
        updated(
            BASE,
            finalized,
            Part::Main,
            expect![[r#"
            apiVersion: v1
            kind: Namespace
            metadata:
              labels:
                kubernetes.io/metadata.name: x
              name: x
            spec:
              finalizers:
              - kubernetes
            status:
              phase: Active
        "#]],
        );
        updated(
            BASE,
            finalized,
            Part::STATUS,
            expect![[r#"
            422 Namespace "x" is invalid: status.Phase: Invalid value: "Terminating": may only be 'Active' if `deletionTimestamp` is empty
        "#]],
        );
    }
}
