//! Endpoints: small servers that stand for pods.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::client::SMALL_BUFFER;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An HTTP/1.1 endpoint that answers by `answer`.
pub async fn serve<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    raw(move |stream| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let _ = connection.await;
        }
    })
    .await
}

/// An endpoint that does with each connection what `connection` does.
pub async fn raw<F>(connection: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(SMALL_BUFFER).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(64).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
    address
}

/// An endpoint that answers each request with its own head and body, prefixed by `name`.
pub async fn echo(name: &'static str) -> SocketAddr {
    serve(move |request| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let mut text = format!("{name} {} {}\n", head.method, head.uri);
        for (key, value) in &head.headers {
            text.push_str(&format!("{key}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&body));
        Response::new(full(text))
    })
    .await
}

/// An endpoint that speaks HTTP/2 alone, in the clear, and answers with trailers as gRPC does.
pub async fn grpc() -> SocketAddr {
    raw(move |stream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            let text = format!("{} {:?}", request.uri(), request.headers().get("host"));
            let _ = request.into_body().collect().await;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let frames = [Frame::data(Bytes::from(text)), Frame::trailers(trailers)];
            let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
            Ok::<_, Infallible>(Response::new(UnsyncBoxBody::new(body)))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

/// An endpoint that speaks HTTP/2 in the clear, lets so many streams be open on a connection, and answers by
/// `answer`, which is told the port that the connection comes from.
pub async fn http2<F>(
    streams: u32,
    answer: impl Fn(u16, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    raw(move |stream| {
        let answer = answer.clone();
        async move {
            let from = stream.peer_addr().unwrap().port();
            let service = service_fn(move |request| {
                let answer = answer(from, request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let builder = builder.max_concurrent_streams(streams);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// An endpoint that reads one request head from each connection and writes `bytes`.
pub async fn canned(bytes: &'static str) -> SocketAddr {
    raw(move |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(bytes.as_bytes()).await;
    })
    .await
}

/// An address that refuses connections.
pub async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Reads up to the empty line; what has arrived if the connection ends before.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

pub fn full(text: impl Into<Bytes>) -> Body {
    UnsyncBoxBody::new(Full::new(text.into()))
}
