//! A client of the API as plain as it can be, so that what is measured is the server: HTTP over TLS
//! with the admin's certificate, bodies as bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the API is and what opens it.
#[derive(Clone)]
pub struct Access {
    address: SocketAddr,
    tls: ClientConfig,
}

/// A connection for one request after the other, or for one watch.
pub struct Connection(http1::SendRequest<Full<Bytes>>);

/// A connection for many requests at a time.
#[derive(Clone)]
pub struct SharedConnection(http2::SendRequest<Full<Bytes>>);

impl Access {
    /// As a kubeconfig with certificates inside says.
    pub fn read(kubeconfig: &Path) -> Result<Access> {
        let config: Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let data = |pointer: &str| -> Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str);
            let text = text.with_context(|| format!("the kubeconfig has no {pointer}"))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let server = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str);
        let server = server.and_then(|s| s.strip_prefix("https://")).context("no https server")?;
        let mut roots = RootCertStore::empty();
        let authority = data("/clusters/0/cluster/certificate-authority-data")?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate?)?;
        }
        let chain = data("/users/0/user/client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data("/users/0/user/client-key-data")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Access { address: server.parse()?, tls })
    }

    /// Opens a connection that speaks HTTP/1.1.
    pub async fn connect(&self) -> Result<Connection> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.tls("http/1.1").await?)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    /// Opens a connection that speaks HTTP/2.
    pub async fn connect_shared(&self) -> Result<SharedConnection> {
        let io = TokioIo::new(self.tls("h2").await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(SharedConnection(sender))
    }

    async fn tls(&self, protocol: &str) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut config = self.tls.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(protocol.as_bytes()), "no {protocol}");
        Ok(stream)
    }
}

impl Connection {
    /// One request and its whole answer, which must be a good one.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes> {
        let (status, body) = self.send(method, path, body, None).await?;
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// One request and its whole answer, good or bad. A body without a `media_type` is JSON.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        media_type: Option<&'static str>,
    ) -> Result<(StatusCode, Bytes)> {
        self.0.ready().await?;
        let mut request = request(method, path, path, body)?;
        if let Some(media_type) = media_type {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        let answer = self.0.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// [`Connection::call`] for a GET whose answer is JSON.
    pub async fn get(&mut self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.call(Method::GET, path, None).await?)?)
    }

    /// [`Connection::call`] for a POST.
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        self.call(Method::POST, path, Some(body.into())).await
    }

    /// Turns the connection into a watch.
    pub async fn watch(mut self, path: &str) -> Result<Lines> {
        self.0.ready().await?;
        Lines::of(self.0.send_request(request(Method::GET, path, path, None)?).await?)
    }
}

impl SharedConnection {
    /// Opens a watch beside whatever else the connection carries.
    pub async fn watch(&mut self, path: &str) -> Result<Lines> {
        self.0.ready().await?;
        let target = format!("https://api{path}");
        Lines::of(self.0.send_request(request(Method::GET, path, &target, None)?).await?)
    }
}

fn request(method: Method, path: &str, target: &str, body: Option<Bytes>) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(target).header("accept", "application/json");
    if target == path {
        request = request.header("host", "api");
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    Ok(request.body(Full::new(body.unwrap_or_default()))?)
}

/// The lines of a watch.
pub struct Lines {
    body: Incoming,
    /// What has come and was not given out yet.
    pending: Vec<u8>,
    given: usize,
}

impl Lines {
    fn of(answer: Response<Incoming>) -> Result<Lines> {
        ensure!(answer.status() == StatusCode::OK, "the watch is refused: {}", answer.status());
        Ok(Lines { body: answer.into_body(), pending: Vec::new(), given: 0 })
    }

    /// The next line; an error if the watch ends.
    pub async fn next(&mut self) -> Result<&[u8]> {
        loop {
            if let Some(length) = self.pending[self.given..].iter().position(|byte| *byte == b'\n') {
                let start = self.given;
                self.given += length + 1;
                return Ok(&self.pending[start..start + length]);
            }
            self.pending.drain(..self.given);
            self.given = 0;
            let frame = self.body.frame().await.context("the watch has ended")??;
            if let Some(data) = frame.data_ref() {
                self.pending.extend_from_slice(data);
            }
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Result<Value> {
        Ok(serde_json::from_slice(self.next().await?)?)
    }
}
