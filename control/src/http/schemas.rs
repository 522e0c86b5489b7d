//! OpenAPI documents over HTTP, which `kubectl explain`, `apply` and `diff` read.
//!
//! [`crate::openapi`] writes and keeps them; here each gets an entity tag, so that a client
//! fetches it once.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::header::{ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use proa_api::Refusal;
use proa_logic::kinds::Table;

use super::api::accept;
use super::{negotiate, respond};
use crate::openapi;

/// What the stock server names its protobuf in answers; `@` is not allowed there.
const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers a path below `/openapi`.
pub fn serve(table: &Table, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    let (body, media_type) = document(table, path.trim_end_matches('/'), accept(headers))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &body);
    let tag = HeaderValue::from_str(&format!("\"{}\"", BASE64.encode(digest))).map_err(Refusal::internal)?;
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|seen| seen == tag);
    let mut response = if known {
        respond::bytes(StatusCode::NOT_MODIFIED, media_type, Bytes::new())
    } else {
        respond::bytes(StatusCode::OK, media_type, body)
    };
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn document(table: &Table, path: &str, accept: &str) -> Result<(Bytes, &'static str), Refusal> {
    if path == "/openapi/v2" && accept.contains(openapi::V2_PROTOBUF) {
        return Ok((openapi::v2(table).1, PROTOBUF_ANSWER));
    }
    if !negotiate::accepts(accept, "application/json") {
        return Err(Refusal::not_acceptable(&["application/json"]));
    }
    let body = match path {
        "/openapi/v2" => openapi::v2(table).0,
        "/openapi/v3" => openapi::v3_index(table),
        _ => {
            let name = path.strip_prefix("/openapi/v3/").ok_or_else(Refusal::no_such_path)?;
            openapi::v3(table, name).ok_or_else(Refusal::no_such_path)?
        }
    };
    Ok((body, "application/json"))
}
