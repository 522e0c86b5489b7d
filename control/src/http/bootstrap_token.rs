//! Bootstrap tokens: Secrets by which machines join.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>. Asked by
//! authentication for bearer tokens of the form `abcdef.0123456789abcdef`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use proa_api::names::{
    BOOTSTRAP_TOKEN_PREFIX, BOOTSTRAP_USER_PREFIX, GROUP_BOOTSTRAPPERS, NAMESPACE_SYSTEM,
    SECRET_TYPE_BOOTSTRAP_TOKEN,
};
use serde_json::Value;

use crate::registry::{Caller, Registry};
use proa_api::names::GROUP_AUTHENTICATED;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// Id and secret of a text that has the form of a bootstrap token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && is_word(id) && is_word(secret);
    fits.then_some((id, secret))
}

/// The caller whose token it is. The error is for the log only: who guesses learns nothing.
pub fn caller(registry: &Registry, id: &str, secret: &str, now: Timestamp) -> Result<Caller, &'static str> {
    let table = registry.kinds();
    let kind = table.by_plural("", "v1", "secrets").ok_or("there are no Secrets")?;
    let name = format!("{BOOTSTRAP_TOKEN_PREFIX}{id}");
    let found = registry.get(kind, NAMESPACE_SYSTEM, &name).map_err(|_| "there is no such token")?;
    check(&found.value(), id, secret, now)
}

fn check(token: &Value, id: &str, secret: &str, now: Timestamp) -> Result<Caller, &'static str> {
    let data = |key: &str| -> Option<String> {
        let text = token["data"][key].as_str()?;
        String::from_utf8(BASE64.decode(text).ok()?).ok()
    };
    if token["type"] != SECRET_TYPE_BOOTSTRAP_TOKEN || token["metadata"]["deletionTimestamp"].is_string() {
        return Err("the Secret is not a token, or is going");
    }
    if !same(data("token-secret").unwrap_or_default().as_bytes(), secret.as_bytes()) {
        return Err("the secret is wrong");
    }
    if data("token-id").as_deref() != Some(id) {
        return Err("the id is another");
    }
    if let Some(ends) = data("expiration")
        && ends.parse::<Timestamp>().is_ok_and(|ends| ends <= now) | ends.parse::<Timestamp>().is_err()
    {
        return Err("the token has expired");
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err("the token is not for authentication");
    }
    let mut groups = vec![GROUP_BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|g| !g.is_empty()) {
        if !is_extra_group(group) {
            return Err("a group of the token is not one of bootstrappers");
        }
        groups.push(group.to_owned());
    }
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Ok(Caller { user: format!("{BOOTSTRAP_USER_PREFIX}{id}"), groups, ..Caller::default() })
}

/// `system:bootstrappers:` and then letters, digits, colons and dashes, the last no sign.
fn is_extra_group(group: &str) -> bool {
    let rest = group.strip_prefix(GROUP_BOOTSTRAPPERS).and_then(|rest| rest.strip_prefix(':'));
    let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.is_some_and(|rest| {
        rest.bytes().all(|b| is_letter(b) || b == b':' || b == b'-')
            && rest.bytes().last().is_some_and(is_letter)
    })
}

/// Compares digests, so that the time it takes tells nothing of the secret.
fn same(a: &[u8], b: &[u8]) -> bool {
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    digest(a).as_ref() == digest(b).as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in ["", "abcdef", "abcdef.short", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde_"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn which_tokens_are_believed() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let believed = |changes: Value| {
            let mut data = json!({
                "token-id": "abcdef", "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true",
            });
            data.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            for value in data.as_object_mut().unwrap().values_mut() {
                *value = BASE64.encode(value.as_str().unwrap()).into();
            }
            let token = json!({ "type": SECRET_TYPE_BOOTSTRAP_TOKEN, "data": data });
            check(&token, "abcdef", "0123456789abcdef", now)
        };
        let caller =
            believed(json!({ "auth-extra-groups": "system:bootstrappers:a:b,system:bootstrappers:c" }));
        let caller = caller.unwrap();
        assert_eq!(caller.user, "system:bootstrap:abcdef");
        assert_eq!(caller.groups.len(), 4);
        assert!(believed(json!({ "expiration": "2030-01-01T00:00:01Z" })).is_ok());
        for changes in [
            json!({ "token-secret": "0123456789abcdeX" }),
            json!({ "token-id": "other0" }),
            json!({ "usage-bootstrap-authentication": "false" }),
            json!({ "expiration": "2030-01-01T00:00:00Z" }),
            json!({ "expiration": "soon" }),
            json!({ "auth-extra-groups": "system:masters" }),
            json!({ "auth-extra-groups": "system:bootstrappers:" }),
        ] {
            assert!(believed(changes.clone()).is_err(), "{changes}");
        }
    }
}
