//! Which headers of a request go along.
//!
//! Pure. What says to this server who somebody is stays here: a pod must not be able to be them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Of one connection only (RFC 9110, section 7.6.1).
const OF_ONE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// By which clients say who they are or want to be seen as, and what is this cluster's own.
const SECRET: [&str; 4] = ["authorization", "impersonate-", "x-remote-", "proa-"];

/// The headers for the target.
pub fn forwarded(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = end_to_end(headers);
    for name in headers.keys() {
        // Many servers take `X_Remote_User` for `X-Remote-User`.
        let read = name.as_str().replace('_', "-");
        if SECRET.iter().any(|secret| read.starts_with(secret)) {
            out.remove(name);
        }
    }
    out.remove(header::HOST);
    // It has been answered here.
    out.remove(header::EXPECT);
    join_cookies(headers, &mut out);
    if upgrade && let Some(protocol) = headers.get(header::UPGRADE) {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, protocol.clone());
    }
    out
}

/// Adds the client to those on whose behalf this is asked.
pub fn add_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let name = HeaderName::from_static("x-forwarded-for");
    let mut all: Vec<String> =
        headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    all.push(client.to_string());
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(name, value);
    }
}

/// Without what concerns one connection only, by rule or because it is named there.
pub fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut out = headers.clone();
    for value in headers.get_all(header::CONNECTION) {
        let named = value.to_str().unwrap_or_default().split(',');
        named.for_each(|name| drop(out.remove(name.trim())));
    }
    OF_ONE_CONNECTION.iter().for_each(|name| drop(out.remove(name)));
    out
}

/// HTTP/2 clients may send them apart, for which HTTP/1.1 has no form (RFC 9113, section 8.2.3).
fn join_cookies(headers: &HeaderMap, out: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        out.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: &[(&str, &str)], upgrade: bool, expected: &[(&str, &str)]) {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let out = forwarded(&headers, upgrade);
        let mut found: Vec<(&str, &str)> =
            out.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_asks_stays_here() {
        check(
            &[
                ("authorization", "Bearer t"),
                ("proxy-authorization", "Basic x"),
                ("impersonate-user", "root"),
                ("impersonate-extra-a", "b"),
                ("x-remote-user", "root"),
                ("x-remote-extra-a", "b"),
                ("x_remote_user", "root"),
                ("impersonate_user", "root"),
                ("x-remote_group", "system:masters"),
                ("proa-proxy-host", "x"),
                ("host", "10.0.0.1:6443"),
                ("accept", "text/html"),
            ],
            false,
            &[("accept", "text/html")],
        );
    }

    #[test]
    fn what_is_of_one_connection_stays_there() {
        let sent =
            [("connection", "keep-alive, X-Mine"), ("x-mine", "1"), ("upgrade", "h2c"), ("te", "gzip")];
        check(&sent, false, &[]);
        check(
            &[("cookie", "a=1"), ("cookie", "b=2"), ("x-a", "1"), ("x-a", "2")],
            false,
            &[("cookie", "a=1; b=2"), ("x-a", "1"), ("x-a", "2")],
        );
        check(
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "chat, other")],
            true,
            &[("connection", "Upgrade"), ("sec-websocket-protocol", "chat, other"), ("upgrade", "websocket")],
        );
    }
}
