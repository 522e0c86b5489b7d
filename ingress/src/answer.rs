//! Answers of the ingress itself.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};

use crate::body::Body;

/// Why a request is not passed on.
pub fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let text = format!("{} {}: {why}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// The same with one more header.
pub fn refuse_with(status: StatusCode, why: &str, name: HeaderName, value: &str) -> Response<Body> {
    let mut answer = refuse(status, why);
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
