//! Clients of the ingress.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Receive buffers of clients and endpoints, so that what is streamed to them soon has to wait.
pub const SMALL_BUFFER: u32 = 64 * 1024;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A connection on which requests are sent one after the other.
pub enum Connection {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Connection {
    pub async fn http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Connection {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Connection::Http1(sender)
    }

    pub async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Connection {
        let io = TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Connection::Http2(sender)
    }

    /// The head of the answer, with the body still to come.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Connection::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Connection::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub async fn ask(&mut self, request: Request<Body>) -> Answer {
        read(self.send(request).await.unwrap()).await
    }

    /// A request of this connection's version.
    pub fn request(&self, method: &str, host: &str, path: &str) -> http::request::Builder {
        match self {
            Connection::Http1(_) => Request::builder().method(method).uri(path).header("host", host),
            Connection::Http2(_) => Request::builder()
                .version(Version::HTTP_2)
                .method(method)
                .uri(format!("https://{host}{path}")),
        }
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        let request = self.request("GET", host, path).body(empty()).unwrap();
        self.ask(request).await
    }
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    Connection::http1(connect(address).await).await.get(host, path).await
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    connect_from("127.0.0.1", address).await
}

/// A connection of the client with this address.
pub async fn connect_from(client: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(SMALL_BUFFER).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap();
    socket.connect(address).await.unwrap()
}

pub async fn read(answer: http::Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        text: String::from_utf8_lossy(&body).into_owned(),
    }
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of so many chunks that then goes on for ever without any more.
pub fn endless(chunks: usize) -> Body {
    let chunks =
        futures::stream::iter(0..chunks).map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; 16384]))));
    UnsyncBoxBody::new(StreamBody::new(chunks.chain(futures::stream::pending())))
}

/// Writes `text` and reads until the ingress closes the connection.
pub async fn raw(address: SocketAddr, text: &str) -> String {
    let mut stream = connect(address).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A TLS connection that trusts only `certificate` and offers these protocols.
pub async fn tls(
    address: SocketAddr,
    server_name: &str,
    certificate: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connect(address).await).await
}
