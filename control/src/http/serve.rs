//! TLS connections: accepted, shaken hands with, and served until the client goes or the server
//! stops.
//!
//! Each connection is a task of its own, so that whatever happens in one stays there.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Api;
use super::authenticate::certificate_caller;

/// A client that has not shaken hands by then is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A client that has not sent its headers by then is dropped.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// Between signs of life on quiet connections, so that dead ones are noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Requests under way on one HTTP/2 connection; watches count for as long as they run.
const MAX_STREAMS: u32 = 1000;
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests that are under way when the server stops get this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The address of a request's client.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves connections of one listener until the server stops, then waits for those under way.
pub async fn listen(listener: TcpListener, tls: TlsAcceptor, api: Arc<Api>) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = Peer(peer.ip().to_canonical());
                tokio::spawn(connection(stream, peer, tls.clone(), api.clone(), graceful.watcher()));
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy when the server stopped");
    }
}

async fn connection(stream: TcpStream, peer: Peer, tls: TlsAcceptor, api: Arc<Api>, watcher: Watcher) {
    // Answers are small and wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    // A stream that has been taken over may be quiet for hours, or its client's machine gone.
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_INTERVAL).with_interval(KEEP_ALIVE_INTERVAL);
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keep_alive) {
        tracing::debug!(%error, "TCP keep-alive not set");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = shown.and_then(|certificate| certificate_caller(certificate));
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, caller) = (api.clone(), caller.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            Ok::<_, Infallible>(Box::pin(super::answer(api, request)).await)
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS);
    let served =
        watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended");
    }
}
