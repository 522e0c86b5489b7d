//! Upgrades become pipes, as WebSockets need them.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{connect, raw};
use crate::endpoint::{self, echo, full, read_head};
use crate::world::{World, route, soon};

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Switches protocols and then says everything twice, until it is told to `stop`.
async fn doubling() -> std::net::SocketAddr {
    endpoint::serve(|mut request| async move {
        let mut answer = http::Response::new(full(""));
        let wanted = request.headers().get("upgrade").cloned();
        let (Some(wanted), Some(_)) = (wanted, request.headers().get("sec-websocket-key")) else {
            return answer;
        };
        tokio::spawn(async move {
            let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut word = [0; 4];
            while io.read_exact(&mut word).await.is_ok() && &word != b"stop" {
                io.write_all(&[word, word].concat()).await.unwrap();
            }
        });
        *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        answer.headers_mut().insert("upgrade", wanted);
        answer.headers_mut().insert("sec-websocket-accept", "accepted".parse().unwrap());
        answer
    })
    .await
}

async fn open(world: &World) -> tokio::net::TcpStream {
    let mut stream = connect(world.http).await;
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let head = soon("the switch", read_head(&mut stream)).await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: accepted"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    stream
}

#[tokio::test]
async fn both_ways_until_either_hangs_up() {
    let world = World::routed(&route("a.example", &[doubling().await])).await;
    let mut stream = open(&world).await;
    for word in ["ping", "pong"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut twice = [0; 8];
        soon("the echo", stream.read_exact(&mut twice)).await.unwrap();
        assert_eq!(&twice, word.repeat(2).as_bytes());
    }
    stream.write_all(b"stop").await.unwrap();
    assert_eq!(soon("the end", stream.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn outlives_changes_of_the_table_and_ends_at_shutdown() {
    let endpoint = doubling().await;
    let mut world = World::routed(&route("a.example", &[endpoint])).await;
    let mut stream = open(&world).await;
    for object in route("a.example", &[endpoint]) {
        world.api.delete(&object);
    }
    crate::world::until("the route's end", || async {
        crate::client::get(world.http, "a.example", "/").await.status == 404
    })
    .await;
    stream.write_all(b"ping").await.unwrap();
    soon("the echo", stream.read_exact(&mut [0; 8])).await.unwrap();
    world.shutdown.cancel();
    soon("the ingress's end", &mut world.served).await.unwrap();
    assert_eq!(soon("the pipe's end", stream.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn an_endpoint_may_decline() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let answer = raw(world.http, &REQUEST.replace("keep-alive,", "close,")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "the endpoint was asked: {answer}");
}

/// Passed on it would open a tunnel through which requests reach the endpoint past the routes.
#[tokio::test]
async fn http2_in_the_clear_is_not_passed_on() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let answer = raw(
        world.http,
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("h2c") && !answer.contains("http2-settings"), "{answer}");
}

#[tokio::test]
async fn an_idle_pipe_is_not_dropped_by_the_limit_of_heads() {
    let limits = proa_ingress::Limits { head: Duration::from_millis(300), ..Default::default() };
    let objects = route("a.example", &[doubling().await]);
    let world = World::start_with(&objects, limits, crate::api::Api::new()).await;
    world.wait_for_routes().await;
    let mut stream = open(&world).await;
    // Longer than the limit, and nothing is said.
    let silence = tokio::time::timeout(Duration::from_millis(900), stream.read(&mut [0; 1])).await;
    assert!(silence.is_err(), "the pipe ended");
    stream.write_all(b"ping").await.unwrap();
    soon("the echo", stream.read_exact(&mut [0; 8])).await.unwrap();
}
