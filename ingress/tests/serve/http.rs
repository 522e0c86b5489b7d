//! Requests and answers: versions, headers, reasons, methods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{self, Connection, connect, empty, get, raw};
use crate::endpoint::{self, canned, echo, read_head, refusing};
use crate::world::{World, ingress, route, service, slice, soon};

#[tokio::test]
async fn keeps_a_connection_alive_and_takes_turns() {
    let (one, two) = (echo("one").await, echo("two").await);
    let world = World::routed(&route("a.example", &[one, two])).await;
    let mut connection = Connection::http1(connect(world.http).await).await;
    let mut names = Vec::new();
    for _ in 0..4 {
        let answer = connection.get("a.example", "/x?q=1").await;
        assert!(answer.text.contains(" GET /x?q=1\n"), "{}", answer.text);
        names.push(answer.text[..3].to_owned());
    }
    assert_ne!(names[0], names[1]);
    assert_eq!(names[..2], names[2..]);
}

#[tokio::test]
async fn http2_in_the_clear() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let mut connection = Connection::http2(connect(world.http).await).await;
    let request = connection.request("POST", "a.example:8443", "/x").body(text_body("hello")).unwrap();
    let answer = connection.ask(request).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text.starts_with("one POST /x\n"), "{}", answer.text);
    assert!(answer.text.contains("\nhost: a.example:8443\n"), "{}", answer.text);
    assert!(answer.text.ends_with("\n\nhello"), "{}", answer.text);
}

#[tokio::test]
async fn headers_say_who_asked_and_nothing_hop_by_hop() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let answer = raw(
        world.http,
        "GET / HTTP/1.1\r\nHost: A.example:81\r\nConnection: close, X-Hop, X-Forwarded-For, Host\r\n\
         X-Hop: 1\r\nX-Stays: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n\
         X-Forwarded-Host: evil\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
         X_Forwarded_For: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\nProxy: http://evil/\r\nX-Scheme: https\r\n\
         X-Original-Forwarded-For: 6.6.6.6\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\r\n",
    )
    .await;
    let mut seen: Vec<&str> = answer.lines().skip_while(|l| *l != "one GET /").skip(1).collect();
    seen.retain(|line| !line.is_empty());
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "host: A.example:81",
            "te: trailers",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: A.example:81",
            "x-forwarded-proto: http",
            "x-real-ip: 127.0.0.1",
            "x-scheme: http",
            "x-stays: 1",
        ],
        "{answer}"
    );
}

#[tokio::test]
async fn the_targets_authority_counts_not_the_host_header() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let answer =
        raw(world.http, "GET http://a.example/p HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n")
            .await;
    assert!(answer.contains("one GET /p\n") && answer.contains("host: a.example\n"), "{answer}");
    let answer = get(world.http, "a.example.", "/").await;
    assert_eq!(answer.status, 200, "a name that ends in a dot is the same name");
}

