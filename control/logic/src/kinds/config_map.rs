//! ConfigMap: configuration as text or bytes under keys.

use k8s_openapi::api::core::v1::ConfigMap;
use proa_api::field::{FieldErrors, Path};

use super::Kind;
use super::columns::{age, column, count, name};
use super::rules::{Rules, row};
use super::syntax::{self, report};

/// Keys and values together.
const MAX_BYTES: usize = 1024 * 1024;

/// The text of a change to what is marked immutable.
pub const IMMUTABLE_SET: &str = "field is immutable when `immutable` is set";

/// The rules of ConfigMaps.
pub struct ConfigMaps;

/// The row of ConfigMaps.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["cm"],
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

impl Rules for ConfigMaps {
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
            errors.too_long(&Path::root(""), MAX_BYTES);
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
