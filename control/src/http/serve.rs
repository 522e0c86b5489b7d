//! TLS connections: accepted, shaken hands with, and served until the client goes or the server
//! stops.
//!
//! Each connection is a task of its own, so that whatever happens in one stays there.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use proa_api::seldom::Seldom;
use proa_api::shares::{Guest, Room, Share};
use proa_supervise::{Task, keep};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::authenticate::certificate_caller;
use super::held::SLICE_BYTES;
use super::peer::Peer;
use super::unread::{Answers, UNREAD_LIMIT};

/// A client that has not shaken hands by then is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A client that has not sent its headers by then, or nothing at all, is dropped.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head; as much may be kept for every connection.
const HEADERS_BYTES: usize = 32 << 10;
/// Bytes of one request's body over HTTP/2 that may be under way, and of all on one connection.
const WINDOWS: (u32, u32) = (128 << 10, 256 << 10);
/// Between signs of life on quiet connections, so that dead ones are noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Requests under way on one HTTP/2 connection; watches count for as long as they run.
const MAX_STREAMS: u32 = 250;
/// Connections that have asked nothing yet; more are dropped as they come.
const MAX_WAITING: usize = 2048;
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests that are under way when the server stops get this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Room for so many connections of all listeners.
pub fn room(connections: usize) -> Room {
    Room::new(connections, MAX_WAITING.min(connections))
}

/// Serves connections of one listener until the server stops, then waits for those under way.
pub async fn listen(listener: TcpListener, tls: TlsAcceptor, api: Arc<Api>, room: Room) {
    let graceful = GracefulShutdown::new();
    let task = Task { component: "kube-apiserver", name: "api" };
    keep(task, &api.shutdown, || accept(&listener, &tls, &api, &room, &graceful)).await;
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy when the server stopped");
    }
}

async fn accept(
    listener: &TcpListener,
    tls: &TlsAcceptor,
    api: &Arc<Api>,
    room: &Room,
    graceful: &GracefulShutdown,
) {
    let failures = Seldom::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = Peer(peer.ip().to_canonical());
                let Some(guest) = room.take(peer.0) else {
                    tracing::debug!(peer = %peer.0, "too many connections are open, or have asked nothing yet");
                    continue;
                };
                tokio::spawn(connection(stream, peer, guest, tls.clone(), api.clone(), graceful.watcher()));
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

async fn connection(
    stream: TcpStream,
    peer: Peer,
    guest: Guest,
    tls: TlsAcceptor,
    api: Arc<Api>,
    watcher: Watcher,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "socket options not set");
    }
    let Guest { open, waiting } = guest;
    // It counts as long as it is there, whatever it becomes.
    let stream = InspectReader::new(stream, move |_: &[u8]| {
        let _ = &open;
    });
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
    requests(stream, service, waiting, watcher, HEADER_LIMIT).await;
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    // Answers are small and wanted at once.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNREAD_LIMIT))?;
    // A stream that has been taken over may be quiet for hours, or its client's machine gone.
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_INTERVAL).with_interval(KEEP_ALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive)
}

