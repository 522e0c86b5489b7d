//! Answers from behind the proxy, made fit for where the client sees them: links and redirects to
//! the target's own root lead back through the proxy, and what would speak for this server's
//! origin is left out.

use std::io::{self, Read, Write};
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use proa_api::Refusal;
use proa_api::shares::Shares;
use tokio::sync::Semaphore;

use super::headers::end_to_end;
use super::html;
use super::path::clean;
use super::turns::take;
use crate::registry::Caller;

/// Pages that are larger go through as they are.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// And those that are larger when unpacked, in bytes,
const MAX_UNPACKED_BYTES: u64 = 4 << 20;
/// or with their links changed, which are longer then.
const MAX_CHANGED_BYTES: usize = 8 << 20;

/// Pages in memory at once, of all and of one caller, from their first byte to their last.
static PAGES: LazyLock<Arc<Shares<String>>> = LazyLock::new(|| Shares::new(32, 8));
/// Pages that are being changed at once; the others wait, while all other requests go on.
static CHANGING: Semaphore = Semaphore::const_new(2);

/// By which an answer tells browsers what other origins may do with this server's.
const OF_THE_ORIGIN: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// Where the target is seen by the client.
#[derive(Clone)]
pub struct Links {
    /// `/api/v1/namespaces/NAMESPACE/services/NAME/proxy`.
    pub prefix: String,
    /// What the target and this server are called in links that are meant for them.
    pub hosts: Vec<String>,
}

impl Links {
    /// The answer as the client gets it.
    pub async fn kept_inside(
        self,
        mut response: Response<Body>,
        method: &Method,
        caller: &Caller,
    ) -> Result<Response<Body>, Refusal> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        *response.headers_mut() = end_to_end(response.headers());
        OF_THE_ORIGIN.iter().for_each(|name| drop(response.headers_mut().remove(name)));
        if let Some(to) = response.headers().get(header::LOCATION) {
            if let Some(new) = to.to_str().ok().and_then(|to| self.rewritten(to)) {
                let new = HeaderValue::from_str(&new).map_err(Refusal::internal)?;
                response.headers_mut().insert(header::LOCATION, new);
            }
            return Ok(response);
        }
        let type_ = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let bare = type_.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if bare.eq_ignore_ascii_case("text/html") && method != Method::HEAD {
            return self.page(response, caller).await;
        }
        Ok(response)
    }

    async fn page(self, response: Response<Body>, caller: &Caller) -> Result<Response<Body>, Refusal> {
        let coding = response.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        let packed = match coding {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip") => true,
            Some(_) => return Ok(response),
        };
        let share = take(&PAGES, caller)?;
        let (mut parts, body) = response.into_parts();
        let (page, rest) = begin(body).await?;
        if let Some(rest) = rest {
            let whole = stream::iter([Ok(page)]).chain(rest.into_data_stream());
            return Ok(Response::from_parts(parts, Body::from_stream(whole)));
        }
        let changed = self.changed(page, packed).await?;
        if parts.headers.contains_key(header::CONTENT_LENGTH) {
            parts.headers.insert(header::CONTENT_LENGTH, changed.len().into());
        }
        let body = Body::from(changed).map_frame(move |frame| {
            let _ = &share;
            frame
        });
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// The page with its links changed, or as it is if it is too large for that.
    async fn changed(self, page: Bytes, packed: bool) -> Result<Bytes, Refusal> {
        let _turn = CHANGING.acquire().await.map_err(Refusal::internal)?;
        let change = move || {
            let changed = if packed { self.in_gzip(&page).ok().flatten() } else { self.in_page(&page) };
            changed.unwrap_or(page)
        };
        tokio::task::spawn_blocking(change).await.map_err(Refusal::internal)
    }

    fn in_page(&self, page: &[u8]) -> Option<Bytes> {
        html::rewrite(page, MAX_CHANGED_BYTES, |link| self.rewritten(link)).map(Bytes::from)
    }

    fn in_gzip(&self, packed: &[u8]) -> io::Result<Option<Bytes>> {
        let mut page = Vec::new();
        GzDecoder::new(packed).take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut page)?;
        if page.len() as u64 > MAX_UNPACKED_BYTES {
            return Ok(None);
        }
        let Some(changed) = self.in_page(&page) else { return Ok(None) };
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&changed)?;
        Ok(Some(out.finish()?.into()))
    }

    /// The link through the proxy, of one that names the target's root or a path from there.
    fn rewritten(&self, link: &str) -> Option<String> {
        if link.chars().any(|c| c.is_control()) {
            return None;
        }
        let rest = match without_scheme(link) {
            Some(rest) => Some(rest.strip_prefix("//")?),
            None => link.strip_prefix("//"),
        };
        let path = match rest {
            Some(rest) => {
                let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                self.hosts.iter().any(|known| known == host).then_some(path)?
            }
            None => link,
        };
        let (path, tail) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        if !path.starts_with('/') {
            return None;
        }
        if path.starts_with(&self.prefix) {
            return Some(format!("{path}{tail}"));
        }
        Some(format!("{}{}{tail}", self.prefix, clean(path)))
    }
}

