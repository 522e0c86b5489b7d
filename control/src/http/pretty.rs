//! Indented JSON, for people: browsers and command line tools get it unasked, others with `?pretty`.
//!
//! Works on an answer as it is about to go out. Streams are left alone.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response, Uri, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::query::Query;

/// How the names of programs begin that show an answer as it comes.
const SHOWN_BY: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// True if the client wants to read the answer itself: it says so, or is known for it.
pub fn is_wanted(uri: &Uri, headers: &HeaderMap) -> bool {
    if let Some(said) = Query::of(uri).get("pretty") {
        return matches!(said, "1" | "t" | "T" | "true" | "True" | "TRUE");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    SHOWN_BY.iter().any(|name| agent.starts_with(name))
}

/// The answer with its JSON indented, if it is JSON and there as a whole.
pub async fn print(response: Response<Body>) -> Response<Body> {
    let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = media_type.is_some_and(|value| value.split(';').next() == Some("application/json"));
    if !is_json || response.body().size_hint().exact().is_none() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It has been made already, and cannot fail.
    let json = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(Bytes::from(indent(&json))))
}

/// JSON with one member or item on a line, two blanks further in at each level.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (at, &byte) in json.iter().enumerate() {
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            out.push(byte);
            continue;
        }
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'{' | b'[' => {
                out.push(byte);
                depth += 1;
                if !matches!(json.get(at + 1), Some(b'}' | b']')) {
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !matches!(out.last(), Some(b'{' | b'[')) {
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                in_text = byte == b'"';
                out.push(byte);
            }
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_is_the_same_json_as_everybody_indents_it() {
        let value = json!({
            "a": [], "b": {}, "c": [1, {"d": null}, "x,\"y\\\\:{}[]"], "e": {"f": [[true]], "g": "\\"},
        });
        let text = indent(&serde_json::to_vec(&value).unwrap());
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), value);
        assert_eq!(String::from_utf8(text).unwrap(), serde_json::to_string_pretty(&value).unwrap() + "\n");
    }

    #[test]
    fn who_wants_it() {
        let wants = |uri: &'static str, agent: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
            is_wanted(&Uri::from_static(uri), &headers)
        };
        for (uri, agent, wanted) in [
            ("/api", "kubectl/v1.37.1", false),
            ("/api?pretty=true", "kubectl/v1.37.1", true),
            ("/api?pretty=maybe", "curl/8", false),
            ("/api?pretty=false", "Mozilla/5.0 (X11)", false),
            ("/api", "Mozilla/5.0 (X11)", true),
            ("/api", "curl/8", true),
            ("/api", "Wget/1.21", true),
        ] {
            assert_eq!(wants(uri, agent), wanted, "{uri} {agent}");
        }
    }
}
