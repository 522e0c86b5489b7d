//! Accepts connections and hands their requests to the proxy.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use proa_api::shares::{Room, Share};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use crate::answer::refuse;
use crate::body::Held;
use crate::proxy::{Proxy, Scheme};
use crate::tls::{self, ByServerName};

/// How long clients may take, and how many may.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To send a whole request head, the first or the next one, before the connection is dropped.
    pub head: Duration,
    /// To go on with a request's body that is not answered yet, or with reading what is sent to them.
    pub silence: Duration,
    /// To finish a TLS handshake before the connection is dropped.
    pub handshake: Duration,
    /// For requests under way to end after the end has been asked for.
    pub drain: Duration,
    /// Connections of clients; a quarter of them may be one client's. More are dropped as they come.
    pub open: usize,
    /// The same of those that have asked nothing yet, from their first byte on.
    pub waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Limits {
            head: seconds(30),
            silence: seconds(60),
            handshake: seconds(10),
            drain: seconds(5),
            open: 16 << 10,
            waiting: 2048,
        }
    }
}

/// Headers that are read of a request over HTTP/1.1; the proxy says what is too many.
const HEADERS: usize = 128;
/// Most bytes of a request's head; as much may be kept for every connection.
const HEADERS_BYTES: usize = 32 << 10;
/// Bytes of requests' bodies that may be under way on one connection over HTTP/2: what an endpoint does not
/// take waits here.
const WINDOW: u32 = 128 << 10;
/// Bytes of an answer over HTTP/2 that wait to be taken by the client.
const SEND_BUFFER: usize = 16 << 10;
/// Why a connection is dropped as it comes.
const TOO_MANY: &str = "too many connections are open, or have asked nothing yet";
/// An HTTP/2 client that is silent is asked this often whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often at most such a failure is said.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// A client's connection as it came in.
struct Client {
    peer: SocketAddr,
    scheme: Scheme,
    /// Held until something is asked.
    waiting: Share<IpAddr>,
    /// What its connections take of, and its requests over HTTP/2, each of which may be a connection to an
    /// endpoint.
    room: Room,
}

/// What the loops of both listeners share, however often they are started.
pub struct Serving {
    proxy: Arc<Proxy>,
    limits: Limits,
    room: Room,
    graceful: GracefulShutdown,
    shutdown: CancellationToken,
}

impl Serving {
    /// Nobody is served yet.
    pub fn new(proxy: Arc<Proxy>, limits: Limits, shutdown: CancellationToken) -> Self {
        let room = Room::new(limits.open, limits.waiting);
        Serving { proxy, limits, room, graceful: GracefulShutdown::new(), shutdown }
    }

    /// Accepts connections until the end is asked for.
    pub async fn http(&self, listener: &TcpListener) {
        while let Some((stream, client)) = self.accept(listener, Scheme::Http).await {
            tokio::spawn(connection(
                stream,
                client,
                Arc::clone(&self.proxy),
                self.limits,
                self.graceful.watcher(),
            ));
        }
    }

    /// Accepts connections until the end is asked for.
    pub async fn https(
        &self,
        listener: &TcpListener,
        certificates: ByServerName,
    ) -> Result<(), rustls::Error> {
        let acceptor = TlsAcceptor::from(tls::server_config(certificates)?);
        let limits = self.limits;
        while let Some((stream, client)) = self.accept(listener, Scheme::Https).await {
            let (acceptor, proxy) = (acceptor.clone(), Arc::clone(&self.proxy));
            let (watcher, peer) = (self.graceful.watcher(), client.peer);
            tokio::spawn(async move {
                match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, client, proxy, limits, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
                }
            });
        }
        Ok(())
    }

    /// Waits for the requests that are under way.
    pub async fn drain(self) {
        if tokio::time::timeout(self.limits.drain, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests were still under way at the end");
        }
    }

    /// The next connection that there is room for.
    async fn accept(
        &self,
        listener: &TcpListener,
        scheme: Scheme,
    ) -> Option<(impl AsyncRead + AsyncWrite + Unpin + Send + use<>, Client)> {
        let mut said = None;
        loop {
            let (stream, peer) = accept(listener, &self.shutdown, &mut said).await?;
            let Some(guest) = self.room.take(peer.ip()) else {
                tracing::debug!(%peer, "{TOO_MANY}");
                continue;
            };
            let client = Client { peer, scheme, waiting: guest.waiting, room: self.room.clone() };
            return Some((counted(patient(stream, self.limits.silence), guest.open), client));
        }
    }
}

/// A connection that the kernel ends when its other side takes nothing for so long while there is something
/// for it to take (RFC 793 section 3.8, the user timeout).
fn patient(stream: TcpStream, silence: Duration) -> TcpStream {
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(silence)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
    }
    stream
}

/// A connection that takes its share as long as it is there, whatever it becomes.
fn counted(stream: TcpStream, share: Share<IpAddr>) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
    InspectReader::new(stream, move |_: &[u8]| {
        let _ = &share;
    })
}

/// The next connection. `said` is when it was last said that none can be accepted.
async fn accept(
    listener: &TcpListener,
    shutdown: &CancellationToken,
    said: &mut Option<Instant>,
) -> Option<(TcpStream, SocketAddr)> {
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
                if said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
                    tracing::warn!(%error, "cannot accept connections");
                    *said = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    proxy: Arc<Proxy>,
    limits: Limits,
    watcher: Watcher,
) {
    let Client { peer, scheme, waiting, room } = client;
    let asked = CancellationToken::new();
    let ended = proxy.ended().clone();
    let service = {
        let asked = asked.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            asked.cancel();
            let proxy = Arc::clone(&proxy);
            let share = (request.version() == Version::HTTP_2).then(|| room.take_request(peer.ip()));
            async move {
                if matches!(share, Some(None)) {
                    let why = "too many requests of this client are under way";
                    return Ok(refuse(StatusCode::TOO_MANY_REQUESTS, why));
                }
                let answer = proxy.answer(request, peer, scheme).await;
                Ok::<_, Infallible>(match share.flatten() {
                    Some(share) => answer.map(|body| Held::new(body, share).boxed()),
                    None => answer,
                })
            }
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(HEADERS)
        .max_buf_size(HEADERS_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(HEADERS_BYTES as u32)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    // The limit of the HTTP/1.1 side begins only when the first bytes have told the version.
    let silent = async {
        if tokio::time::timeout(limits.head, asked.cancelled()).await.is_ok() {
            drop(waiting);
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = watcher.watch(connection) => if let Err(error) = served {
            tracing::debug!(%peer, %error, "connection ended early");
        },
        () = silent => tracing::debug!(%peer, "no request came in time"),
        () = ended.cancelled() => {}
    }
}
