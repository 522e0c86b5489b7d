//! The rules of metadata, which are the same for all kinds but for what a name looks like.
//!
//! Fed by `rules`; texts are those of the stock server. What is made by the server itself (uid,
//! times, generation, resourceVersion) is the registry's.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};
use proa_api::field::{FieldErrors, Path};
use proa_api::names::{FINALIZER_FOREGROUND, FINALIZER_KUBERNETES, FINALIZER_ORPHAN};

use super::syntax::{self, Faults, IMMUTABLE, report};

/// All annotations of one object together, keys included.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

const METADATA: Path<'static> = Path::root("metadata");

/// What names of a kind look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFormat {
    /// DNS subdomain of RFC 1123.
    Subdomain,
    /// DNS label of RFC 1123.
    Label,
    /// DNS label of RFC 1035.
    Label1035,
    /// Anything that can stand in a path: RBAC's names.
    PathSegment,
}

impl NameFormat {
    /// What is wrong with a name. Of a prefix, a trailing dash is not held against it.
    pub fn faults(self, name: &str, is_prefix: bool) -> Faults {
        let masked;
        let name = match name.strip_suffix('-') {
            Some(stem) if is_prefix && !stem.is_empty() => {
                masked = format!("{stem}a");
                masked.as_str()
            }
            _ => name,
        };
        match self {
            NameFormat::Subdomain => syntax::subdomain(name),
            NameFormat::Label => syntax::label(name),
            NameFormat::Label1035 => syntax::label_1035(name),
            NameFormat::PathSegment => path_segment(name, is_prefix),
        }
    }
}

pub(super) fn path_segment(name: &str, is_prefix: bool) -> Faults {
    match name {
        "." | ".." if !is_prefix => vec![format!("may not be '{name}'")],
        _ => ["/", "%"]
            .iter()
            .filter(|illegal| name.contains(**illegal))
            .map(|illegal| format!("may not contain '{illegal}'"))
            .collect(),
    }
}

/// Clears what clients may not set when they create.
pub fn prepare_create(meta: &mut ObjectMeta) {
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.managed_fields = None;
    meta.self_link = None;
}

/// Fills in what a client may leave out when it updates, and puts back what it cannot change.
pub fn prepare_update(old: &ObjectMeta, new: &mut ObjectMeta) {
    let absent = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if absent(&new.uid) {
        new.uid.clone_from(&old.uid);
    }
    if absent(&new.name) {
        new.name.clone_from(&old.name);
    }
    if absent(&new.namespace) {
        new.namespace.clone_from(&old.namespace);
    }
    if old.creation_timestamp.is_some() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.generation = old.generation;
    new.managed_fields = None;
    new.self_link = None;
}

/// What is wrong with the metadata of a new object.
pub fn validate(meta: &ObjectMeta, format: NameFormat, namespaced: bool, errors: &mut FieldErrors) {
    let name = meta.name.as_deref().unwrap_or_default();
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    if !prefix.is_empty() {
        report(format.faults(prefix, true), &METADATA.field("generateName"), prefix, errors);
    }
    if !name.is_empty() {
        report(format.faults(name, false), &METADATA.field("name"), name, errors);
    } else if prefix.is_empty() {
        errors.required(&METADATA.field("name"), "name or generateName is required");
    }
    validate_namespace(meta.namespace.as_deref().unwrap_or_default(), namespaced, errors);
    validate_common(meta, errors);
}

fn validate_namespace(namespace: &str, namespaced: bool, errors: &mut FieldErrors) {
    let path = METADATA.field("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.required(&path, ""),
        (true, namespace) => report(syntax::label(namespace), &path, namespace, errors),
        (false, "") => {}
        (false, _) => errors.forbidden(&path, "not allowed on this type"),
    }
}

/// What is wrong with a change of metadata.
pub fn validate_update(old: &ObjectMeta, new: &ObjectMeta, errors: &mut FieldErrors) {
    if old.deletion_timestamp.is_some() {
        let known: BTreeSet<&String> = old.finalizers.iter().flatten().collect();
        let added: Vec<&String> = new.finalizers.iter().flatten().filter(|f| !known.contains(f)).collect();
        if !added.is_empty() {
            errors.forbidden(
                &METADATA.field("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{}}}",
                    added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ")
                ),
            );
        }
    }
    immutable(&old.name, &new.name, "name", errors);
    immutable(&old.namespace, &new.namespace, "namespace", errors);
    immutable(&old.uid, &new.uid, "uid", errors);
    immutable(&old.deletion_timestamp, &new.deletion_timestamp, "deletionTimestamp", errors);
    immutable(
        &old.deletion_grace_period_seconds,
        &new.deletion_grace_period_seconds,
        "deletionGracePeriodSeconds",
        errors,
    );
    validate_common(new, errors);
}