/// Serves what is asked over a connection. One over which nothing is asked in time is dropped.
async fn requests<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    waiting: Share<IpAddr>,
    watcher: Watcher,
    header_limit: Duration,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let asked = CancellationToken::new();
    let service = {
        let asked = asked.clone();
        service_fn(move |request| {
            asked.cancel();
            service.call(request)
        })
    };
    let answers = Answers::default();
    let mut builder = Builder::new(answers.clone());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_limit).max_buf_size(HEADERS_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .max_header_list_size(HEADERS_BYTES as u32)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SLICE_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    // The limit of the HTTP/1.1 side begins only when the first bytes have told the version.
    let silent = async {
        if tokio::time::timeout(header_limit, asked.cancelled()).await.is_ok() {
            drop(waiting);
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = watcher.watch(connection) => if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        },
        () = silent => tracing::debug!("no request came in time"),
        () = answers.unread.cancelled() => tracing::debug!("the end of an answer was not read"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt, stream};
    use http_body_util::BodyExt;
    use hyper::client::conn::http2::{self, SendRequest};
    use hyper_util::rt::TokioExecutor;
    use proa_api::shares::Shares;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::held::Held;
    use super::*;
    use crate::registry::Caller;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_nothing_is_dropped() {
        let (waiting, here) = (Shares::new(1, 1), IpAddr::from([127, 0, 0, 1]));
        let endless = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(HEADERS_BYTES));
        for said in ["", "PRI * HTTP", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /", &endless] {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::empty())));
            let graceful = GracefulShutdown::new();
            let waiting = waiting.take(here).expect(said);
            tokio::spawn(requests(server, service, waiting, graceful.watcher(), HEADER_LIMIT));
            client.write_all(said.as_bytes()).await.unwrap();
            let ended = async { while !matches!(client.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {} };
            tokio::time::timeout(HEADER_LIMIT * 2, ended).await.expect(said);
        }
    }

    #[tokio::test]
    async fn answers_that_are_not_read_are_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream).unwrap();
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNREAD_LIMIT));
    }

    /// A client over HTTP/2 that has room for so much of each answer.
    async fn client(window: u32, body: impl Fn() -> Body + Send + Sync + 'static) -> SendRequest<Body> {
        let (client, server) = tokio::io::duplex(1 << 20);
        let here = IpAddr::from([127, 0, 0, 1]);
        let service = service_fn(move |_| {
            let (mut parts, ()) = Request::get("/").body(()).unwrap().into_parts();
            parts.extensions.insert(Peer(here));
            let caller = Caller { user: "unread".to_owned(), ..Caller::default() };
            let held = Held::enter(&caller, &parts).unwrap();
            let response = Response::new(body());
            async { Ok::<_, Infallible>(held.until_read(response).unwrap()) }
        });
        let share = Shares::new(1, 1).take(here).unwrap();
        tokio::spawn(async move {
            let graceful = GracefulShutdown::new();
            requests(server, service, share, graceful.watcher(), HEADER_LIMIT).await;
        });
        let mut client_side = http2::Builder::new(TokioExecutor::new());
        client_side.initial_stream_window_size(window);
        let (sender, connection) = client_side.handshake(TokioIo::new(client)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn ask(sender: &mut SendRequest<Body>) -> Option<Response<Incoming>> {
        let request = Request::get("https://here/").body(Body::empty()).unwrap();
        sender.ready().await.ok()?;
        sender.send_request(request).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_for_which_no_room_is_made_is_given_up() {
        // Of the last, the end has been handed over.
        for (window, size, goes_on) in [(0, 100, true), (1, 100_000, true), (1, 100, false)] {
            let kept = Arc::new(vec![0; size]);
            let there = Arc::downgrade(&kept);
            let first = std::sync::Mutex::new(Some(kept));
            let body = move || match first.lock().unwrap().take() {
                Some(kept) => Body::from(Bytes::from_owner(KeptBytes(kept))),
                None => Body::empty(),
            };
            let mut sender = client(window, body).await;
            let answer = ask(&mut sender).await.unwrap();
            tokio::time::sleep(UNREAD_LIMIT - Duration::from_secs(1)).await;
            assert!(there.upgrade().is_some(), "{window} {size}: too early");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(there.upgrade().is_none(), "{window} {size}: it is kept");
            answer.into_body().collect().await.expect_err("it is cut off");
            assert_eq!(ask(&mut sender).await.is_some(), goes_on, "{window} {size}");
        }
    }

    struct KeptBytes(Arc<Vec<u8>>);

    impl AsRef<[u8]> for KeptBytes {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_quiet_goes_on() {
        let body = || {
            let begin = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![0; 100_000]))]);
            Body::from_stream(begin.chain(stream::pending()))
        };
        let mut answer = ask(&mut client(50_000, body).await).await.unwrap().into_body();
        let mut read = 0;
        while read < 100_000 {
            read += answer.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        tokio::time::sleep(UNREAD_LIMIT * 10).await;
        assert!(answer.frame().now_or_never().is_none(), "nothing has ended it");
    }

    #[tokio::test]
    async fn whoever_has_asked_leaves_room_for_others() {
        let (waiting, here) = (Shares::new(1, 1), IpAddr::from([127, 0, 0, 1]));
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::empty())));
        let graceful = GracefulShutdown::new();
        let share = waiting.take(here).unwrap();
        tokio::spawn(requests(server, service, share, graceful.watcher(), HEADER_LIMIT));
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        assert!(waiting.take(here).is_none());
        client.write_all(b"\r\n").await.unwrap();
        client.read_exact(&mut [0; 12]).await.unwrap();
        let room = async {
            while waiting.take(here).is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(HEADER_LIMIT / 2, room).await.unwrap();
    }
}
