//! PersistentVolumeClaim: a pod's wish for storage that outlives it.
//!
//! What a claim asks for is the same in a claim, in a template of a StatefulSet and in an
//! ephemeral volume of a pod; [`default_spec`] and [`validate_spec`] serve all three.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference, TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::field::{FieldErrors, Path};
use proa_api::names::{ANNOTATION_STORAGE_CLASS, STORAGE};
use proa_api::quantity::Amount;

use super::storage_modes::{
    VOLUME_MODES, access_modes, access_modes_column, attributes_class_column, deleting_or_phase, positive,
};
use crate::Kind;
use crate::columns::{age, column, name, text, wide};
use crate::meta;
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};

const SPEC: Path<'static> = Path::root("spec");
const STAYS: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName \
                     for bound claims";

/// The rules of PersistentVolumeClaims.
pub struct PersistentVolumeClaims;

/// The row of PersistentVolumeClaims.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["pvc".into()],
        columns: vec![
            name(),
            column("Status", "string", "Phase of the claim.", |o, _| deleting_or_phase(o).into()),
            column("Volume", "string", "Name of the volume that the claim is bound to.", |o, _| {
                text(o, "/spec/volumeName").into()
            }),
            column("Capacity", "string", "What the bound volume really holds.", |o, _| {
                if_bound(o, text(o, "/status/capacity/storage").to_owned()).into()
            }),
            column("Access Modes", "string", "How the bound volume may be mounted.", |o, _| {
                if_bound(o, access_modes_column(o, "/status/accessModes")).into()
            }),
            column("StorageClass", "string", "Name of the StorageClass that the claim asks for.", |o, _| {
                class(o).into()
            }),
            column("VolumeAttributesClass", "string", "Name of its VolumeAttributesClass.", |o, _| {
                attributes_class_column(o).into()
            }),
            age(),
            wide("VolumeMode", "Whether the volume has a filesystem.", |o, _| {
                match text(o, "/spec/volumeMode") {
                    "" => "<unset>".into(),
                    mode => mode.into(),
                }
            }),
        ],
        ..row::<PersistentVolumeClaims>()
    }
}

fn if_bound(claim: &serde_json::Value, cell: String) -> String {
    if text(claim, "/spec/volumeName").is_empty() { String::new() } else { cell }
}

/// The annotation that named the class before the field did still goes before it.
fn class(claim: &serde_json::Value) -> &str {
    let annotations = claim.pointer("/metadata/annotations");
    match annotations.and_then(|map| map.get(ANNOTATION_STORAGE_CLASS)).and_then(|v| v.as_str()) {
        Some(class) => class,
        None => text(claim, "/spec/storageClassName"),
    }
}

impl TypedRules for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;
    const HAS_STATUS: bool = true;

    fn default(claim: &mut PersistentVolumeClaim) {
        default_spec(claim.spec.get_or_insert_default());
        claim.status.get_or_insert_default().phase.get_or_insert_with(|| "Pending".to_owned());
    }

    fn validate(claim: &PersistentVolumeClaim, errors: &mut FieldErrors) {
        if let Some(spec) = &claim.spec {
            validate_spec(spec, &SPEC, errors);
        }
    }

    fn validate_update(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim, errors: &mut FieldErrors) {
        class_annotation_stays(old, new, errors);
        let (Some(before), Some(after)) = (&old.spec, &new.spec) else { return };
        if masked(old, new) != *before {
            errors.forbidden(&SPEC, STAYS);
        }
        let size = |spec: &PersistentVolumeClaimSpec| {
            requested(spec).and_then(|q| Amount::parse(&q.0).ok()).unwrap_or_default()
        };
        let held = old.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get(STORAGE));
        let held = held.and_then(|q| Amount::parse(&q.0).ok()).unwrap_or_default();
        if size(after) < size(before) && size(after) <= held {
            let resources = SPEC.field("resources");
            let requests = resources.field("requests");
            errors.forbidden(&requests.field(STORAGE), "field can not be less than status.capacity");
        }
    }

    fn validate_status_update(
        _old: &PersistentVolumeClaim,
        new: &PersistentVolumeClaim,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let status_path = Path::root("status");
        if status.access_modes.as_ref().is_some_and(Vec::is_empty) {
            errors.required(&SPEC.field("accessModes"), "");
        }
        let capacity = status_path.field("capacity");
        for (resource, amount) in status.capacity.iter().flatten() {
            if Amount::parse(&amount.0).is_ok_and(Amount::is_negative) {
                errors.invalid(&capacity.key(resource), amount.0.as_str(), syntax::NOT_NEGATIVE);
            }
        }
    }
}

