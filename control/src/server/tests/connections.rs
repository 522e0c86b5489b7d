//! Connections: over TLS with both versions of HTTP, after a refusal, and those that ask for nothing.

use hyper_util::rt::TokioIo;
use proa_api::shares::Room;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

type Tls = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A connection over TLS; `pair` is the client's certificate and key, PEM.
async fn connect_tls(f: &Fixture, pair: Option<(String, String)>, alpn: &[u8]) -> TokioIo<Tls> {
    let stream = TcpStream::connect(f.server.addresses()[0]).await.unwrap();
    shake_hands(f, stream, pair, alpn).await
}

async fn shake_hands(
    f: &Fixture,
    stream: TcpStream,
    pair: Option<(String, String)>,
    alpn: &[u8],
) -> TokioIo<Tls> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(f.server.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match pair {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("kubernetes.default.svc").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    TokioIo::new(stream)
}

/// A request without a body over a connection of its own.
async fn over_tls(
    f: &Fixture,
    method: &str,
    path: &str,
    pair: Option<(String, String)>,
    alpn: &[u8],
) -> Answer {
    let stream = connect_tls(f, pair, alpn).await;
    let uri = format!("https://kubernetes.default.svc{path}");
    let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
    let response = if alpn == b"h2" {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

#[tokio::test]
async fn connections_over_tls() {
    let f = Fixture::start().await;
    let pair = f.server.api.pki.authority().issue_client("jane", "system:masters", Timestamp::now()).unwrap();
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let known = Some((pair.cert_pem.clone(), pair.key_pem.clone()));
        let whole = over_tls(&f, "GET", CONFIG_MAPS, known.clone(), alpn).await;
        assert_eq!(whole.code, 200);
        let whole = over_tls(&f, "GET", "/api/v1", known.clone(), alpn).await;
        let head = over_tls(&f, "HEAD", "/api/v1", known.clone(), alpn).await;
        assert_eq!((head.code, head.text.as_str()), (200, ""));
        assert_eq!(head.headers["content-length"], whole.text.len().to_string());
        assert_eq!(head.headers["content-type"], "application/json");
        assert_eq!(over_tls(&f, "HEAD", CONFIG_MAPS, known, alpn).await.code, 200);
        let refused = over_tls(&f, "GET", CONFIG_MAPS, None, alpn).await;
        assert_eq!((refused.code, &refused.json()["reason"]), (403, &json!("Forbidden")));
        assert_eq!(over_tls(&f, "HEAD", CONFIG_MAPS, None, alpn).await.code, 403);
    }
    f.server.shutdown().await;
}

/// The certificate and key of a user who may do everything.
fn pair_of(f: &Fixture, user: &str) -> Option<(String, String)> {
    let pair = f.server.api.pki.authority().issue_client(user, "system:masters", Timestamp::now()).unwrap();
    Some((pair.cert_pem, pair.key_pem))
}

/// However many there are over one connection.
#[tokio::test]
async fn bodies_that_never_end_leave_room_for_others() {
    let f = Fixture::start().await;
    let stream = connect_tls(&f, pair_of(&f, "slow"), b"h2").await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let begin = futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 1 << 20]))]);
        let slow = Body::from_stream(begin.chain(futures::stream::pending()));
        let uri = format!("https://kubernetes.default.svc{CONFIG_MAPS}");
        let request = Request::post(uri).body(slow).unwrap();
        let mut sender = sender.clone();
        all.spawn(
            async move { sender.send_request(request).await.map(|response| response.status().as_u16()) },
        );
    }
    let first = tokio::time::timeout(Duration::from_secs(30), all.join_next()).await;
    assert_eq!(first.expect("one of them is told to come again").unwrap().unwrap().unwrap(), 429);
    assert_eq!(over_tls(&f, "GET", CONFIG_MAPS, pair_of(&f, "other"), b"h2").await.code, 200);
    f.server.shutdown().await;
}

