//! Secret: bytes under keys that only few may read, with rules per type.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use proa_api::field::{FieldErrors, Path};
use proa_api::names;

use super::config_map::IMMUTABLE_SET;
use crate::columns::{age, column, count, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};
use crate::{Kind, SelectableField};

/// Keys and values together.
const MAX_BYTES: usize = 1024 * 1024;

/// The rules of Secrets.
pub struct Secrets;

/// The row of Secrets.
pub fn kind() -> Kind {
    Kind {
        columns: vec![
            name(),
            column("Type", "string", "Used to facilitate programmatic handling of secret data.", |o, _| {
                text(o, "/type").into()
            }),
            column("Data", "string", "Number of keys.", |o, _| count(o, "/data").into()),
            age(),
        ],
        selectable_fields: vec![SelectableField::at("type", "/type")],
        ..row::<Secrets>()
    }
}

impl TypedRules for Secrets {
    type Object = Secret;

    fn default(secret: &mut Secret) {
        if secret.type_.as_deref().unwrap_or_default().is_empty() {
            secret.type_ = Some("Opaque".to_owned());
        }
        // Written as text, kept as bytes: stringData is for writing only.
        for (key, value) in secret.string_data.take().into_iter().flatten() {
            secret.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
    }

    fn validate(secret: &Secret, errors: &mut FieldErrors) {
        let data = Path::root("data");
        let mut size_bytes = 0;
        for (key, value) in secret.data.iter().flatten() {
            report(syntax::config_key(key), &data.key(key), key, errors);
            size_bytes += value.0.len();
        }
        if size_bytes > MAX_BYTES {
            errors.too_long(&data, MAX_BYTES);
        }
        validate_type(secret, errors);
    }

    fn validate_update(old: &Secret, new: &Secret, errors: &mut FieldErrors) {
        if old.type_ != new.type_ {
            errors.invalid(&Path::root("type"), new.type_.as_deref().unwrap_or_default(), IMMUTABLE);
        }
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.forbidden(&Path::root("immutable"), IMMUTABLE_SET);
            }
            if new.data != old.data {
                errors.forbidden(&Path::root("data"), IMMUTABLE_SET);
            }
        }
    }
}

fn validate_type(secret: &Secret, errors: &mut FieldErrors) {
    let data = Path::root("data");
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    match secret.type_.as_deref().unwrap_or_default() {
        names::SECRET_TYPE_ACCOUNT_TOKEN => {
            let named =
                secret.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_ACCOUNT_NAME));
            if named.is_none_or(|name| name.is_empty()) {
                let annotations = Path::root("metadata");
                errors.required(&annotations.field("annotations").key(names::ANNOTATION_ACCOUNT_NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => json(".dockercfg", value(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => json(".dockerconfigjson", value(".dockerconfigjson"), errors),
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            errors.required(&data.key("username"), "");
            errors.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            errors.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    errors.required(&data.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn json(key: &str, value: Option<&ByteString>, errors: &mut FieldErrors) {
    let data = Path::root("data");
    match value {
        None => errors.required(&data.key(key), ""),
        Some(bytes) => {
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes.0)
            {
                errors.invalid(&data.key(key), "<secret contents redacted>", error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: v1, kind: Secret, data: {a: YQ==}}";

    #[test]
    fn rules() {
        created(
            "{apiVersion: v1, kind: Secret, data: {a: YQ==, b: YQ==}, stringData: {b: c}}",
            expect![[r#"
            apiVersion: v1
            kind: Secret
            data:
              a: YQ==
              b: Yw==
            metadata:
              name: x
              namespace: default
            type: Opaque
        "#]],
        );
        refusals(
            BASE,
            &[
                "{data: {a/b: ''}}",
                "{type: kubernetes.io/tls, data: {tls.crt: ''}}",
                "{type: kubernetes.io/basic-auth}",
                "{type: kubernetes.io/ssh-auth}",
                "{type: kubernetes.io/service-account-token}",
                "{type: kubernetes.io/dockerconfigjson}",
                "{type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: YQ==}}",
                "{data: {a: '?'}}",
            ],
            expect![[r#"
                data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
                data[tls.key]: Required value
                data[username]: Required value
                data[password]: Required value
                data[ssh-privatekey]: Required value
                metadata.annotations[kubernetes.io/service-account.name]: Required value
                data[.dockerconfigjson]: Required value
                data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": expected value at line 1 column 1
                400 Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0
            "#]],
        );
        update_refusals(
            BASE,
            &["{type: other}", "{immutable: true, data: {a: Yg==}}"],
            expect![[r#"
            type: Invalid value: "other": field is immutable
            accepted: {"immutable":true,"data":{"a":"Yg=="}}
        "#]],
        );
        update_refusals(
            &BASE.replace("data", "immutable: true, data"),
            &["{data: {a: Yg==}}", "{immutable: null}"],
            expect![[r#"
                data: Forbidden: field is immutable when `immutable` is set
                immutable: Forbidden: field is immutable when `immutable` is set
            "#]],
        );
    }
}
