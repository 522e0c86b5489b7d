//! The node's own server: HTTPS for the API server and nobody else.
//!
//! Serves the router of [`crate::server::http`]. A client must show a certificate of the cluster's CA, and
//! one that is made out to the API server: other nodes have certificates of the same CA.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proa_api::names::USER_KUBELET_CLIENT;
use proa_api::seldom::Seldom;
use proa_api::shares::{self, Share, Shares};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client::{Pair, key_material, roots};
use super::error::JoinError;
use crate::node::descriptors::{self, Allowed};

/// A client that has not shaken hands by then is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A client that has not sent its headers by then is dropped.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head; as much may be kept for every connection.
const HEADERS_BYTES: usize = 32 << 10;
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server's certificate, which may change while it runs. Until there is one, nobody gets
/// through the handshake.
#[derive(Debug, Default)]
pub struct Serving(RwLock<Option<(String, Arc<CertifiedKey>)>>);

impl Serving {
    /// Shows this certificate from now on.
    pub fn set(&self, pair: &Pair) -> Result<(), JoinError> {
        let (chain, key) = key_material(pair)?;
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider);
        let key = key.map_err(|error| JoinError::Keys(error.to_string()))?;
        let shown = (pair.cert_pem.clone(), Arc::new(key));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(())
    }

    /// True if it shows this certificate.
    pub fn has(&self, pair: &Pair) -> bool {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref().is_some_and(|(cert_pem, _)| *cert_pem == pair.cert_pem)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref().map(|(_, key)| key.clone())
    }
}

/// Serves until `shutdown`.
pub async fn run(
    listener: &TcpListener,
    ca_pem: &str,
    serving: Arc<Serving>,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), JoinError> {
    let tls = acceptor(ca_pem, serving)?;
    // More are dropped as they come. Half may be one client's, as all of the API server's come from one.
    let waiting = Allowed::of(descriptors::limit()).waiting;
    accept(listener, tls, router, Shares::new(waiting, waiting / 2), shutdown).await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    tls: TlsAcceptor,
    router: Router,
    waiting: Arc<Shares<IpAddr>>,
    shutdown: CancellationToken,
) {
    let failures = Seldom::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(waiting) = waiting.take(shares::client(peer.ip())) else {
                    tracing::debug!(%peer, "too many connections have asked nothing yet");
                    continue;
                };
                let (tls, router, shutdown) = (tls.clone(), router.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection(stream, waiting, tls, router) => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                if failures.is_due(Instant::now()) {
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn acceptor(ca_pem: &str, serving: Arc<Serving>) -> Result<TlsAcceptor, JoinError> {
    let keys = |error: &dyn std::fmt::Display| JoinError::Keys(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider.clone())
        .build()
        .map_err(|e| keys(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| keys(&e))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(stream: TcpStream, waiting: Share<IpAddr>, tls: TlsAcceptor, router: Router) {
    // Keystrokes of an exec are small and wanted at once; without it they come slower.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let is_api_server = shown.is_some_and(|der| common_name(der).as_deref() == Some(USER_KUBELET_CLIENT));
    let waiting = Mutex::new(Some(waiting));
    let service = service_fn(move |request: Request<Incoming>| {
        drop(waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        let router = router.clone();
        async move {
            if !is_api_server {
                return Ok::<_, Infallible>(forbidden());
            }
            let Ok(answer) = router.oneshot(request.map(Body::new)).await;
            Ok(answer)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(HEADERS_BYTES);
    let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended");
    }
}

fn forbidden() -> Response<Body> {
    let mut answer = Response::new(Body::from("Forbidden"));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
}

fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_nothing_keeps_nobody_out() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let tls = acceptor(&ca.pem(), Arc::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            accept(&listener, tls, Router::new(), Shares::new(8, 2), CancellationToken::new()).await;
        });
        let connect = async |from: &str, say: &[u8]| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            // It may be gone already.
            let _ = stream.write_all(say).await;
            stream
        };
        let ended = async |mut stream: TcpStream| {
            let end = async { stream.read(&mut [0; 64]).await.unwrap_or(0) };
            tokio::time::timeout(Duration::from_secs(5), end).await.expect("an answer or the end")
        };
        let silent = [connect("127.0.0.1:0", b"").await, connect("127.0.0.1:0", b"").await];
        assert_eq!(ended(connect("127.0.0.1:0", b"").await).await, 0);
        // Another is listened to: what is no TLS is answered with an alert.
        assert_ne!(ended(connect("127.0.0.2:0", b"GET / HTTP/1.1\r\n\r\n").await).await, 0);
        drop(silent);
        let room =
            async { while ended(connect("127.0.0.1:0", b"GET / HTTP/1.1\r\n\r\n").await).await == 0 {} };
        tokio::time::timeout(Duration::from_secs(5), room).await.expect("room");
    }
}
