//! StorageClass: who makes volumes for claims of the class, and how.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::storage::v1::StorageClass;
use proa_api::field::{FieldErrors, Path};
use proa_api::names::ANNOTATION_DEFAULT_STORAGE_CLASS;
use serde_json::Value;

use crate::columns::{age, column, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, one_of, report};
use crate::{Column, Kind};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const RECLAIM_POLICIES: [&str; 2] = ["Delete", "Retain"];
const BINDING_MODES: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];
/// The annotation of the time when classes were beta; it still counts.
const ANNOTATION_BETA_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// The rules of StorageClasses.
pub struct StorageClasses;

/// The row of StorageClasses.
pub fn kind() -> Kind {
    let cell = |o: &Value, _| {
        let mark = if is_default(o) { " (default)" } else { "" };
        format!("{}{mark}", text(o, "/metadata/name")).into()
    };
    Kind {
        short_names: vec!["sc".into()],
        columns: vec![
            Column { cell: Arc::new(cell), ..name() },
            column("Provisioner", "string", "Who makes the volumes", |o, _| text(o, "/provisioner").into()),
            column("ReclaimPolicy", "string", "What becomes of volumes of the class", |o, _| {
                match text(o, "/reclaimPolicy") {
                    "" => "Delete".into(),
                    policy => policy.into(),
                }
            }),
            column("VolumeBindingMode", "string", "When claims of the class are bound", |o, _| {
                match text(o, "/volumeBindingMode") {
                    "" => "Immediate".into(),
                    mode => mode.into(),
                }
            }),
            column("AllowVolumeExpansion", "string", "Whether volumes of the class can grow", |o, _| {
                (o.pointer("/allowVolumeExpansion") == Some(&Value::Bool(true))).into()
            }),
            age(),
        ],
        ..row::<StorageClasses>()
    }
}

/// True if claims that name no class get this one.
pub fn is_default(class: &Value) -> bool {
    let annotations = class.pointer("/metadata/annotations");
    [ANNOTATION_DEFAULT_STORAGE_CLASS, ANNOTATION_BETA_DEFAULT]
        .iter()
        .any(|name| annotations.and_then(|a| a.get(name)).is_some_and(|value| value == "true"))
}

impl TypedRules for StorageClasses {
    type Object = StorageClass;
    const NAMESPACED: bool = false;

    fn default(class: &mut StorageClass) {
        class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(class: &StorageClass, errors: &mut FieldErrors) {
        let path = Path::root("provisioner");
        match class.provisioner.as_str() {
            "" => errors.required(&path, ""),
            name => report(syntax::qualified_name(&name.to_lowercase()), &path, name, errors),
        }
        parameters(class, errors);
        let policy = class.reclaim_policy.as_deref().unwrap_or_default();
        if !RECLAIM_POLICIES.contains(&policy) {
            errors.not_supported(&Path::root("reclaimPolicy"), policy, &RECLAIM_POLICIES);
        }
        one_of(
            class.volume_binding_mode.as_deref(),
            &BINDING_MODES,
            &Path::root("volumeBindingMode"),
            errors,
        );
        topologies(class, errors);
    }

    fn validate_update(old: &StorageClass, new: &StorageClass, errors: &mut FieldErrors) {
        let changed = [
            ("parameters", old.parameters != new.parameters),
            ("provisioner", old.provisioner != new.provisioner),
            ("reclaimPolicy", old.reclaim_policy != new.reclaim_policy),
        ];
        for (field, _) in changed.iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&Path::root(field), format!("updates to {field} are forbidden."));
        }
        if old.volume_binding_mode != new.volume_binding_mode {
            let value = new.volume_binding_mode.clone().unwrap_or_default();
            errors.invalid(&Path::root("volumeBindingMode"), value, IMMUTABLE);
        }
    }
}

fn parameters(class: &StorageClass, errors: &mut FieldErrors) {
    let path = Path::root("parameters");
    let Some(parameters) = &class.parameters else { return };
    if parameters.len() > PARAMETERS_MAX {
        errors.too_long(&path, PARAMETERS_MAX);
    }
    if parameters.contains_key("") {
        errors.invalid(&path, "", "field can not be empty.");
    }
    let size_bytes: usize = parameters.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size_bytes > PARAMETERS_MAX_BYTES {
        errors.too_long(&path, PARAMETERS_MAX_BYTES);
    }
}

fn topologies(class: &StorageClass, errors: &mut FieldErrors) {
    let path = Path::root("allowedTopologies");
    for (i, term) in class.allowed_topologies.iter().flatten().enumerate() {
        let term_path = path.index(i);
        let list = term_path.field("matchLabelExpressions");
        for (j, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let at = list.index(j);
            if requirement.values.is_empty() {
                errors.required(&at.field("values"), "");
            }
            let values = at.field("values");
            let mut seen = BTreeSet::new();
            for (k, value) in requirement.values.iter().enumerate() {
                if !seen.insert(value) {
                    errors.duplicate(&values.index(k), value.as_str());
                }
            }
            report(syntax::qualified_name(&requirement.key), &at.field("key"), &requirement.key, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str =
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, provisioner: a.b/c, parameters: {a: ''}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: storage.k8s.io/v1
            kind: StorageClass
            metadata:
              name: x
            parameters:
              a: ''
            provisioner: a.b/c
            reclaimPolicy: Delete
            volumeBindingMode: Immediate
        "#]],
        );
        refusals(
            BASE,
            &[
                "{provisioner: ''}",
                "{provisioner: a/b/c}",
                "{reclaimPolicy: Recycle}",
                "{volumeBindingMode: Never}",
                "{allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a, a]}, {key: '', values: []}]}]}",
            ],
            expect![[r#"
                provisioner: Required value
                provisioner: Invalid value: "a/b/c": a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"
                volumeBindingMode: Unsupported value: "Never": supported values: "Immediate", "WaitForFirstConsumer"
                allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a"
                allowedTopologies[0].matchLabelExpressions[1].values: Required value
                allowedTopologies[0].matchLabelExpressions[1].key: Invalid value: "": name part must be non-empty
                allowedTopologies[0].matchLabelExpressions[1].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            "#]],
        );
        update_refusals(
            BASE,
            &[
                "{provisioner: d.e/f}",
                "{parameters: {a: b}}",
                "{reclaimPolicy: Retain}",
                "{volumeBindingMode: WaitForFirstConsumer}",
                "{allowVolumeExpansion: true, mountOptions: [ro]}",
            ],
            expect![[r#"
                provisioner: Forbidden: updates to provisioner are forbidden.
                parameters: Forbidden: updates to parameters are forbidden.
                reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.
                volumeBindingMode: Invalid value: "WaitForFirstConsumer": field is immutable
                accepted: {"allowVolumeExpansion":true,"mountOptions":["ro"]}
            "#]],
        );
    }
}
