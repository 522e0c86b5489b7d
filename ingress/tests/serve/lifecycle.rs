//! The start, the end, and clients that take their time.

use std::time::{Duration, Instant};

use http::Response;
use proa_ingress::{Config, Ingress, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::api::Api;
use crate::client::{Connection, connect, empty, get, read};
use crate::endpoint::{self, echo, full, read_head};
use crate::world::{DEADLINE, World, route, soon, until};

#[tokio::test]
async fn until_everything_is_known_nothing_is_denied() {
    let api = Api::new();
    api.set_broken(Some("secrets"));
    let objects = route("a.example", &[echo("one").await]);
    let world = World::start_with(&objects, Limits::default(), api).await;
    for host in ["a.example", "other.example"] {
        let answer = get(world.http, host, "/").await;
        assert_eq!(answer.text, "503 Service Unavailable: the ingress does not know its routes yet\n");
    }
    world.api.set_broken(None);
    until("the route", || async { get(world.http, "a.example", "/").await.status == 200 }).await;
    assert_eq!(get(world.http, "other.example", "/").await.status, 404);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (any, taken) = ("127.0.0.1:0".parse().unwrap(), taken.local_addr().unwrap());
    let config = Config { http: any, https: taken, ranges: None, default_certificate: None };
    let Err(error) = Ingress::bind(&config).await else { panic!("bound twice") };
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on {taken} (--ingress-https): ")), "{text}");
}

fn hasty() -> Limits {
    let soon = Duration::from_millis(200);
    Limits { head: soon, handshake: soon, ..Limits::default() }
}

async fn is_dropped(stream: &mut TcpStream) {
    let started = Instant::now();
    let mut rest = Vec::new();
    let _ = soon("the connection's end", stream.read_to_end(&mut rest)).await;
    assert!(started.elapsed() < DEADLINE / 2);
}

#[tokio::test]
async fn clients_that_take_their_time_are_dropped() {
    let objects = route("a.example", &[echo("one").await]);
    let world = World::start_with(&objects, hasty(), Api::new()).await;
    world.wait_for_routes().await;
    for begin in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "GET / HTTP/1.1\r\nHost: a.example\r\n"] {
        let mut stream = connect(world.http).await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        is_dropped(&mut stream).await;
    }
    let mut kept = connect(world.http).await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    assert!(read_head(&mut kept).await.starts_with("HTTP/1.1 200 OK"));
    is_dropped(&mut kept).await;
    for begin in ["", "\u{16}\u{3}\u{1}"] {
        let mut stream = connect(world.https).await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        is_dropped(&mut stream).await;
    }
}

/// Whoever asks for nothing keeps nobody else out, nor those who have asked already.
#[tokio::test]
async fn connections_that_ask_nothing_are_few() {
    let objects = route("a.example", &[echo("one").await]);
    let limits = Limits { waiting: 8, ..Limits::default() };
    let world = World::start_with(&objects, limits, Api::new()).await;
    world.wait_for_routes().await;
    let mut served = connect(world.http).await;
    let ask = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    served.write_all(ask).await.unwrap();
    assert!(read_head(&mut served).await.starts_with("HTTP/1.1 200 OK"));
    let mut silent = Vec::new();
    for (address, begin) in [(world.http, "GET / HTTP/1.1\r\nx: y"), (world.https, "\u{16}\u{3}\u{1}")] {
        let mut stream = connect(address).await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    for address in [world.http, world.https] {
        is_dropped(&mut connect(address).await).await;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(world.http).await.unwrap();
    for stream in [&mut other, &mut served] {
        stream.write_all(ask).await.unwrap();
        assert!(soon("an answer", read_head(stream)).await.contains("HTTP/1.1 200 OK"));
    }
    drop(silent);
    until("room", || async {
        let mut stream = connect(world.http).await;
        stream.write_all(ask).await.is_ok() && read_head(&mut stream).await.starts_with("HTTP/1.1 200 OK")
    })
    .await;
}

/// Nor whoever has asked, by keeping connections open.
#[tokio::test]
async fn connections_of_one_client_are_few() {
    let objects = route("a.example", &[echo("one").await]);
    let limits = Limits { open: 8, ..Limits::default() };
    let world = World::start_with(&objects, limits, Api::new()).await;
    world.wait_for_routes().await;
    let ask = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let ask_from = async |client: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(client.parse().unwrap()).unwrap();
        let mut stream = socket.connect(world.http).await.unwrap();
        let _ = stream.write_all(ask).await;
        let head = soon("an answer or the end", read_head(&mut stream)).await;
        (stream, head.starts_with("HTTP/1.1 200 OK"))
    };
    let (first, second) = (ask_from("127.0.0.3:0").await, ask_from("127.0.0.3:0").await);
    assert!(first.1 && second.1);
    assert!(!ask_from("127.0.0.3:0").await.1, "a third is dropped");
    assert!(ask_from("127.0.0.4:0").await.1, "another client is let in");
    drop(first);
    until("room", || async { ask_from("127.0.0.3:0").await.1 }).await;
}

#[tokio::test]
async fn bodies_that_do_not_come_are_given_up() {
    let early = endpoint::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let mut objects = route("a.example", &[echo("one").await]);
    objects.extend(route("early.example", &[early.await]));
    let mut streams = route("grpc.example", &[endpoint::grpc().await]);
    streams[1]["spec"]["ports"][0]["appProtocol"] = "grpc".into();
    objects.extend(streams);
    let limits = Limits { silence: Duration::from_millis(200), ..Limits::default() };
    let world = World::start_with(&objects, limits, Api::new()).await;
    world.wait_for_routes().await;
    for (host, sent, answer) in [
        ("a.example", "", "HTTP/1.1 408 Request Timeout"),
        ("a.example", "some", "HTTP/1.1 408 Request Timeout"),
        ("grpc.example", "some", "HTTP/1.1 408 Request Timeout"),
        ("early.example", "some", "HTTP/1.1 200 OK"),
    ] {
        let mut stream = connect(world.http).await;
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{sent}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let seen = soon("an answer", read_head(&mut stream)).await;
        assert!(seen.starts_with(answer), "{host}: {seen}");
        is_dropped(&mut stream).await;
    }
}

/// An answer that nobody reads is not kept for ever, nor is its endpoint.
#[tokio::test]
async fn answers_that_are_not_read_are_given_up() {
    let (ended, mut has_ended) = tokio::sync::mpsc::channel(1);
    let endless = endpoint::raw(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while written.is_ok() {
                written = stream.write_all(&[b'x'; 64 << 10]).await;
            }
            let _ = ended.send(()).await;
        }
    });
    let objects = route("a.example", &[endless.await]);
    let limits = Limits { silence: Duration::from_millis(500), ..Limits::default() };
    let world = World::start_with(&objects, limits, Api::new()).await;
    world.wait_for_routes().await;
    let mut stream = connect(world.http).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    soon("the end of the answer", has_ended.recv()).await;
    drop(stream);
}

