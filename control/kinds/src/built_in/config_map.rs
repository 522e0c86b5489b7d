//! ConfigMap: configuration as text or bytes under keys.

use k8s_openapi::api::core::v1::ConfigMap;
use proa_api::field::{FieldErrors, Path};

use crate::Kind;
use crate::columns::{age, column, count, name};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, report};

/// Keys and values together.
const MAX_BYTES: usize = 1024 * 1024;

/// How the stock server names the object itself.
const WHOLE: Path<'static> = Path::root("[]");

/// The text of a change to what is marked immutable.
pub const IMMUTABLE_SET: &str = "field is immutable when `immutable` is set";

/// The rules of ConfigMaps.
pub struct ConfigMaps;

/// The row of ConfigMaps.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["cm".into()],
        columns: vec![
            name(),
            column("Data", "string", "Number of keys, of text and of bytes.", |o, _| {
                (count(o, "/data") + count(o, "/binaryData")).into()
            }),
            age(),
        ],
        ..row::<ConfigMaps>()
    }
}

impl TypedRules for ConfigMaps {
    type Object = ConfigMap;

    fn validate(map: &ConfigMap, errors: &mut FieldErrors) {
        let (data, binary_data) = (Path::root("data"), Path::root("binaryData"));
        let mut size_bytes = 0;
        for (key, value) in map.data.iter().flatten() {
            report(syntax::config_key(key), &data.key(key), key, errors);
            if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                errors.invalid(&data.key(key), key.as_str(), "duplicate of key present in binaryData");
            }
            size_bytes += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            report(syntax::config_key(key), &binary_data.key(key), key, errors);
            size_bytes += value.0.len();
        }
        if size_bytes > MAX_BYTES {
            errors.too_long(&WHOLE, MAX_BYTES);
        }
    }

    fn validate_update(old: &ConfigMap, new: &ConfigMap, errors: &mut FieldErrors) {
        if old.immutable != Some(true) {
            return;
        }
        if new.immutable != Some(true) {
            errors.forbidden(&Path::root("immutable"), IMMUTABLE_SET);
        }
        if new.data != old.data {
            errors.forbidden(&Path::root("data"), IMMUTABLE_SET);
        }
        if new.binary_data != old.binary_data {
            errors.forbidden(&Path::root("binaryData"), IMMUTABLE_SET);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str =
        "{apiVersion: v1, kind: ConfigMap, data: {a: ''}, binaryData: {b: AAE=}, immutable: true}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: ConfigMap
            binaryData:
              b: AAE=
            data:
              a: ''
            immutable: true
            metadata:
              name: x
              namespace: default
        "#]],
        );
        let large = format!("{{data: {{large: {}}}}}", "x".repeat(1024 * 1024));
        refusals(
            BASE,
            &[
                "{data: {b: x}}",
                "{data: {a/b: x, ..a: x}, binaryData: {' ': ''}}",
                "{binaryData: {b: '?'}}",
                &large,
            ],
            expect![[r#"
                data[b]: Invalid value: "b": duplicate of key present in binaryData
                data[..a]: Invalid value: "..a": must not start with '..'
                data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
                binaryData[ ]: Invalid value: " ": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
                400 ConfigMap in version "v1" cannot be handled as a ConfigMap: illegal base64 data at input byte 0
                []: Too long: may not be more than 1048576 bytes
            "#]],
        );
        update_refusals(
            BASE,
            &["{metadata: {labels: {a: b}}}", "{data: {a: b}}", "{binaryData: null}", "{immutable: false}"],
            expect![[r#"
                accepted: {"metadata":{"labels":{"a":"b"}}}
                data: Forbidden: field is immutable when `immutable` is set
                binaryData: Forbidden: field is immutable when `immutable` is set
                immutable: Forbidden: field is immutable when `immutable` is set
            "#]],
        );
    }
}
