//! Asks a registry, by the OCI distribution protocol, for what an image is made of.
//!
//! The types on the wire are `oci_client`'s. Its requests are not used for pulling, as it reads
//! manifests, tokens and error bodies whole, however long they are, and follows redirects wherever
//! they lead.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use oci_client::Reference;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::address::Kind;
use super::error::{ImageError, shown, with_causes};
use super::layout::METADATA_LIMIT_BYTES;
use super::transfer::{self, Credentials};
use super::{answer, reference};

/// So much of an error's body is looked at.
const ERROR_LIMIT_BYTES: u64 = 4 << 10;
/// No token of a token server is larger.
const TOKEN_LIMIT_BYTES: u64 = 64 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence in an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time for an answer that is read whole.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Redirects in a row that are followed.
const REDIRECTS: usize = 10;

/// User names and passwords for one repository together are no longer: registries' tokens have a few KiB.
const CREDENTIALS_LIMIT_BYTES: usize = 64 << 10;
/// So many of them are tried.
const CREDENTIALS_LIMIT: usize = 32;

/// Of credentials, those that the registry of an image is shown, the closest first. Those of other
/// registries are of no use to anybody who pulls it.
pub(super) fn credentials_for(
    reference: &Reference,
    credentials: &[Credentials],
) -> Result<Vec<Credentials>, ImageError> {
    let found = transfer::fitting(reference, credentials);
    let refused = |than: String| ImageError::Registry {
        reference: reference.whole(),
        message: format!("the credentials for {} are {than}", reference.registry()),
    };
    if found.len() > CREDENTIALS_LIMIT {
        return Err(refused(format!("more than {CREDENTIALS_LIMIT}")));
    }
    if found.iter().map(|c| c.username.len() + c.password.len()).sum::<usize>() > CREDENTIALS_LIMIT_BYTES {
        return Err(refused(format!("longer than {} KiB", CREDENTIALS_LIMIT_BYTES >> 10)));
    }
    Ok(found)
}

/// One repository of a registry, as one pull speaks to it.
pub(super) struct Registry {
    http: reqwest::Client,
    reference: Reference,
    base: Url,
    origin: Arc<Origin>,
    credentials: Option<(String, String)>,
    /// What the registry wants to see with each request, once it has asked.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// Speaks to the registry of `reference`: in plain HTTP to those on loopback, as everywhere,
    /// and to those in `insecure`; with TLS to all others.
    pub(super) fn new(
        reference: &Reference,
        credentials: Option<&Credentials>,
        insecure: &[String],
    ) -> Result<Registry, ImageError> {
        let failed = |error: &dyn std::error::Error| failure(&reference.whole(), error);
        let name = reference.resolve_registry();
        let scheme = if reference::is_plain(name, insecure) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{name}/v2/{}/", reference.repository()));
        let base = base.map_err(|error| failed(&error))?;
        let origin = Arc::new(Origin::new(&base));
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("proa/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Guard(Arc::clone(&origin))))
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Registry {
            http,
            reference: reference.clone(),
            base,
            origin,
            credentials: credentials.map(|c| (c.username.clone(), c.password.clone())),
            authorization: Mutex::default(),
        })
    }

    /// The bytes of the manifest with this tag or digest.
    pub(super) async fn manifest(&self, which: &str, accepted: &[&str]) -> Result<Vec<u8>, ImageError> {
        let response = self.get(&format!("manifests/{which}"), Some(&accepted.join(", "))).await?;
        read(response, METADATA_LIMIT_BYTES).await.map_err(|error| match error {
            ReadError::Long => ImageError::malformed(format!(
                "the manifest of {} is larger than {} MiB",
                self.reference.whole(),
                METADATA_LIMIT_BYTES >> 20
            )),
            ReadError::Failed(error) => self.failed(error),
            ReadError::Slow => self.refused("the manifest did not come in time"),
        })
    }

    /// The answer with a blob's bytes, still to be read.
    pub(super) async fn blob(&self, digest: &str) -> Result<Response, ImageError> {
        self.get(&format!("blobs/{digest}"), None).await
    }

    /// Tells of a connection that broke.
    pub(super) fn failed(&self, error: reqwest::Error) -> ImageError {
        // URLs to which a registry redirects may hold keys.
        failure(&self.reference.whole(), &error.without_url())
    }