#[tokio::test]
async fn a_slow_body_is_not_a_slow_head() {
    let objects = route("a.example", &[echo("one").await]);
    let world = World::start_with(&objects, hasty(), Api::new()).await;
    world.wait_for_routes().await;
    let mut stream = connect(world.http).await;
    let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 4\r\n\r\n";
    stream.write_all(head).await.unwrap();
    for byte in b"slow" {
        // Twice the limit of the head in all.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.contains("slow"), "{answer}");
}

#[tokio::test]
async fn requests_under_way_may_end() {
    let (started, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let (finish, may_finish) = tokio::sync::watch::channel(false);
    let endpoint = endpoint::serve(move |_| {
        let (started, mut may_finish) = (started.clone(), may_finish.clone());
        async move {
            started.send(()).unwrap();
            may_finish.wait_for(|yes| *yes).await.unwrap();
            Response::new(full("finished"))
        }
    });
    let mut world = World::routed(&route("a.example", &[endpoint.await])).await;
    let mut one = Connection::http1(connect(world.http).await).await;
    let mut two = Connection::http2(connect(world.http).await).await;
    let mut idle = connect(world.http).await;
    let (first, second) = (one.request("GET", "a.example", "/"), two.request("GET", "a.example", "/"));
    let (first, second) = (first.body(empty()).unwrap(), second.body(empty()).unwrap());
    let first = tokio::spawn(async move { read(one.send(first).await.unwrap()).await });
    let second = tokio::spawn(async move { read(two.send(second).await.unwrap()).await });
    for _ in 0..2 {
        soon("the requests", asked.recv()).await.unwrap();
    }
    world.shutdown.cancel();
    until("closed doors", || async { TcpStream::connect(world.http).await.is_err() }).await;
    assert_eq!(soon("the idle one's end", idle.read(&mut [0; 1])).await.unwrap_or(0), 0);
    assert!(!world.served.is_finished(), "requests are under way");
    finish.send(true).unwrap();
    for answer in [first, second] {
        assert_eq!(soon("the answer", answer).await.unwrap().text, "finished");
    }
    soon("the end", &mut world.served).await.unwrap();
}

#[tokio::test]
async fn requests_that_never_end_are_cut() {
    let endpoint = endpoint::serve(|_| std::future::pending()).await;
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let mut world = World::start_with(&route("a.example", &[endpoint]), limits, Api::new()).await;
    world.wait_for_routes().await;
    let mut stream = connect(world.http).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    // The request is under way once the client's bytes are read; a second one shows that.
    get(world.http, "unknown.test", "/").await;
    world.shutdown.cancel();
    soon("the end", &mut world.served).await.unwrap();
    is_dropped(&mut stream).await;
}
