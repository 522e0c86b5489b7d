//! A request's path, as it is matched and as it is sent on.
//!
//! Pure. What a route lets through must be what the endpoint gets to see, however that reads a path:
//!
//! - dot segments are resolved (RFC 3986, section 5.2.4), also where a dot is written `%2e`;
//! - what is matched is decoded, and several slashes in a row count as one;
//! - what servers read differently is refused: an encoded slash or backslash, a backslash, control
//!   characters and NUL, escapes that are none, and dot segments with a parameter (`..;`).

use std::borrow::Cow;

/// One path in two forms.
#[derive(Debug, PartialEq)]
pub struct Target<'a> {
    /// Encoded as the client sent it, without dot segments.
    pub sent: Cow<'a, str>,
    /// Decoded, without dot segments and empty segments.
    pub matched: Vec<u8>,
}

const NO_PATH: &str = "the request's target is no path";
const BAD_ESCAPE: &str = "the request's path has an escape that is none";
const BACKSLASH: &str = "the request's path has a backslash";
const ENCODED_SLASH: &str = "the request's path has an encoded slash or backslash";
const CONTROL: &str = "the request's path has a control character";
const DOTS: &str = "the request's path has a dot segment with a parameter";
const MADE_DOTS: &str = "the request's path has a dot segment where it is rewritten";

/// Reads the path of a request's target.
///
/// # Errors
/// Why the request is refused, with 400.
pub fn target(path: &str) -> Result<Target<'_>, &'static str> {
    // `OPTIONS *` asks the server itself.
    if path == "*" {
        return Ok(Target { sent: path.into(), matched: b"*".to_vec() });
    }
    let rest = path.strip_prefix('/').ok_or(NO_PATH)?;
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'%' && b != b'\\';
    if path.bytes().all(is_plain) && !path.contains("//") && !path.contains("/.") {
        return Ok(Target { sent: path.into(), matched: path.as_bytes().to_vec() });
    }
    let mut kept: Vec<(&str, Vec<u8>)> = Vec::new();
    // The last segment, where it is a dot segment, leaves its slash behind.
    let mut ends_open = false;
    for segment in rest.split('/') {
        let decoded = decode(segment)?;
        let bare = decoded.split(|b| *b == b';').next().unwrap_or_default();
        let is_dots = matches!(bare, b"." | b"..");
        if is_dots && bare.len() != decoded.len() {
            return Err(DOTS);
        }
        ends_open = is_dots;
        match bare {
            b".." => drop(kept.pop()),
            b"." => {}
            _ => kept.push((segment, decoded)),
        }
    }
    if ends_open {
        kept.push(("", Vec::new()));
    }
    let sent: String = kept.iter().flat_map(|(segment, _)| ["/", segment]).collect();
    let last = kept.len().saturating_sub(1);
    let mut matched = Vec::with_capacity(path.len());
    for (at, (_, decoded)) in kept.iter().enumerate() {
        if at == last || !decoded.is_empty() {
            matched.push(b'/');
            matched.extend_from_slice(decoded);
        }
    }
    Ok(Target { sent: sent.into(), matched })
}

/// A path put together of decoded pieces, as it is sent: read like one that a client sends, but that dot
/// segments, which would lead out of what the first pieces say, are refused.
///
/// # Errors
/// Why the request is refused, with 400.
pub fn encode(decoded: &[u8]) -> Result<String, &'static str> {
    let mut encoded = String::with_capacity(decoded.len());
    for byte in decoded {
        match byte {
            // RFC 3986, section 3.3: what a segment may hold as it is.
            b if b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(b) => {
                encoded.push(char::from(*b));
            }
            b => encoded.push_str(&format!("%{b:02X}")),
        }
    }
    if decoded.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b"..")) {
        return Err(MADE_DOTS);
    }
    target(&encoded).map(|target| target.sent.into_owned())
}

fn decode(segment: &str) -> Result<Vec<u8>, &'static str> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            match byte {
                b'\\' => return Err(BACKSLASH),
                b if b.is_ascii_control() => return Err(CONTROL),
                b => decoded.push(b),
            }
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(BAD_ESCAPE) };
        match (high * 16 + low) as u8 {
            b'/' | b'\\' => return Err(ENCODED_SLASH),
            b if b.is_ascii_control() => return Err(CONTROL),
            b => decoded.push(b),
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_matched_is_what_is_sent() {
        for (path, sent, matched) in [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("/a/b/", "/a/b/", "/a/b/"),
            ("/pub/../admin", "/admin", "/admin"),
            ("/pub/%2e%2e/admin", "/admin", "/admin"),
            ("/pub/.%2E/admin", "/admin", "/admin"),
            ("/pub/%2e/x", "/pub/x", "/pub/x"),
            ("/pub//../admin", "/pub/admin", "/pub/admin"),
            ("/../../etc", "/etc", "/etc"),
            ("/a/..", "/", "/"),
            ("/a/b/.", "/a/b/", "/a/b/"),
            ("/..", "/", "/"),
            ("/a/...", "/a/...", "/a/..."),
            ("/a.b/.c", "/a.b/.c", "/a.b/.c"),
            ("//admin", "//admin", "/admin"),
            ("/x/https://e/", "/x/https://e/", "/x/https:/e/"),
            ("/%61dmin", "/%61dmin", "/admin"),
            ("/a%20b;v=1", "/a%20b;v=1", "/a b;v=1"),
            ("/%252e%252e/x", "/%252e%252e/x", "/%2e%2e/x"),
            ("*", "*", "*"),
        ] {
            let target = target(path).unwrap();
            assert_eq!((&*target.sent, target.matched), (sent, matched.as_bytes().to_vec()), "{path}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for (path, why) in [
            ("", NO_PATH),
            ("a/b", NO_PATH),
            ("/a%2fb", ENCODED_SLASH),
            ("/a%2Fb", ENCODED_SLASH),
            ("/a%5cb", ENCODED_SLASH),
            ("/a\\b", BACKSLASH),
            ("/a%00", CONTROL),
            ("/a%0d%0ab", CONTROL),
            ("/a%7f", CONTROL),
            ("/a%", BAD_ESCAPE),
            ("/a%2", BAD_ESCAPE),
            ("/a%zz", BAD_ESCAPE),
            ("/pub/..;/admin", DOTS),
            ("/pub/%2e%2e;x=1/admin", DOTS),
            ("/.;/admin", DOTS),
        ] {
            assert_eq!(target(path), Err(why), "{path}");
        }
    }

    #[test]
    fn what_is_put_together_is_encoded_and_has_no_dots() {
        for (decoded, sent) in [
            ("/a b", Ok("/a%20b")),
            ("/a/../b", Err(MADE_DOTS)),
            ("/a/..", Err(MADE_DOTS)),
            ("/a/./b", Err(MADE_DOTS)),
            ("/a/...", Ok("/a/...")),
            ("/a%2e%2e", Ok("/a%252e%252e")),
            ("/é?#%", Ok("/%C3%A9%3F%23%25")),
            ("//a", Ok("//a")),
            ("/..;/a", Err(DOTS)),
            ("", Err(NO_PATH)),
        ] {
            assert_eq!(encode(decoded.as_bytes()).as_deref(), sent.as_ref().copied(), "{decoded}");
        }
    }
}
