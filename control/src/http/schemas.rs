//! OpenAPI documents over HTTP, which `kubectl explain`, `apply` and `diff` read.
//!
//! [`proa_kinds::openapi`] writes them from the table of kinds, which takes a while; here each is kept
//! until the table changes, with an entity tag so that a client fetches it once. Documents that
//! nobody asks for are never written: on an idle cluster there are none. What is kept is packed, a
//! tenth of its size, as nearly all clients take it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use proa_api::Refusal;
use proa_kinds::Table;

use super::negotiate;
use super::respond;
use proa_kinds::openapi;

/// The documents written so far for one table.
#[derive(Default)]
pub struct Schemas(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    table: Option<Arc<Table>>,
    documents: HashMap<Wanted, Document>,
}

/// Which document, in which encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Wanted {
    V2Json,
    V2Protobuf,
    V3Index,
    V3(String),
}

#[derive(Clone)]
struct Document {
    /// In gzip (RFC 1952).
    packed: Bytes,
    /// Of what is packed.
    tag: HeaderValue,
}

impl Schemas {
    /// Answers a path below `/openapi`.
    pub fn serve(
        &self,
        table: &Arc<Table>,
        path: &str,
        accept: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let wanted = Wanted::of(path.trim_end_matches('/'), accept)?;
        let media_type =
            if wanted == Wanted::V2Protobuf { openapi::V2_PROTOBUF_ANSWER } else { "application/json" };
        let document = self.document(table, wanted)?;
        let known = headers.get_all(IF_NONE_MATCH).iter().any(|tag| tag == document.tag);
        let mut response = if known {
            respond::bytes(StatusCode::NOT_MODIFIED, media_type, Bytes::new())
        } else if takes_gzip(headers) {
            let mut packed = respond::bytes(StatusCode::OK, media_type, document.packed);
            packed.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            packed
        } else {
            let mut body = Vec::new();
            GzDecoder::new(&document.packed[..]).read_to_end(&mut body).map_err(Refusal::internal)?;
            respond::bytes(StatusCode::OK, media_type, body)
        };
        response.headers_mut().insert(ETAG, document.tag);
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        Ok(response)
    }

    fn document(&self, table: &Arc<Table>, wanted: Wanted) -> Result<Document, Refusal> {
        // Held while a document is written: others who want it would only write it too.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.table.as_ref().is_some_and(|of| Arc::ptr_eq(of, table)) {
            *kept = Kept { table: Some(table.clone()), documents: HashMap::new() };
        }
        match &wanted {
            wanted if kept.documents.contains_key(wanted) => {}
            // The two encodings of v2 are written together.
            Wanted::V2Json | Wanted::V2Protobuf => {
                let (json, protobuf) = openapi::v2(table);
                kept.documents.insert(Wanted::V2Json, Document::new(&json)?);
                kept.documents.insert(Wanted::V2Protobuf, Document::new(&protobuf)?);
            }
            Wanted::V3Index => {
                kept.documents.insert(Wanted::V3Index, Document::new(&openapi::v3_index(table))?);
            }
            Wanted::V3(name) => {
                let body = openapi::v3(table, name).ok_or_else(Refusal::no_such_path)?;
                kept.documents.insert(wanted.clone(), Document::new(&body)?);
            }
        }
        kept.documents.get(&wanted).cloned().ok_or_else(Refusal::no_such_path)
    }
}

/// True if a client takes gzip: RFC 9110, section 12.5.3.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().trim_start_matches("q=").trim_end_matches(['0', '.']);
        let is_refused = coding.contains(';') && weight.is_empty();
        matches!(name.trim(), "gzip" | "x-gzip") && !is_refused
    })
}

impl Wanted {
    fn of(path: &str, accept: &str) -> Result<Self, Refusal> {
        if path == "/openapi/v2" && accept.contains(openapi::V2_PROTOBUF) {
            return Ok(Wanted::V2Protobuf);
        }
        if !negotiate::accepts(accept, "application/json") {
            return Err(Refusal::not_acceptable(&["application/json"]));
        }
        match path {
            "/openapi/v2" => Ok(Wanted::V2Json),
            "/openapi/v3" => Ok(Wanted::V3Index),
            _ => {
                let name = path.strip_prefix("/openapi/v3/").ok_or_else(Refusal::no_such_path)?;
                Ok(Wanted::V3(name.to_owned()))
            }
        }
    }
}

impl Document {
    fn new(body: &[u8]) -> Result<Self, Refusal> {
        let digest = ring::digest::digest(&ring::digest::SHA256, body);
        let tag = format!("\"{}\"", BASE64.encode(digest));
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        let packed = packer.write_all(body).and_then(|()| packer.finish()).map_err(Refusal::internal)?;
        Ok(Document { packed: packed.into(), tag: HeaderValue::from_str(&tag).map_err(Refusal::internal)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        for (accepts, takes) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("br;q=1.0,gzip; q=1", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("deflate", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accepts))]);
            assert_eq!(takes_gzip(&headers), takes, "{accepts:?}");
        }
    }
}