/// The new spec with everything put back that may change, so that a difference is a fault.
fn masked(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> PersistentVolumeClaimSpec {
    let before = old.spec.clone().unwrap_or_default();
    let mut after = new.spec.clone().unwrap_or_default();
    // The binder names the volume, once.
    if before.volume_name.is_none() {
        after.volume_name = None;
    }
    // A claim that was made before there was a default class gets one later.
    if before.storage_class_name.is_none() && annotated_class(old).is_none() {
        after.storage_class_name = None;
    }
    let bound = new.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    if bound && let Some(requests) = after.resources.as_mut().and_then(|r| r.requests.as_mut()) {
        match requested(&before) {
            Some(amount) => requests.insert(STORAGE.to_owned(), amount.clone()),
            None => requests.remove(STORAGE),
        };
    }
    after.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
    after
}

fn annotated_class(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.metadata.annotations.as_ref()?.get(ANNOTATION_STORAGE_CLASS)
}

fn class_annotation_stays(
    old: &PersistentVolumeClaim,
    new: &PersistentVolumeClaim,
    errors: &mut FieldErrors,
) {
    if annotated_class(old) != annotated_class(new) {
        let value = annotated_class(new).cloned().unwrap_or_default();
        let path = Path::root("metadata");
        let annotations = path.field("annotations");
        errors.invalid(&annotations.key(ANNOTATION_STORAGE_CLASS), value, IMMUTABLE);
    }
}

/// How much storage a claim asks for.
pub fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&Quantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE)
}

/// Fills in what the API reference says of absent fields.
pub fn default_spec(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    spec.resources.get_or_insert_default();
    // The older of the two fields that name a source of data can say less than the newer.
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if source.namespace.is_none() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => {}
    }
}

/// What is wrong with what a claim asks for.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.field("accessModes"), "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        meta::label_selector(selector, &path.field("selector"), errors);
    }
    access_modes(modes, &path.field("accessModes"), errors);
    let resources = path.field("resources");
    let empty = BTreeMap::new();
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).unwrap_or(&empty);
    match requests.get(STORAGE) {
        None => errors.required(&resources.key(STORAGE), ""),
        Some(amount) => positive(amount, &resources.key(STORAGE), errors),
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        report(syntax::subdomain(class), &path.field("storageClassName"), class, errors);
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !VOLUME_MODES.contains(mode)) {
        errors.not_supported(&path.field("volumeMode"), mode, &VOLUME_MODES);
    }
    if let Some(class) = spec.volume_attributes_class_name.as_deref().filter(|class| !class.is_empty()) {
        report(syntax::subdomain(class), &path.field("volumeAttributesClassName"), class, errors);
    }
    data_source(spec, path, errors);
}