#[tokio::test]
async fn answers_hop_by_hop_headers_stay_behind() {
    let endpoint = canned(
        "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Stays: 1\r\n\
         Content-Length: 2\r\n\r\nok",
    )
    .await;
    let world = World::routed(&route("a.example", &[endpoint])).await;
    let answer = get(world.http, "a.example", "/").await;
    assert_eq!(answer.text, "ok");
    assert_eq!(answer.headers["x-stays"], "1");
    for name in ["x-hop", "keep-alive", "connection"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
}

/// What is wrong with a request is not its endpoint's fault.
#[tokio::test]
async fn a_body_that_is_none_is_the_clients_fault() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    for (header, body) in [
        ("Transfer-Encoding: chunked", "zz\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhelloX\r\n0\r\n\r\n"),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{header}\r\n\r\n");
        let answer = raw(world.http, &format!("{head}{body}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        assert!(answer.ends_with("the request's body is not valid\n"), "{body:?}: {answer}");
    }
}

#[tokio::test]
async fn plain_reasons() {
    let mut objects = vec![ingress("nothing.example", "missing"), ingress("empty.example", "empty")];
    objects.push(service("empty"));
    objects.extend(route("dead.example", &[refusing().await, refusing().await]));
    objects.extend(route("closing.example", &[endpoint::raw(|stream| async move { drop(stream) }).await]));
    objects.extend(route("nonsense.example", &[canned("nonsense\r\n\r\n").await]));
    objects.extend(route("unasked.example", &[canned("HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n").await]));
    let world = World::routed(&objects).await;
    for (host, status, text) in [
        ("other.example", 404, "404 Not Found: no Ingress has a rule for other.example/p\n"),
        ("nothing.example", 503, "503 Service Unavailable: ns/missing:80: the service does not exist\n"),
        ("empty.example", 503, "503 Service Unavailable: ns/empty:80: the service has no ready endpoints\n"),
        ("dead.example", 503, "503 Service Unavailable: ns/dead-example:80: no endpoint answers\n"),
        (
            "closing.example",
            502,
            "502 Bad Gateway: ns/closing-example:80: the endpoint closed the connection\n",
        ),
        (
            "nonsense.example",
            502,
            "502 Bad Gateway: ns/nonsense-example:80: the endpoint's answer is not valid HTTP\n",
        ),
        ("unasked.example", 502, "502 Bad Gateway: the endpoint switched protocols unasked\n"),
    ] {
        let answer = get(world.http, host, "/p").await;
        assert_eq!((answer.status, answer.text.as_str()), (status, text), "{host}");
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    }
}

#[tokio::test]
async fn bad_requests() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    for (head, expected) in [
        ("GET / HTTP/1.1\r\n", "400 Bad Request: the request names no host"),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n",
            "400 Bad Request: the request names more",
        ),
        ("GET / HTTP/1.1\r\nHost: user@a.example\r\n", "400 Bad Request: the request's host is not valid"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n", "400 Bad Request: the request's host is not valid"),
        ("GET / HTTP/1.1\r\nHost: a%2eexample\r\n", "400 Bad Request: the request's host is not valid"),
        ("GET / HTTP/1.1\r\nHost: a.example:x\r\n", "400 Bad Request: the request's host is not valid"),
        ("GET /a\\b HTTP/1.1\r\nHost: a.example\r\n", "the request's path has a backslash"),
        ("GET /a%2Fb HTTP/1.1\r\nHost: a.example\r\n", "an encoded slash or backslash"),
        ("GET http://a.example/a%00 HTTP/1.1\r\nHost: a.example\r\n", "a control character"),
        ("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n", "400 Bad Request: the request's target"),
    ] {
        let answer = raw(world.http, &format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.contains(expected), "{head}: {answer}");
    }
}

#[tokio::test]
async fn what_matches_is_what_the_endpoint_sees() {
    let mut objects = route("a.example", &[echo("one").await]);
    objects[0]["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/pub".into();
    let world = World::routed(&objects).await;
    let mut http1 = Connection::http1(connect(world.http).await).await;
    let mut http2 = Connection::http2(connect(world.http).await).await;
    for (path, seen) in [
        ("/pub/x", Some("/pub/x")),
        ("/pub/./x/../y%20z?q=/../", Some("/pub/y%20z?q=/../")),
        ("//pub//x", Some("//pub//x")),
        ("/x/%2e%2e/pub", Some("/pub")),
        ("/pub/../admin", None),
        ("/pub/%2e%2e/admin", None),
        ("/pub/.%2E/.%2e/admin", None),
    ] {
        let absolute = format!("GET http://a.example{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let absolute = raw(world.http, &absolute).await;
        let (first, second) =
            (http1.get("a.example", path).await.text, http2.get("a.example", path).await.text);
        for text in [first, second, absolute] {
            match seen {
                Some(seen) => assert!(text.contains(&format!("one GET {seen}\n")), "{path}: {text}"),
                None => assert!(text.contains("404 Not Found: no Ingress has a rule"), "{path}: {text}"),
            }
        }
    }
    assert_eq!(http2.get("a.example", "/pub/..%2fadmin").await.status, 400);
}

#[tokio::test]
async fn too_many_headers_are_refused_here() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    for mut connection in [
        Connection::http1(connect(world.http).await).await,
        Connection::http2(connect(world.http).await).await,
    ] {
        for (count, status) in [(90, 200), (101, 431), (127, 431)] {
            let mut request = connection.request("GET", "a.example", "/");
            for n in 0..count {
                request = request.header(format!("x-{n}"), "1");
            }
            let answer = connection.ask(request.body(empty()).unwrap()).await;
            assert_eq!(answer.status, status, "{count}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn one_length_counts() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let smuggled = "5\r\nhello\r\n0\r\n\r\n";
    let answer = raw(
        world.http,
        &format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n{smuggled}"
        ),
    )
    .await;
    assert!(answer.contains("hello") && !answer.contains("content-length: 3"), "{answer}");
}

#[tokio::test]
async fn http_1_0_on_either_side() {
    let mut without_host = ingress("", "old");
    without_host["metadata"]["name"] = "any".into();
    without_host["spec"]["rules"][0].as_object_mut().unwrap().remove("host");
    let old = canned("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end").await;
    let world = World::routed_by(&[without_host, service("old"), slice("old", old)]).await;
    // To a client of today the answer is one of today, whatever the endpoint speaks.
    let answer = raw(world.http, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("until the end"), "{answer}");
    let answer = raw(world.http, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nuntil the end"),
        "{answer}"
    );
}

#[tokio::test]
async fn head_and_not_modified_have_no_body() {
    let endpoint = endpoint::serve(|request| async move {
        let mut answer = Response::new(endpoint::full(""));
        match request.method().as_str() {
            "HEAD" => drop(answer.headers_mut().insert("content-length", "12".parse().unwrap())),
            _ => *answer.status_mut() = StatusCode::NOT_MODIFIED,
        }
        answer
    });
    let world = World::routed(&route("a.example", &[endpoint.await])).await;
    for mut connection in [
        Connection::http1(connect(world.http).await).await,
        Connection::http2(connect(world.http).await).await,
    ] {
        let request = connection.request("HEAD", "a.example", "/").body(empty()).unwrap();
        let answer = soon("the answer to HEAD", connection.ask(request)).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""));
        assert_eq!(answer.headers["content-length"], "12");
        let request = connection.request("HEAD", "b.example", "/").body(empty()).unwrap();
        let answer = soon("the refusal of HEAD", connection.ask(request)).await;
        assert_eq!((answer.status, answer.text.as_str()), (404, ""));
        assert_eq!(soon("the 304", connection.get("a.example", "/")).await.status, 304);
    }
}

#[tokio::test]
async fn expect_continue() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let mut stream = connect(world.http).await;
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let interim = soon("100 Continue", read_head(&mut stream)).await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let answer = soon("the answer", read_head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // Who cannot be served need not send the body at all.
    let head = head.replace("a.example", "b.example");
    let mut stream = connect(world.http).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = soon("the refusal", read_head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
}

#[tokio::test]
async fn asks_the_next_endpoint_when_one_refuses() {
    let world =
        World::routed(&route("a.example", &[refusing().await, echo("one").await, refusing().await])).await;
    for round in 0..6 {
        let mut connection = Connection::http1(connect(world.http).await).await;
        let request = connection.request("POST", "a.example", "/").body(text_body("the body")).unwrap();
        let answer = connection.ask(request).await;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text);
        assert!(answer.text.ends_with("\n\nthe body"), "{}", answer.text);
    }
}

/// An endpoint that closes a kept connection just when the next request arrives on it: no request
/// that is safe to repeat may fail of it, and no other may be repeated.
#[tokio::test]
async fn repeats_only_what_may_be_repeated() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let endpoint = endpoint::raw(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut stream).await;
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            // The next request is read and left without an answer.
            if !read_head(&mut stream).await.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let world = World::routed(&route("a.example", &[endpoint])).await;
    let mut connection = Connection::http1(connect(world.http).await).await;
    assert_eq!(connection.get("a.example", "/").await.status, 200);
    assert_eq!(connection.get("a.example", "/").await.status, 200, "asked once more");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    let post = connection.request("POST", "a.example", "/").body(empty()).unwrap();
    assert_eq!(connection.ask(post).await.status, 502);
    assert_eq!(requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn trailers_pass() {
    let endpoint = canned(
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let world = World::routed(&route("a.example", &[endpoint.await])).await;
    let mut connection = Connection::http2(connect(world.http).await).await;
    let request = connection.request("GET", "a.example", "/").body(empty()).unwrap();
    let body = connection.send(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    let mut stream = connect(world.http).await;
    let first = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let last = "GET /2 HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{first}{last}").as_bytes()).await.unwrap();
    let mut text = String::new();
    soon("both answers", stream.read_to_string(&mut text)).await.unwrap();
    let position = |path: &str| text.find(&format!("GET {path}")).unwrap_or_else(|| panic!("{text}"));
    assert!(position("/1") < position("/2"));
}

/// A body of a length that is not told beforehand.
fn text_body(text: &'static str) -> client::Body {
    let frames = futures::stream::iter([Ok(Frame::data(text.into()))]);
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
