//! Accepts connections and hands their requests to the proxy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::proxy::{Proxy, Scheme};
use crate::route::Table;
use crate::tls;

/// A client that sends no whole request head in this time is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that does not finish its TLS handshake in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may take after the end has been asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn http(listener: TcpListener, proxy: Arc<Proxy>, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    while let Some((stream, peer)) = accept(&listener, &shutdown).await {
        tokio::spawn(connection(stream, peer, Scheme::Http, Arc::clone(&proxy), graceful.watcher()));
    }
    drain(graceful).await;
}

pub async fn https(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    table: Arc<ArcSwap<Table>>,
    shutdown: CancellationToken,
) {
    let acceptor = match tls::server_config(table) {
        Ok(config) => TlsAcceptor::from(config),
        Err(error) => return tracing::error!(%error, "the ingress cannot serve HTTPS"),
    };
    let graceful = GracefulShutdown::new();
    while let Some((stream, peer)) = accept(&listener, &shutdown).await {
        let (acceptor, proxy, watcher) = (acceptor.clone(), Arc::clone(&proxy), graceful.watcher());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, peer, Scheme::Https, proxy, watcher).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            }
        });
    }
    drain(graceful).await;
}

async fn accept(listener: &TcpListener, shutdown: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return None,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Answers leave at once; if the option cannot be set they are merely slower.
                let _ = stream.set_nodelay(true);
                return Some((stream, peer));
            }
            Err(error) => {
                // Out of descriptors, most likely: connections that end make room again.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    scheme: Scheme,
    proxy: Arc<Proxy>,
    watcher: Watcher,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, Infallible>(proxy.answer(request, peer, scheme).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

async fn drain(graceful: GracefulShutdown) {
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still under way at the end");
    }
}