    /// Tells of a registry that does not do as it should.
    pub(super) fn refused(&self, message: impl Into<String>) -> ImageError {
        ImageError::Registry { reference: self.reference.whole(), message: message.into() }
    }

    async fn get(&self, path: &str, accept: Option<&str>) -> Result<Response, ImageError> {
        let url = self.base.join(path).map_err(|_| self.refused("the image's name makes no URL"))?;
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = self.follow(url.clone(), accept, known).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(wanted) = self.authorize(response.headers()).await?
        {
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted.clone());
            response = self.follow(url.clone(), accept, Some(wanted)).await?;
        }
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        // A body that cannot be read says nothing more than the status does.
        let body = read_part(response, ERROR_LIMIT_BYTES).await;
        Err(answer::explain(&self.reference.whole(), &format!("GET request to {url}"), status, &body))
    }

    /// Follows redirects as far as they may lead. Credentials are for the first host only.
    async fn follow(
        &self,
        first: Url,
        accept: Option<&str>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, ImageError> {
        let mut url = first.clone();
        for _ in 0..REDIRECTS {
            self.origin.admit(&url).map_err(|message| self.refused(message))?;
            let mut request = self.http.get(url.clone());
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(authorization) = authorization.clone().filter(|_| url.origin() == first.origin()) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await;
            let response = response.map_err(|_| self.refused(format!("no answer from {}", host(&url))))?;
            let response = response.map_err(|error| self.failed(error))?;
            let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(to) = to else { return Ok(response) };
            let to = to.to_str().ok().and_then(|to| url.join(to).ok());
            url = to.ok_or_else(|| self.refused(format!("{} redirects to what is no URL", host(&url))))?;
        }
        Err(self.refused(format!("stopped after {REDIRECTS} redirects")))
    }

    /// What to send with requests, from the challenge in an answer; `None` if nothing is known
    /// that would help. <https://distribution.github.io/distribution/spec/auth/token/>
    async fn authorize(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, ImageError> {
        let texts: Vec<&str> =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let challenges = texts.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten();
        let challenges: Vec<_> = challenges.collect();
        let of_scheme =
            |scheme: &str| challenges.iter().find(|found| found.scheme.eq_ignore_ascii_case(scheme));
        let Some(bearer) = of_scheme("Bearer") else {
            return Ok(of_scheme("Basic").and(self.basic()));
        };
        let parameter = |name: &str| {
            let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let realm = parameter("realm").and_then(|realm| Url::parse(&realm).ok());
        let mut url = realm.ok_or_else(|| self.refused("the registry names no token server"))?;
        let scope = format!("repository:{}:pull", self.reference.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = parameter("service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let request = format!("GET request to {}", host(&url));
        let response = self.follow(url, None, self.basic()).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = read_part(response, ERROR_LIMIT_BYTES).await;
            return Err(answer::explain(&self.reference.whole(), &request, status, &body));
        }
        let body = read(response, TOKEN_LIMIT_BYTES).await;
        let token: Option<Token> = body.ok().and_then(|body| serde_json::from_slice(&body).ok());
        let token = token.and_then(|found| found.token.or(found.access_token));
        let value = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        value.map(Some).ok_or_else(|| self.refused("the token server gave no token"))
    }

    fn basic(&self) -> Option<HeaderValue> {
        use base64::Engine;
        let (username, password) = self.credentials.as_ref()?;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        HeaderValue::try_from(format!("Basic {pair}")).ok()
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

enum ReadError {
    /// There is more than may be.
    Long,
    Slow,
    Failed(reqwest::Error),
}

/// A whole body, if it is not longer than that.
async fn read(response: Response, limit_bytes: u64) -> Result<Vec<u8>, ReadError> {
    if response.content_length().is_some_and(|length| length > limit_bytes) {
        return Err(ReadError::Long);
    }
    let mut body = Vec::new();
    let whole = take(response, limit_bytes + 1, &mut body);
    tokio::time::timeout(ANSWER_TIMEOUT, whole)
        .await
        .map_err(|_| ReadError::Slow)?
        .map_err(ReadError::Failed)?;
    if body.len() as u64 > limit_bytes { Err(ReadError::Long) } else { Ok(body) }
}

/// The beginning of a body, as far as it comes.
async fn read_part(response: Response, limit_bytes: u64) -> Vec<u8> {
    let mut body = Vec::new();
    let _ = tokio::time::timeout(READ_TIMEOUT, take(response, limit_bytes, &mut body)).await;
    body
}

async fn take(mut response: Response, limit_bytes: u64, body: &mut Vec<u8>) -> Result<(), reqwest::Error> {
    while let Some(chunk) = response.chunk().await? {
        let left = usize::try_from(limit_bytes).unwrap_or(usize::MAX) - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if chunk.len() >= left {
            break;
        }
    }
    Ok(())
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

fn failure(reference: &str, error: &dyn std::error::Error) -> ImageError {
    ImageError::Registry { reference: reference.to_owned(), message: shown(&with_causes(error)) }
}

/// The registry that a pull began with, and what its kind of address allows.
struct Origin {
    url: Url,
    kind: OnceLock<Kind>,
    /// Hosts of the proxies that the environment names; the administrator's choice.
    proxies: Vec<String>,
}

impl Origin {
    fn new(url: &Url) -> Origin {
        let origin = Origin { url: url.clone(), kind: OnceLock::new(), proxies: proxies() };
        if let Some(ip) = literal(url) {
            // There is no other: it was made a line above.
            let _ = origin.kind.set(Kind::of(ip));
        }
        origin
    }

    /// The kind; public while it is unknown, which allows least of what others reach.
    fn kind(&self) -> Kind {
        self.kind.get().copied().unwrap_or(Kind::Public)
    }

    /// Refuses a URL that this registry must not lead to, as far as its text tells.
    fn admit(&self, url: &Url) -> Result<(), String> {
        if url.origin() == self.url.origin() {
            return Ok(());
        }
        if url.scheme() != "https" && (url.scheme() != "http" || self.url.scheme() != "http") {
            return Err(format!("the registry leads from TLS to {}://{}", url.scheme(), host(url)));
        }
        // The same name on another port is another service: on this machine, of somebody else.
        let from = self.kind();
        if url.host_str() == self.url.host_str() && !matches!(from, Kind::Public | Kind::Private) {
            return Err(crossing(url.host_str().unwrap_or_default(), from, from));
        }
        match literal(url).map(Kind::of) {
            Some(to) if !from.may_lead_to(to) => Err(crossing(&host(url), from, to)),
            _ => Ok(()),
        }
    }

    /// Of the addresses of a name, those that this registry may lead to.
    fn fitting(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
        if self.url.host_str() == Some(name) {
            if let Some(most) = found.iter().map(|address| Kind::of(address.ip())).min() {
                // Of two lookups the first counts: a name cannot change sides in between.
                let kind = *self.kind.get_or_init(|| most);
                return Ok(found.into_iter().filter(|a| Kind::of(a.ip()) == kind).collect());
            }
            return Ok(found);
        }
        if self.proxies.iter().any(|proxy| proxy == name) {
            return Ok(found);
        }
        let from = self.kind();
        let (fit, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|a| from.may_lead_to(Kind::of(a.ip())));
        match others.first() {
            Some(other) if fit.is_empty() => Err(crossing(name, from, Kind::of(other.ip()))),
            _ => Ok(fit),
        }
    }
}

fn crossing(host: &str, from: Kind, to: Kind) -> String {
    let (from, to) = (from.name(), to.name());
    format!("the registry, at a {from} address, leads to {host}, at a {to} address: not followed")
}

/// The address that a URL spells out.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The environment of a proxy, as everywhere.
pub(super) const PROXY_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

fn proxies() -> Vec<String> {
    let values = PROXY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
    values.filter_map(|value| proxy_host(&value)).collect()
}

/// The host of a proxy, whose scheme may be left out.
fn proxy_host(value: &str) -> Option<String> {
    let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Some(Url::parse(&url).ok()?.host_str()?.to_owned())
}

/// Resolves names to the addresses that the registry may lead to.
struct Guard(Arc<Origin>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let origin = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let fitting = origin.fitting(name.as_str(), found)?;
            Ok(Box::new(fitting.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str, ip: &str) -> Origin {
        let origin = Origin::new(&Url::parse(url).unwrap());
        let host = host(&origin.url);
        let _ = origin.fitting(&host, vec![SocketAddr::new(ip.parse().unwrap(), 0)]).unwrap();
        origin
    }

    #[test]
    fn only_the_credentials_of_its_registry_are_sent() {
        let of = |registry: &str, password: &str| Credentials {
            registry: registry.to_owned(),
            username: "u".to_owned(),
            password: password.to_owned(),
        };
        let find = |name: &str, all: &[Credentials]| -> Result<Vec<String>, String> {
            let found = credentials_for(&reference::parse(name).unwrap(), all);
            let passwords = |found: Vec<Credentials>| found.into_iter().map(|c| c.password).collect();
            found.map(passwords).map_err(|error| error.to_string())
        };
        let long = "x".repeat(1 << 20);
        let all = [
            of("other.example", &long),
            of("*.example", "any"),
            of("r.example", "first"),
            of("r.example/b", "of b"),
            of("r.example", "second"),
            of("r.example/a", "of a"),
        ];
        let of_a = ["of a", "first", "second", "any"].map(str::to_owned).to_vec();
        assert_eq!(find("r.example/a:1", &all), Ok(of_a));
        assert_eq!(find("nobody.here/a:1", &all), Ok(Vec::new()));
        let many = vec![of("r.example", "p"); CREDENTIALS_LIMIT + 1];
        assert!(find("r.example/a:1", &many).unwrap_err().contains("are more than 32"));
        assert!(find("other.example/a:1", &all).unwrap_err().contains("longer than 64 KiB"));
    }

    #[test]
    fn a_proxy_needs_no_scheme() {
        for (value, host) in [
            ("http://proxy.corp:3128", "proxy.corp"),
            ("proxy.corp:3128", "proxy.corp"),
            ("user:pw@10.0.0.1:80", "10.0.0.1"),
        ] {
            assert_eq!(proxy_host(value).as_deref(), Some(host));
        }
    }

    #[test]
    fn redirects_stay_with_their_kind() {
        for (from, at, to, admitted) in [
            ("https://r.example/", "1.1.1.1", "https://cdn.example/blob", true),
            ("https://r.example/", "1.1.1.1", "http://cdn.example/blob", false),
            ("https://r.example/", "1.1.1.1", "https://r.example:8443/blob", true),
            ("https://r.example/", "1.1.1.1", "https://127.0.0.1/", false),
            ("https://r.example/", "1.1.1.1", "https://[::1]/", false),
            ("https://r.example/", "1.1.1.1", "https://10.43.0.1/", false),
            ("https://r.example/", "1.1.1.1", "https://169.254.169.254/latest", false),
            ("https://r.example/", "10.0.0.5", "https://s3.example/", true),
            ("https://r.example/", "10.0.0.5", "https://10.0.0.6/", true),
            ("https://r.example/", "10.0.0.5", "https://169.254.169.254/", false),
            ("http://127.0.0.1:5000/", "127.0.0.1", "http://127.0.0.1:5000/v2/x", true),
            ("http://127.0.0.1:5000/", "127.0.0.1", "http://127.0.0.1:10250/pods", false),
            ("http://127.0.0.1:5000/", "127.0.0.1", "http://[::1]:5000/", false),
            ("http://localhost:5000/", "127.0.0.1", "http://localhost:9999/", false),
            ("http://127.0.0.1:5000/", "127.0.0.1", "file:///etc/passwd", false),
        ] {
            let admits = origin(from, at).admit(&Url::parse(to).unwrap());
            assert_eq!(admits.is_ok(), admitted, "{from} to {to}: {admits:?}");
        }
    }

    #[test]
    fn names_do_not_lead_where_addresses_may_not() {
        let at = |ips: &[&str]| -> Vec<SocketAddr> {
            ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()
        };
        let public = origin("https://r.example/", "1.1.1.1");
        assert_eq!(public.fitting("cdn", at(&["127.0.0.1", "2.2.2.2"])), Ok(at(&["2.2.2.2"])));
        let error = public.fitting("inner", at(&["127.0.0.1"])).unwrap_err();
        assert!(error.contains("public address, leads to inner, at a loopback address"), "{error}");
        // The registry's own name, looked up again, is held to what it was.
        assert_eq!(public.fitting("r.example", at(&["127.0.0.1"])), Ok(Vec::new()));
        let local = origin("http://localhost:5000/", "127.0.0.1");
        assert!(local.fitting("other.example", at(&["127.0.0.1"])).is_err());
    }
}
