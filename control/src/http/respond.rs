//! Answers, made from bytes, values and refusals.

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use proa_api::Refusal;
use serde::Serialize;
use serde_json::Value;

use super::negotiate::Encoding;

const WARNING: HeaderName = HeaderName::from_static("warning");
/// More warnings than this would be a header that proxies refuse.
const MAX_WARNINGS: usize = 30;

/// An answer of these bytes.
pub fn bytes(code: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// An answer in JSON.
pub fn json(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => bytes(code, "application/json", body),
        Err(error) => refusal(&Refusal::internal(error)),
    }
}

/// An answer whose JSON is there already, in the encoding asked for.
pub fn encoded(code: StatusCode, encoding: Encoding, body: impl Into<Bytes>) -> Response<Body> {
    let body = body.into();
    match encoding {
        Encoding::Json => bytes(code, encoding.media_type(), body),
        Encoding::Yaml => match to_yaml(&body) {
            Ok(text) => bytes(code, encoding.media_type(), text),
            Err(why) => refusal(&Refusal::internal(why)),
        },
    }
}

fn to_yaml(json: &[u8]) -> Result<String, String> {
    let value: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    serde_yaml::to_string(&value).map_err(|e| e.to_string())
}

/// A plain text.
pub fn text(code: StatusCode, body: impl Into<String>) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", body.into())
}

/// The `Status` of a refusal. A path that nobody serves has none, as with the stock server: clients
/// take a Status without details for an object that is not there, and look for its name.
pub fn refusal(refusal: &Refusal) -> Response<Body> {
    if refusal.code() == 404 && refusal.0.details.is_none() {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let code = StatusCode::from_u16(refusal.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // A Status always serialises: its keys are strings and it holds no maps of other kinds.
    let body = serde_json::to_vec(&refusal.0).unwrap_or_default();
    let mut response = bytes(code, "application/json", body);
    if let Some(seconds) = refusal.0.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Says that nothing more is answered over the connection.
pub fn close(response: &mut Response<Body>) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// The answer to a HEAD: what GET has, with its length and without its body (RFC 9110, section
/// 9.3.2).
pub fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

/// Adds `Warning` headers, which kubectl prints (RFC 7234, section 5.5, code 299).
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for text in warnings.iter().take(MAX_WARNINGS) {
        let mut quoted = String::with_capacity(text.len() + 8);
        quoted.push_str("299 - \"");
        for c in text.chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => quoted.push(' '),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// A Status that says that it is done.
pub fn success(code: StatusCode) -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    });
    json(code, &status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted() {
        let mut response = text(StatusCode::OK, "");
        warn(&mut response, &["unknown field \"spec.a\\b\"\n".to_owned()]);
        assert_eq!(response.headers()["warning"], r#"299 - "unknown field \"spec.a\\b\" ""#);
    }

    #[test]
    fn a_path_that_nobody_serves_has_no_status() {
        let response = refusal(&Refusal::no_such_path());
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let missing = Refusal::not_found(proa_api::status::Resource { group: "", plural: "pods" }, "p");
        assert_eq!(refusal(&missing).headers()[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn a_refusal_is_a_status() {
        let response = refusal(&Refusal::unauthorized());
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }
}
