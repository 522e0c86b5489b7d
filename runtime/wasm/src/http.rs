//! Serves an HTTP component on the pod's port, until SIGTERM.
//!
//! Each request is let in by `room`, worked on by `instances` and watched over by `exchange`. On
//! SIGTERM no new connection is taken, open ones finish what they are at, and the process exits
//! with 0.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use http::header::{HOST, HeaderValue, RETRY_AFTER};
use http::uri::Authority;
use http::{StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::Notify;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::config::RunConfig;
use crate::exchange::{Client, Exchange, STALL};
use crate::instances::Instances;
use crate::outcome::Outcome;
use crate::patient::Patient;
use crate::program::Served;
use crate::report::Reporter;
use crate::room::Room;
use crate::stop;

/// A client may take so long to send the head of a request, and to ask for anything at all.
const HEAD: Duration = Duration::from_secs(30);
/// Most bytes of a request's head; as much may be kept for every connection.
const HEAD_BYTES: usize = 16 << 10;
/// How often an HTTP/2 connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);

type Response = hyper::Response<WasiBody>;

/// Serves until SIGTERM, then drains.
pub async fn serve(
    config: &RunConfig,
    listener: TcpListener,
    served: Served,
    reporter: &mut Reporter,
) -> anyhow::Result<Outcome> {
    let mut sigterm = stop::requested()?;
    let (instances, room) = Instances::new(config, served)?;
    let timeout_ms = config.requests.timeout_ms;
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    let server = Arc::new(Server { instances, room, timeout });
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let unnamed = listener.local_addr()?;
    let connections = GracefulShutdown::new();
    let builder = builder();
    reporter.ready();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or of memory for a moment; those who hold them finish.
                    eprintln!("proa-wasm: accept: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            _ = sigterm.recv() => break,
        };
        let _ = stream.set_nodelay(true);
        let server = server.clone();
        let local = stream.local_addr().unwrap_or(unnamed);
        let asked = Arc::new(Notify::new());
        let service = {
            let asked = asked.clone();
            hyper::service::service_fn(move |request| {
                asked.notify_one();
                respond(server.clone(), local, peer.ip(), request)
            })
        };
        let connection =
            connections.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // What goes wrong on a connection is its peer's business.
        tokio::spawn(async move { unless_silent(connection, &asked).await });
    }
    drop(listener);
    let _ = tokio::time::timeout(stop::grace(config), connections.shutdown()).await;
    Ok(Outcome::Exited(0))
}

/// Drives a connection, which is dropped if nothing is asked for in time: the limit of the HTTP/1.1
/// side begins only when the first bytes have told the version.
async fn unless_silent(connection: impl Future, asked: &Notify) {
    let silent = async {
        if tokio::time::timeout(HEAD, asked.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = connection => {}
        () = silent => {}
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_header_list_size(HEAD_BYTES as u32);
    builder
}

/// What every request needs.
struct Server {
    instances: Arc<Instances>,
    room: Room,
    timeout: Option<Duration>,
}

async fn respond(
    server: Arc<Server>,
    local: SocketAddr,
    peer: IpAddr,
    mut request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    if !name_host(&mut request, local) {
        return Ok(plain(StatusCode::BAD_REQUEST, "a request must say which host it is for\n"));
    }
    let Ok(slot) = server.room.enter(peer, request.headers()).await else {
        let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return Ok(response);
    };
    let exchange = Exchange::new(server.timeout);
    let client = Client::new(&exchange);
    let method = request.method().clone();
    let request = request.map(|body| {
        Patient::new(body.map_err(Error::from), STALL, || Error::ConnectionReadTimeout).boxed_unsync()
    });
    let (reply, answer) = oneshot::channel();
    // A task of its own: a guest that spins must not hold up the others of its connection.
    tokio::spawn(server.instances.clone().run(request, reply, exchange.clone(), slot));
    Ok(match answer.await {
        Ok(Ok(response)) => client.answer(&method, response),
        _ if exchange.is_late() => {
            plain(StatusCode::GATEWAY_TIMEOUT, "the component did not answer in time\n")
        }
        Ok(Err(_)) | Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the component failed to answer\n"),
    })
}

/// Sees to it that a request says which host it is for, because guests rely on that: HTTP/1.1 asks
/// for the header, HTTP/2 for the authority (RFC 9112, section 3.2). HTTP/1.0 asks for neither, and
/// gets the address that it has come to. `false` for a request that says it wrongly.
fn name_host<B>(request: &mut hyper::Request<B>, local: SocketAddr) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let is_named = match host {
        _ if more.is_some() => return false,
        Some(host) if host.is_empty() => false,
        Some(host) if Authority::try_from(host.as_bytes()).is_ok() => true,
        Some(_) => return false,
        None if request.uri().authority().is_some() && request.version() != Version::HTTP_11 => true,
        None if request.version() > Version::HTTP_10 => return false,
        None => false,
    };
    if !is_named && let Ok(host) = HeaderValue::from_str(&local.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    true
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = hyper::Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_their_host() {
        const LOCAL: &str = "10.42.0.7:8080";
        let named = |version, uri: &str, hosts: &[&[u8]]| {
            let mut request = hyper::Request::builder().version(version).uri(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let mut request = request.body(()).expect("a request");
            let is_named = name_host(&mut request, LOCAL.parse().expect("an address"));
            let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
            is_named.then(|| host.unwrap_or_else(|| "-".to_owned()))
        };
        for (version, uri, hosts, want) in [
            (Version::HTTP_11, "/", &[&b"a:80"[..]][..], Some("a:80")),
            (Version::HTTP_11, "/", &[&b""[..]][..], Some(LOCAL)),
            (Version::HTTP_11, "/", &[][..], None),
            (Version::HTTP_11, "http://a/", &[][..], None),
            (Version::HTTP_11, "/", &[&b"a"[..], &b"b"[..]][..], None),
            (Version::HTTP_11, "/", &[&b"a b"[..]][..], None),
            (Version::HTTP_11, "/", &[&b"\xff"[..]][..], None),
            (Version::HTTP_10, "/", &[][..], Some(LOCAL)),
            (Version::HTTP_10, "/", &[&b"a"[..]][..], Some("a")),
            (Version::HTTP_2, "http://a/", &[][..], Some("-")),
            (Version::HTTP_2, "/", &[&b"a"[..]][..], Some("a")),
            (Version::HTTP_2, "/", &[][..], None),
        ] {
            assert_eq!(named(version, uri, hosts).as_deref(), want, "{version:?} {uri} {hosts:?}");
        }
    }
}
