//! Endpoints that do not take what is sent to them, and clients that leave it at that.

use std::convert::Infallible;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use proa_ingress::Limits;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::Api;
use crate::client::{Connection, connect, connect_from, empty, endless};
use crate::endpoint::{self, full, read_head};
use crate::world::{World, route, soon, until};

/// How many connections to this address are open.
fn open_to(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else { panic!("{address}") };
    let shown = format!("{:08X}:{:04X}", v4.ip().to_bits().swap_bytes(), v4.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|fields| fields[2] == shown && fields[3] == "01").count()
}

/// The same as [`route`], over HTTP/2.
fn route_http2(host: &str, endpoint: SocketAddr) -> Vec<Value> {
    let mut objects = route(host, &[endpoint]);
    objects[1]["spec"]["ports"][0]["appProtocol"] = "kubernetes.io/h2c".into();
    objects
}

/// An answer that has begun and does not go on.
fn begun() -> Response<endpoint::Body> {
    let frames = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    Response::new(UnsyncBoxBody::new(StreamBody::new(frames)))
}

/// What a client has sent and left behind is not kept for an endpoint that does not take it.
#[tokio::test]
async fn what_nobody_takes_goes_with_its_client() {
    let answering = |head: &'static str| {
        endpoint::raw(move |mut stream| async move {
            if !head.is_empty() {
                read_head(&mut stream).await;
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            std::future::pending().await
        })
    };
    let mute = answering("").await;
    let began = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let answered = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let began2 = endpoint::http2(100, |_, request| async move {
        // It is kept, and not read.
        std::mem::forget(request);
        begun()
    })
    .await;
    let mut objects = route_http2("began2.example", began2);
    let endpoints = [("mute", mute), ("began", began), ("answered", answered)];
    for (name, endpoint) in endpoints {
        objects.extend(route(&format!("{name}.example"), &[endpoint]));
    }
    let world = World::routed(&objects).await;
    for (name, endpoint) in endpoints.into_iter().chain([("began2", began2)]) {
        let stream = connect(world.http).await.into_std().unwrap();
        let wire = stream.try_clone().unwrap();
        let mut client = Connection::http2(TcpStream::from_std(stream).unwrap()).await;
        // More than any socket on the way takes.
        let request = client.request("POST", &format!("{name}.example"), "/").body(endless(1024)).unwrap();
        let asked = tokio::spawn(async move { client.send(request).await });
        until("the request", || async { open_to(endpoint) == 1 }).await;
        // Meanwhile all fills up.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(asked.is_finished(), name != "mute");
        wire.shutdown(Shutdown::Both).unwrap();
        until(name, || async { open_to(endpoint) == 0 }).await;
    }
}

/// A client of HTTP/1.1 cannot be seen to leave before what it has sent is taken: that takes no longer than
/// an endpoint may take nothing.
#[tokio::test]
async fn an_endpoint_that_takes_nothing_is_given_up() {
    let mute = endpoint::raw(|stream| async move {
        let _stream = stream;
        std::future::pending().await
    });
    let limits = Limits { open: 8, silence: Duration::from_millis(500), ..Limits::default() };
    let world = World::start_with(&route("a.example", &[mute.await]), limits, Api::new()).await;
    world.wait_for_routes().await;
    for _ in 0..2 {
        let mut stream = connect_from("127.0.0.5", world.http).await;
        let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let sending = async { while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(200), sending).await.is_err());
    }
    until("room", || async {
        let mut stream = connect_from("127.0.0.5", world.http).await;
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n").await;
        sent.is_ok() && read_head(&mut stream).await.starts_with("HTTP/1.1 404")
    })
    .await;
}

/// What a client may send before anybody takes it is little, on one stream and on all of a connection.
#[tokio::test]
async fn little_is_kept_of_what_nobody_takes() {
    let world = World::routed(&route("a.example", &[endpoint::refusing().await])).await;
    let mut stream = connect(world.http).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut of_a_stream, mut of_all) = (None, 65_535);
    // RFC 9113, sections 4.1, 6.5.1 and 6.9: the settings, and what there is beyond the default.
    while of_a_stream.is_none() || of_all == 65_535 {
        let mut head = [0; 9];
        soon("a frame", stream.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
        match head[3] {
            4 if head[4] == 0 => {
                let window = payload.chunks(6).find(|setting| number(&setting[..2]) == 4);
                of_a_stream = Some(window.map_or(65_535, |setting| number(&setting[2..])));
            }
            8 => of_all += number(&payload),
            _ => {}
        }
    }
    assert_eq!((of_a_stream, of_all), (Some(128 << 10), 128 << 10));
}

/// However many streams an endpoint lets be open, and whoever has them: others find one.
#[tokio::test]
async fn streams_of_one_client_keep_nobody_waiting() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let endpoint = endpoint::http2(2, move |_, request| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await;
            Response::new(full(body.map(|body| body.to_bytes()).unwrap_or_default()))
        }
    });
    let world = World::routed(&route_http2("a.example", endpoint.await)).await;
    let mut waiting = Vec::new();
    for n in 1..=5 {
        let mut client = Connection::http2(connect(world.http).await).await;
        let request = client.request("POST", "a.example", "/").body(endless(1)).unwrap();
        waiting.push(tokio::spawn(async move { client.send(request).await }));
        until("the request", || async { asked.load(Ordering::SeqCst) == n }).await;
    }
    for client in ["127.0.0.1", "127.0.0.2"] {
        let mut client = Connection::http1(connect_from(client, world.http).await).await;
        assert_eq!(soon("an answer", client.get("a.example", "/")).await.status, 200);
    }
    assert!(waiting.iter().all(|asked| !asked.is_finished()));
}

/// What is under way for one client takes nothing of a connection that another one uses.
#[tokio::test]
async fn clients_are_not_together_on_a_connection() {
    let endpoint = endpoint::http2(100, |port, request| async move {
        let stays = request.uri().path() == "/stays";
        let mut answer = if stays { begun() } else { Response::new(full("")) };
        answer.headers_mut().insert("port", port.into());
        answer
    })
    .await;
    let world = World::routed(&route_http2("a.example", endpoint)).await;
    let ask = async |client: &str, path: &str| {
        let mut client = Connection::http2(connect_from(client, world.http).await).await;
        let request = client.request("GET", "a.example", path).body(empty()).unwrap();
        let answer = soon("an answer", client.send(request)).await.unwrap();
        (answer.headers()["port"].clone(), answer, client)
    };
    let (first, stays, _client) = ask("127.0.0.1", "/stays").await;
    assert_eq!(ask("127.0.0.1", "/").await.0, first, "one client's are together");
    let (second, ..) = ask("127.0.0.2", "/").await;
    assert_ne!(second, first);
    let (third, ..) = ask("127.0.0.3", "/").await;
    assert_eq!(third, second, "one that nobody uses is for anybody");
    drop(stays);
    let others = AtomicUsize::new(4);
    let another = || format!("127.0.0.{}", others.fetch_add(1, Ordering::SeqCst));
    until("the end", || async { ask(&another(), "/").await.0 == first }).await;
    assert_eq!(open_to(endpoint), 2);
}