/// Though hyper and h2 take an answer at once: it counts until it has left.
#[tokio::test]
async fn answers_that_are_not_read_leave_room_for_others() {
    let f = Fixture::start().await;
    for n in 0..28 {
        let map = json!({ "metadata": { "name": format!("m{n}") }, "data": { "a": "x".repeat(1_000_000) } });
        assert_eq!(f.post(CONFIG_MAPS, map).await.code, 201);
    }
    for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}?watch=1")] {
        let stream = connect_tls(&f, pair_of(&f, "unread"), b"h2").await;
        let mut client = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        client.initial_stream_window_size(1);
        let (sender, connection) = client.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let ask = || {
            let uri = format!("https://kubernetes.default.svc{path}");
            let request = Request::get(uri).body(Body::empty()).unwrap();
            sender.clone().send_request(request)
        };
        let first = ask().await.unwrap();
        assert_eq!(first.status(), 200);
        assert_eq!(ask().await.unwrap().status(), 429, "{path}: the first has not been read");
        let few = format!("{CONFIG_MAPS}?limit=1");
        assert_eq!(over_tls(&f, "GET", &few, pair_of(&f, "other"), b"h2").await.code, 200);
        drop(first);
        let room = async { while ask().await.unwrap().status() == 429 {} };
        tokio::time::timeout(Duration::from_secs(30), room).await.expect("room");
    }
    f.server.shutdown().await;
}

/// What is answered to a POST of so many bytes by nobody in particular, and whether the connection
/// serves another request after it.
async fn refused_post(f: &Fixture, size: usize, headers: &[(&str, &str)]) -> (u16, bool, bool) {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(connect_tls(f, None, b"http/1.1").await).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(CONFIG_MAPS);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Body::from(vec![b' '; size])).unwrap()).await.unwrap();
    let (code, closes) = (response.status().as_u16(), response.headers().contains_key("connection"));
    response.into_body().collect().await.unwrap();
    let next = Request::get("/readyz").body(Body::empty()).unwrap();
    let goes_on = sender.ready().await.is_ok()
        && sender.send_request(next).await.is_ok_and(|response| response.status() == 200);
    (code, closes, goes_on)
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal_or_says_that_it_ends() {
    let f = Fixture::start().await;
    assert_eq!(refused_post(&f, 300_000, &[]).await, (403, false, true));
    assert_eq!(refused_post(&f, 300_000, &[("authorization", "Bearer x")]).await, (401, false, true));
    assert_eq!(refused_post(&f, 4 << 20, &[]).await, (403, true, false));
    // Who asks first is not told to send.
    assert_eq!(refused_post(&f, 300_000, &[("expect", "100-continue")]).await, (403, true, false));
    f.server.shutdown().await;
}

const NO_TLS: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

async fn connect(address: SocketAddr, from: &str, say: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    // It may be gone already.
    let _ = stream.write_all(say).await;
    stream
}

/// How much is answered before the end.
async fn answered(mut stream: TcpStream) -> usize {
    let end = async { stream.read(&mut [0; 64]).await.unwrap_or(0) };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("an answer or the end")
}

#[tokio::test]
async fn whoever_asks_nothing_keeps_nobody_out() {
    let fixture = Fixture::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tls, api) = (fixture.server.tls.clone(), fixture.server.api.clone());
    tokio::spawn(api::serve::listen(listener, tls, api, Room::new(8, 8)));
    let silent = [connect(address, "127.0.0.1:0", b"").await, connect(address, "127.0.0.1:0", b"").await];
    assert_eq!(answered(connect(address, "127.0.0.1:0", b"").await).await, 0);
    // Another is listened to: what is no TLS is answered with an alert.
    assert_ne!(answered(connect(address, "127.0.0.2:0", NO_TLS).await).await, 0);
    drop(silent);
    let room = async { while answered(connect(address, "127.0.0.1:0", NO_TLS).await).await == 0 {} };
    tokio::time::timeout(Duration::from_secs(5), room).await.expect("room");
}

#[tokio::test]
async fn whoever_has_asked_keeps_nobody_out_either() {
    let fixture = Fixture::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tls, api) = (fixture.server.tls.clone(), fixture.server.api.clone());
    tokio::spawn(api::serve::listen(listener, tls, api, Room::new(8, 8)));
    let mut asked = Vec::new();
    for _ in 0..2 {
        let stream = connect(address, "127.0.0.1:0", b"").await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(shake_hands(&fixture, stream, None, b"http/1.1").await)
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("/readyz").header("host", "a").body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        asked.push(sender);
    }
    assert_eq!(answered(connect(address, "127.0.0.1:0", NO_TLS).await).await, 0, "two are open");
    assert_ne!(answered(connect(address, "127.0.0.2:0", NO_TLS).await).await, 0, "another is let in");
    drop(asked);
    let room = async { while answered(connect(address, "127.0.0.1:0", NO_TLS).await).await == 0 {} };
    tokio::time::timeout(Duration::from_secs(5), room).await.expect("room");
}