fn data_source(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut part = |field: &str, group: Option<&String>, kind: &str, name: &str| {
        let at = path.field(field);
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        if kind.is_empty() {
            errors.required(&at.field("kind"), "");
        }
        if group.is_none_or(|group| group.is_empty()) && kind != "PersistentVolumeClaim" {
            errors.invalid(
                &at,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
    };
    if let Some(source) = &spec.data_source {
        part("dataSource", source.api_group.as_ref(), &source.kind, &source.name);
    }
    if let Some(source) = &spec.data_source_ref {
        part("dataSourceRef", source.api_group.as_ref(), &source.kind, &source.name);
    }
    if let (Some(old), Some(new)) = (&spec.data_source, &spec.data_source_ref)
        && (&old.api_group, &old.kind, &old.name) != (&new.api_group, &new.kind, &new.name)
    {
        let value = serde_json::to_value(old).unwrap_or_default();
        errors.invalid(path, value, "must match dataSourceRef");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::Part;
    use crate::check::{created, refusals, update_refusals, updated};

    const BASE: &str = "{apiVersion: v1, kind: PersistentVolumeClaim, spec: {accessModes: [ReadWriteOnce], \
                        resources: {requests: {storage: 1024Mi}}}}";

    #[test]
    fn defaults() {
        created(
            &BASE.replace(
                "}}}}",
                "}}, storageClassName: '', dataSource: {kind: PersistentVolumeClaim, name: o}}}",
            ),
            expect![[r#"
                apiVersion: v1
                kind: PersistentVolumeClaim
                metadata:
                  name: x
                  namespace: default
                spec:
                  accessModes:
                  - ReadWriteOnce
                  dataSource:
                    kind: PersistentVolumeClaim
                    name: o
                  dataSourceRef:
                    kind: PersistentVolumeClaim
                    name: o
                  resources:
                    requests:
                      storage: 1Gi
                  storageClassName: ''
                  volumeMode: Filesystem
                status:
                  phase: Pending
            "#]],
        );
    }

    #[test]
    fn refused() {
        refusals(
            BASE,
            &[
                "{spec: {accessModes: []}}",
                "{spec: {accessModes: [ReadSometimes]}}",
                "{spec: {accessModes: [ReadWriteOnce, ReadWriteOncePod]}}",
                "{spec: {resources: null}}",
                "{spec: {resources: {requests: {storage: '0'}}}}",
                "{spec: {storageClassName: A_b, volumeMode: Tape}}",
                "{spec: {selector: {matchExpressions: [{key: a, operator: In}]}}}",
                "{spec: {dataSource: {kind: Pod, name: ''}}}",
            ],
            expect![[r#"
                spec.accessModes: Required value: at least 1 access mode is required
                spec.accessModes: Unsupported value: "ReadSometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
                spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes
                spec.resources[storage]: Required value
                spec.resources[storage]: Invalid value: "0": must be greater than zero
                spec.storageClassName: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"
                spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
                spec.dataSource.name: Required value
                spec.dataSource: Invalid value: "Pod": must be 'PersistentVolumeClaim' when referencing the default apiGroup
                spec.dataSourceRef.name: Required value
                spec.dataSourceRef: Invalid value: "Pod": must be 'PersistentVolumeClaim' when referencing the default apiGroup
            "#]],
        );
    }

    #[test]
    fn what_may_change() {
        update_refusals(
            BASE,
            &[
                "{spec: {volumeName: v}}",
                "{spec: {storageClassName: late}}",
                "{spec: {resources: {requests: {storage: 2Gi}}}}",
                "{spec: {accessModes: [ReadWriteMany]}}",
                "{spec: {volumeAttributesClassName: gold}}",
                "{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: x}}}",
            ],
            expect![[r#"
                accepted: {"spec":{"volumeName":"v"}}
                accepted: {"spec":{"storageClassName":"late"}}
                spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
                spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
                accepted: {"spec":{"volumeAttributesClassName":"gold"}}
                metadata.annotations[volume.beta.kubernetes.io/storage-class]: Invalid value: "x": field is immutable
            "#]],
        );
        update_refusals(
            &BASE.replace("}}}}", "}}, volumeName: v, storageClassName: a}}"),
            &["{spec: {volumeName: w}}", "{spec: {storageClassName: b}}", "{spec: {storageClassName: ''}}"],
            expect![[r#"
                spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
                spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
                spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
            "#]],
        );
        updated(
            BASE,
            &BASE.replace(
                "}}}}",
                "}}}, status: {phase: Bound, accessModes: [ReadWriteOnce], capacity: {storage: 1024Mi}}}",
            ),
            Part::STATUS,
            expect![[r#"
                apiVersion: v1
                kind: PersistentVolumeClaim
                metadata:
                  name: x
                  namespace: default
                spec:
                  accessModes:
                  - ReadWriteOnce
                  resources:
                    requests:
                      storage: 1Gi
                  volumeMode: Filesystem
                status:
                  accessModes:
                  - ReadWriteOnce
                  capacity:
                    storage: 1Gi
                  phase: Bound
            "#]],
        );
    }
}
