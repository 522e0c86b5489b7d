//! What is wrong with environment variables and where their values come from.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};
use proa_api::field::{FieldErrors, Path};

use crate::syntax::{self, report};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that are known, though variables cannot have all of them.
const OTHER_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// What is wrong with a container's `env`.
pub fn variables(variables: &[EnvVar], path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, variable) in variables.iter().enumerate() {
        let at = path.index(i);
        if variable.name.is_empty() {
            errors.required(&at.field("name"), "");
        } else {
            report(syntax::env_name(&variable.name), &at.field("name"), &variable.name, errors);
        }
        if let Some(source) = &variable.value_from {
            let has_value = variable.value.as_deref().is_some_and(|value| !value.is_empty());
            value_from(source, has_value, &at.field("valueFrom"), errors);
        }
    }
}

fn value_from(source: &EnvVarSource, has_value: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        field_ref(field, &ENV_FIELDS, &path.field("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        resource_ref(resource, false, &path.field("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_ref(&key.name, &key.key, &path.field("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_ref(&key.name, &key.key, &path.field("secretKeyRef"), errors);
    }
    if source.file_key_ref.is_some() {
        sources += 1;
    }
    if sources == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        );
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// What is wrong with a reference to a field of the pod.
pub fn field_ref(field: &ObjectFieldSelector, allowed: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let version = field.api_version.as_deref().unwrap_or_default();
    let name = field.field_path.as_str();
    let at = path.field("fieldPath");
    if version.is_empty() {
        errors.required(&path.field("apiVersion"), "");
        return;
    }
    if name.is_empty() {
        errors.required(&at, "");
        return;
    }
    if version != "v1" {
        errors.invalid(&at, name, format!("error converting fieldPath: unsupported pod version: {version}"));
        return;
    }
    if let Some((map, key)) = name.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        match map {
            "metadata.annotations" => report(syntax::qualified_name(&key.to_lowercase()), path, key, errors),
            "metadata.labels" => report(syntax::qualified_name(key), path, key, errors),
            _ => errors.invalid(
                &at,
                name,
                format!("error converting fieldPath: field label does not support subscript: {map}"),
            ),
        }
        return;
    }
    if allowed.contains(&name) {
        return;
    }
    if ENV_FIELDS.contains(&name) || OTHER_FIELDS.contains(&name) {
        errors.not_supported(&at, name, allowed);
    } else {
        errors.invalid(&at, name, format!("error converting fieldPath: field label not supported: {name}"));
    }
}

/// What is wrong with a reference to a container's resources.
pub fn resource_ref(
    resource: &ResourceFieldSelector,
    needs_container: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let name = resource.resource.as_str();
    if needs_container && resource.container_name.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.field("containerName"), "");
    } else if name.is_empty() {
        errors.required(&path.field("resource"), "");
    } else if !RESOURCES.contains(&name)
        && !["requests.hugepages-", "limits.hugepages-"].iter().any(|prefix| name.starts_with(prefix))
    {
        errors.not_supported(&path.field("resource"), name, &RESOURCES);
    }
    divisor(resource, path, errors);
}

fn divisor(resource: &ResourceFieldSelector, path: &Path<'_>, errors: &mut FieldErrors) {
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let divisor = resource.divisor.as_ref().map_or("0", |quantity| quantity.0.as_str());
    let name = resource.resource.as_str();
    let (allowed, of) = match name.split_once('.') {
        _ if divisor == "0" => return,
        Some((_, "cpu")) => ("1m, 1", "cpu"),
        Some((_, "memory")) => (SIZES, "memory"),
        Some((_, "ephemeral-storage")) => (SIZES, "local ephemeral storage"),
        _ => return,
    };
    if allowed.split(", ").any(|value| value == divisor) {
        return;
    }
    let listed = if of == "cpu" { "1m and 1" } else { allowed };
    errors.invalid(
        &path.field("divisor"),
        name,
        format!("only divisor's values {listed} are supported with the {of} resource"),
    );
}

fn key_ref(name: &str, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    report(syntax::subdomain(name), &path.field("name"), name, errors);
    if key.is_empty() {
        errors.required(&path.field("key"), "");
    } else {
        report(syntax::config_key(key), &path.field("key"), key, errors);
    }
}

/// What is wrong with a container's `envFrom`.
pub fn sources(sources: &[EnvFromSource], path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            report(syntax::env_name(prefix), &at.field("prefix"), prefix, errors);
        }
        let names = [
            ("configMapRef", source.config_map_ref.as_ref().map(|map| map.name.as_str())),
            ("secretRef", source.secret_ref.as_ref().map(|secret| secret.name.as_str())),
        ];
        for (field, name) in names {
            let at = at.field(field);
            match name {
                Some("") => errors.required(&at.field("name"), ""),
                Some(name) => report(syntax::subdomain(name), &at.field("name"), name, errors),
                None => {}
            }
        }
        match names.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
