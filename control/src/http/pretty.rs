//! Indented JSON, for people: browsers and command line tools get it unasked, others with `?pretty`.
//!
//! Works on an answer as it is about to go out. Streams, what a proxy brings and what is too long to
//! be read are left alone.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response, Uri, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::query::Query;

/// How the names of programs begin that show an answer as it comes.
const SHOWN_BY: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// The longest answer that is indented, before and after.
const MAX_BYTES: usize = 4 << 20;

/// The mark of [`leave`].
#[derive(Clone)]
struct Left;

/// True if the client wants to read the answer itself: it says so, or is known for it.
pub fn is_wanted(uri: &Uri, headers: &HeaderMap) -> bool {
    if let Some(said) = Query::of(uri).unwrap_or_default().get("pretty") {
        return matches!(said, "1" | "t" | "T" | "true" | "True" | "TRUE");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    SHOWN_BY.iter().any(|name| agent.starts_with(name))
}

/// Marks an answer that is somebody else's: it goes out as it came.
pub fn leave(mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Left);
    response
}

/// True for an answer with the mark of [`leave`].
pub fn is_left(response: &Response<Body>) -> bool {
    response.extensions().get::<Left>().is_some()
}

/// The answer with its JSON indented, if it is JSON and there as a whole, and not too much of it.
pub async fn print(response: Response<Body>) -> Response<Body> {
    let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = media_type.is_some_and(|value| value.split(';').next() == Some("application/json"));
    let fits = response.body().size_hint().exact().is_some_and(|bytes| bytes <= MAX_BYTES as u64);
    if !is_json || is_left(&response) || !fits {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It has been made already, and cannot fail.
    let json = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Some(indented) = indent(&json) else { return Response::from_parts(parts, Body::from(json)) };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(Bytes::from(indented)))
}

/// JSON with one member or item on a line, two blanks further in at each level. `None` if that is
/// more than [`MAX_BYTES`]: what is deep inside gets most of its length from the blanks.
fn indent(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (at, &byte) in json.iter().enumerate() {
        if out.len() > MAX_BYTES {
            return None;
        }
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
    Some(out)
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
        let text = indent(&serde_json::to_vec(&value).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), value);
        assert_eq!(String::from_utf8(text).unwrap(), serde_json::to_string_pretty(&value).unwrap() + "\n");
    }

    async fn printed(text: &str, mark: fn(Response<Body>) -> Response<Body>) -> String {
        let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
        let answer = mark(answer.body(Body::from(text.to_owned())).unwrap());
        let body = print(answer).await.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_is_long_or_becomes_long_stays_as_it_is() {
        let as_made = |answer| answer;
        assert_eq!(printed("[1,2]", as_made).await, "[\n  1,\n  2\n]\n");
        let items = |text: &str, count: usize| vec![text; count].join(",");
        let deep = format!("{}{}{}", "[".repeat(120), items("1", 50_000), "]".repeat(120));
        for text in [format!("[{}]", items("\"0123456789\"", 400_000)), deep, "[".repeat(10_000)] {
            assert!(printed(&text, as_made).await == text, "{} bytes", text.len());
        }
    }

    #[tokio::test]
    async fn what_a_proxy_brings_stays_as_it_is() {
        assert_eq!(printed("[1,2]", leave).await, "[1,2]");
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
