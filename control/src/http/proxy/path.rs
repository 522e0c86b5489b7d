//! The path behind `…/proxy`: taken from what was asked, tidied, and written again.
//!
//! Pure. It is decoded once and dot segments are resolved before it is sent, so that what the
//! target sees lies below its own root and under the prefix that was authorized.

use super::super::path::ResourcePath;

/// What precedes the target's own paths.
pub fn prefix(path: &ResourcePath) -> String {
    let namespace = path.namespace.as_deref().map(|name| format!("namespaces/{name}/")).unwrap_or_default();
    let name = path.name.as_deref().unwrap_or_default();
    format!("/api/{}/{namespace}{}/{}/proxy", path.version, escape(&path.plural), escape(name))
}

/// The decoded path below the prefix: empty, or one that begins with a slash. It ends with a slash
/// if what was asked does.
pub fn below(asked: &str, rest: &str) -> String {
    let slash = if asked.ends_with('/') { "/" } else { "" };
    if rest.is_empty() { slash.to_owned() } else { clean(&format!("/{rest}{slash}")) }
}

/// Resolves `.`, `..` and doubled slashes of an absolute path; a slash at its end stays.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut out = format!("/{}", parts.join("/"));
    if path.ends_with('/') && !out.ends_with('/') {
        out.push('/');
    }
    out
}

/// Percent-encodes what may not stand in a path (RFC 3986, section 3.3, without the marks that
/// Go encodes too).
pub fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::path::{Route, parse};
    use super::*;

    #[track_caller]
    fn check(asked: &str, prefixed: &str, expected: &str) {
        let Some(Route::Resource(path)) = parse(asked) else { panic!("{asked} is not about objects") };
        assert!(super::super::is_asked(&path), "{asked}");
        assert_eq!(
            (prefix(&path).as_str(), escape(&below(asked, &path.rest)).as_str()),
            (prefixed, expected)
        );
    }

    #[test]
    fn paths_stay_below_the_target() {
        let pod = "/api/v1/namespaces/a/pods/http:b:80/proxy";
        check(pod, pod, "");
        check(&format!("{pod}/"), pod, "/");
        check(&format!("{pod}/x//y/./z/"), pod, "/x/y/z/");
        check(&format!("{pod}/x/../../../../etc"), pod, "/etc");
        check(&format!("{pod}/%2e%2e/a%2f..%2fb"), pod, "/b");
        check(&format!("{pod}/a%20b%3Fc%25/d+e;f"), pod, "/a%20b%3Fc%25/d+e;f");
        check("/api/v1/nodes/n/proxy/pods", "/api/v1/nodes/n/proxy", "/pods");
        check("/api/v1/namespaces/a/services/b/proxy/c/d", "/api/v1/namespaces/a/services/b/proxy", "/c/d");
    }
}
