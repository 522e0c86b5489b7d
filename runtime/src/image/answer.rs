//! What a registry's refusal says, in the words that Kubernetes users know. Pure.
//!
//! Whoever answered need not be a registry: of its body nothing is shown but the error codes and
//! messages of the distribution specification, and of those no more than a line.
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>

use http::StatusCode;
use serde::Deserialize;

use super::error::{ImageError, shown};

/// Errors of one answer that are shown.
const SHOWN_ERRORS: usize = 3;
/// The longest error code.
const CODE_BYTES: usize = 64;

#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Stated>,
}

#[derive(Deserialize)]
struct Stated {
    code: String,
    #[serde(default)]
    message: String,
}

/// The error for an answer with this status and body to `request` (`GET https://…`).
pub(super) fn explain(reference: &str, request: &str, status: StatusCode, body: &[u8]) -> ImageError {
    let stated = stated(body);
    let says = |codes: &[&str]| stated.iter().any(|e| codes.contains(&e.code.as_str()));
    if status == StatusCode::NOT_FOUND || says(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"]) {
        return ImageError::NotFound(reference.to_owned());
    }
    let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if refused || says(&["DENIED", "UNAUTHORIZED"]) {
        return ImageError::Unauthorized(reference.to_owned());
    }
    let mut message = format!("unexpected status from {request}: {status}");
    for Stated { code, message: said } in stated.iter().take(SHOWN_ERRORS) {
        message.push_str(&format!(": {}: {}", code.to_ascii_lowercase(), shown(said)));
    }
    ImageError::Registry { reference: reference.to_owned(), message }
}

/// The errors that a body states, if it is one of the specification.
fn stated(body: &[u8]) -> Vec<Stated> {
    let is_code = |code: &str| {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        !code.is_empty() && code.len() <= CODE_BYTES && code.bytes().all(plain)
    };
    let errors = serde_json::from_slice::<Envelope>(body).map(|envelope| envelope.errors);
    errors.unwrap_or_default().into_iter().filter(|error| is_code(&error.code)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_registry_says_is_shown() {
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "a".repeat(4000));
        for (status, body, text) in [
            (404, "", "r:1: not found"),
            (400, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, "r:1: not found"),
            (401, "secret", "failed to authorize: r:1"),
            (403, "secret", "failed to authorize: r:1"),
            (400, r#"{"errors":[{"code":"DENIED"}]}"#, "failed to authorize: r:1"),
            (500, "password: hunter2", "500 Internal Server Error"),
            (200, r#"{"secret": 1}"#, "200 OK"),
            (
                429,
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}"#,
                "Requests: toomanyrequests: later",
            ),
            (500, r#"{"errors":[{"code":"root:x:0:0","message":"hunter2"}]}"#, "500 Internal Server Error"),
            (500, r#"{"errors":[{"code":"A","message":"b\u0007\nc"}]}"#, "500 Internal Server Error: a: b c"),
            (500, &long, "…"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let said = explain("r:1", "GET request to https://r/v2/", status, body.as_bytes()).to_string();
            assert!(said.ends_with(text) && !said.contains("hunter2") && said.len() < 700, "{said}");
        }
    }
}