fn immutable<T: PartialEq + serde::Serialize>(old: &T, new: &T, field: &str, errors: &mut FieldErrors) {
    if old != new {
        let value = serde_json::to_value(new).unwrap_or_default();
        errors.invalid(&METADATA.field(field), value, IMMUTABLE);
    }
}

fn validate_common(meta: &ObjectMeta, errors: &mut FieldErrors) {
    labels(meta.labels.as_ref(), &METADATA.field("labels"), errors);
    annotations(meta.annotations.as_ref(), &METADATA.field("annotations"), errors);
    owner_references(meta.owner_references.as_deref().unwrap_or_default(), errors);
    let list = meta.finalizers.as_deref().unwrap_or_default();
    let path = METADATA.field("finalizers");
    finalizers(list, &path, errors);
    let standard = [FINALIZER_KUBERNETES, FINALIZER_ORPHAN, FINALIZER_FOREGROUND];
    for (i, finalizer) in list.iter().enumerate() {
        if !finalizer.contains('/') && !standard.contains(&finalizer.as_str()) {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(i), finalizer.as_str(), text);
        }
    }
}

/// What is wrong with labels.
pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        report(syntax::qualified_name(key), path, key, errors);
        report(syntax::label_value(value), path, value, errors);
    }
}

/// What is wrong with annotations.
pub fn annotations(map: Option<&BTreeMap<String, String>>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut size_bytes = 0;
    for (key, value) in map.into_iter().flatten() {
        report(syntax::qualified_name(&key.to_lowercase()), path, key, errors);
        size_bytes += key.len() + value.len();
    }
    if size_bytes > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

fn owner_references(references: &[OwnerReference], errors: &mut FieldErrors) {
    let path = METADATA.field("ownerReferences");
    let mut controller: Option<String> = None;
    let mut is_told = false;
    for reference in references {
        let version = reference.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            let api_version = reference.api_version.as_str();
            errors.invalid(&path.field("apiVersion"), api_version, "version must not be empty");
        }
        for (field, value) in [("kind", &reference.kind), ("name", &reference.name), ("uid", &reference.uid)]
        {
            if value.is_empty() {
                errors.invalid(&path.field(field), "", "must not be empty");
            }
        }
        if reference.api_version == "v1" && reference.kind == "Event" {
            let value = serde_json::to_value(reference).unwrap_or_default();
            errors.invalid(&path, value, "/v1, Kind=Event is disallowed from being an owner");
        }
        if reference.controller == Some(true) {
            let this = format!("{}/{}", reference.kind, reference.name);
            match &controller {
                // It shows them all, so one time is enough.
                Some(_) if is_told => {}
                Some(first) => {
                    is_told = true;
                    errors.invalid(
                        &path,
                        serde_json::to_value(references).unwrap_or_default(),
                        format!(
                            "Only one reference can have Controller set to true. Found \"true\" in references \
                             for {first} and {this}"
                        ),
                    );
                }
                None => controller = Some(this),
            }
        }
    }
}

/// What is wrong with finalizers.
pub fn finalizers(finalizers: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    for finalizer in finalizers {
        report(syntax::qualified_name(finalizer), path, finalizer, errors);
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has(FINALIZER_ORPHAN) && has(FINALIZER_FOREGROUND) {
        errors.invalid(
            path,
            finalizers.to_vec(),
            format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set"),
        );
    }
}

/// What is wrong with a LabelSelector.
pub fn label_selector(selector: &LabelSelector, path: &Path<'_>, errors: &mut FieldErrors) {
    labels(selector.match_labels.as_ref(), &path.field("matchLabels"), errors);
    let expressions = path.field("matchExpressions");
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        label_requirement(expression, &expressions.index(i), errors);
    }
}

fn label_requirement(expression: &LabelSelectorRequirement, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = expression.values.as_deref().unwrap_or_default();
    match expression.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'")
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
            &path.field("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.field("operator"), other, "not a valid selector operator"),
    }
    report(syntax::qualified_name(&expression.key), &path.field("key"), &expression.key, errors);
    for (i, value) in values.iter().enumerate() {
        report(syntax::label_value(value), &path.field("values").index(i), value, errors);
    }
}