/// What follows `https:` and the like (RFC 3986, section 3.1).
fn without_scheme(link: &str) -> Option<&str> {
    let (scheme, rest) = link.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some(rest)
}

/// A whole body, or the beginning of one that is too large, and the rest.
async fn begin(mut body: Body) -> Result<(Bytes, Option<Body>), Refusal> {
    let mut page = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::unavailable(format!("error trying to reach service: {error}")))?;
        page.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        if page.len() > MAX_PAGE_BYTES {
            return Ok((page.freeze(), Some(body)));
        }
    }
    Ok((page.freeze(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        let hosts = vec!["10.42.0.7:80".to_owned(), "api:6443".to_owned()];
        Links { prefix: "/api/v1/namespaces/n/pods/p/proxy".to_owned(), hosts }
    }

    #[track_caller]
    fn check(link: &str, expected: &str) {
        let links = links();
        let expected = expected.replace("P/", "/api/v1/namespaces/n/pods/p/proxy/");
        assert_eq!(links.rewritten(link).unwrap_or_else(|| link.to_owned()), expected, "{link}");
    }

    #[test]
    fn links_to_the_target_stay_inside() {
        check("/", "P/");
        check("/a/b/?c=/d#e", "P/a/b/?c=/d#e");
        check("/a/../b", "P/b");
        check("a/b", "a/b");
        check("?a", "?a");
        check("#a", "#a");
        check("", "");
        check("http://10.42.0.7:80/a", "P/a");
        check("https://api:6443/a?b", "P/a?b");
        check("//api:6443/a", "P/a");
        check("http://elsewhere/a", "http://elsewhere/a");
        check("//elsewhere/a", "//elsewhere/a");
        check("mailto:a@b", "mailto:a@b");
        check("javascript:/a/", "javascript:/a/");
        check("/api/v1/namespaces/n/pods/p/proxy/a", "P/a");
        check("https://api:6443/api/v1/namespaces/n/pods/p/proxy/a", "P/a");
        check("/a\nb", "/a\nb");
    }

    async fn answer(response: Response<Body>) -> (http::response::Parts, Vec<u8>) {
        let kept = links().kept_inside(response, &Method::GET, &Caller::part("ann")).await.unwrap();
        let (parts, body) = kept.into_parts();
        (parts, body.collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn pages_also_packed_ones_and_nothing_else() {
        let page = "<a href=\"/x\">";
        let inside = "<a href=\"/api/v1/namespaces/n/pods/p/proxy/x\">";
        let html = || Response::builder().header("content-type", "text/html; charset=utf-8");
        let plain = html().header("content-length", page.len()).header("access-control-allow-origin", "*");
        let (parts, body) = answer(plain.body(page.into()).unwrap()).await;
        assert_eq!(body, inside.as_bytes());
        assert_eq!(parts.headers["content-length"], inside.len().to_string());
        assert!(!parts.headers.contains_key("access-control-allow-origin"));

        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(page.as_bytes()).unwrap();
        let packed = html().header("content-encoding", "gzip").body(packer.finish().unwrap().into());
        let (_, body) = answer(packed.unwrap()).await;
        let mut text = String::new();
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, inside);

        let other = html().header("content-encoding", "br").body("as it is".into()).unwrap();
        assert_eq!(answer(other).await.1, b"as it is");
        let other = Response::builder().header("content-type", "text/plain").body(page.into()).unwrap();
        assert_eq!(answer(other).await.1, page.as_bytes());
        let moved = Response::builder().status(302).header("location", "/login").body(Body::empty());
        let (parts, _) = answer(moved.unwrap()).await;
        assert_eq!(parts.headers["location"], "/api/v1/namespaces/n/pods/p/proxy/login");
    }

    #[tokio::test]
    async fn a_page_that_is_too_large_goes_through_as_it_is() {
        let page = "<a href=\"/x\">".repeat(400_000);
        let response =
            Response::builder().header("content-type", "text/html").body(page.clone().into()).unwrap();
        assert_eq!(answer(response).await.1, page.as_bytes());
    }

    /// 32 KiB may be 16 MiB of links when unpacked, and 120 MiB with what is added to each.
    #[tokio::test]
    async fn a_page_that_is_too_large_when_changed_goes_through_as_it_is() {
        for (links, changes) in [(16 << 17, false), (3 << 17, false), (1 << 10, true)] {
            let page = "<a href=/>".repeat(links);
            let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
            packer.write_all(page.as_bytes()).unwrap();
            let packed = packer.finish().unwrap();
            let html = Response::builder().header("content-type", "text/html");
            let response = html.header("content-encoding", "gzip").body(packed.clone().into()).unwrap();
            assert_eq!(answer(response).await.1 != packed, changes, "{links}");
        }
        assert_eq!(CHANGING.available_permits(), 2);
    }
}
