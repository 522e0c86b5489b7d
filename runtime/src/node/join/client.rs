//! `kube::Client`s over TLS, with a bearer token or a certificate.
//!
//! The certificate can be replaced under a client that is in use: requests under way and watches go
//! on over the old connections, new ones take the new.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::JoinError;

/// A server must have answered the connection by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Between signs of life on a quiet connection, so that a server that vanished is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, perhaps with those that signed it.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// By what a client is known.
#[derive(Clone)]
pub enum Credentials {
    /// A bearer token.
    Token(String),
    /// A client certificate.
    Certificate(Pair),
}

type Http = Client<HttpsConnector<HttpConnector>, kube::client::Body>;

#[derive(Clone)]
struct Current {
    http: Http,
    authorization: Option<HeaderValue>,
}

/// The way to one API server. Clones share it.
#[derive(Clone)]
pub struct Connection {
    authority: Authority,
    current: Arc<RwLock<Current>>,
}

impl Connection {
    /// Connects, when something is asked, to `https://HOST:PORT`, which must show a certificate of
    /// this CA.
    pub fn new(server: &str, ca_pem: &str, credentials: &Credentials) -> Result<Self, JoinError> {
        let current = Arc::new(RwLock::new(current(ca_pem, credentials)?));
        Ok(Connection { authority: authority(server)?, current })
    }

    /// Shows other credentials from now on.
    pub fn replace(&self, ca_pem: &str, credentials: &Credentials) -> Result<(), JoinError> {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current(ca_pem, credentials)?;
        Ok(())
    }

    /// A client. Needs a runtime.
    pub fn client(&self) -> kube::Client {
        let connection = self.clone();
        let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
            let current = connection.current.read().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(value) = current.authorization {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            *request.uri_mut() = connection.uri(request.uri());
            current.http.request(request)
        });
        kube::Client::new(service, "default")
    }

    /// The URL of a path.
    fn uri(&self, path: &Uri) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        Uri::from_parts(parts).expect("scheme, authority and path are all there")
    }
}

/// `HOST:PORT` of a server's URL.
pub(super) fn authority(server: &str) -> Result<Authority, JoinError> {
    let wrong = || JoinError::Setting(format!("--server {server:?} is not of the form https://HOST:PORT"));
    let uri: Uri = server.parse().map_err(|_| wrong())?;
    if uri.scheme() != Some(&Scheme::HTTPS) || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    uri.authority().cloned().ok_or_else(wrong)
}

fn current(ca_pem: &str, credentials: &Credentials) -> Result<Current, JoinError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_LIMIT));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls(ca_pem, credentials)?)
        .https_only()
        .enable_all_versions()
        .wrap_connector(http);
    let http = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .http2_keep_alive_while_idle(true)
        .build(https);
    let authorization = match credentials {
        Credentials::Token(token) => {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| JoinError::Setting("the token is not a token".to_owned()))?;
            value.set_sensitive(true);
            Some(value)
        }
        Credentials::Certificate(_) => None,
    };
    Ok(Current { http, authorization })
}

fn tls(ca_pem: &str, credentials: &Credentials) -> Result<ClientConfig, JoinError> {
    let keys = |error: &dyn std::fmt::Display| JoinError::Keys(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| keys(&e))?
        .with_root_certificates(roots(ca_pem)?);
    match credentials {
        Credentials::Token(_) => Ok(builder.with_no_client_auth()),
        Credentials::Certificate(pair) => {
            let (chain, key) = key_material(pair)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| keys(&e))
        }
    }
}

/// The CA as rustls wants it.
pub(super) fn roots(ca_pem: &str) -> Result<RootCertStore, JoinError> {
    let keys = |error: &dyn std::fmt::Display| JoinError::Keys(error.to_string());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| keys(&e))?)
        .map_err(|e| keys(&e))?;
    Ok(roots)
}

/// A pair as rustls wants it.
pub(super) fn key_material(
    pair: &Pair,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), JoinError> {
    let keys = |error: rustls::pki_types::pem::Error| JoinError::Keys(error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(keys)?;
    Ok((chain.map_err(keys)?, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        assert_eq!(authority("https://10.0.0.1:6443").unwrap().as_str(), "10.0.0.1:6443");
        assert_eq!(authority("https://api.example/").unwrap().as_str(), "api.example");
        for wrong in ["http://10.0.0.1:6443", "10.0.0.1:6443", "https://a/b", "https://a?b", ""] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }
}
