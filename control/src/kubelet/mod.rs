//! The nodes' own servers, as the API server reaches them: in this process, or over TLS at the
//! address that the Node object shows.
//!
//! Asked by whatever of the API is answered by a node: logs, streams, figures. A remote node must
//! show a certificate of the cluster's CA that is valid for the address and made out to the node
//! itself, so that no node can answer for another. It does not know what the paths mean.
//!
//! - [`metrics`]: what pods and nodes use, by their nodes' word

pub mod metrics;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proa_api::Refusal;
use proa_api::names::{KUBELET_PORT, NODE_USER_PREFIX};
use rustls_pki_types::ServerName;
use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use crate::pki::{Facts, Pki, PkiError};
use crate::registry::Registry;

/// A node must have answered the connection and the handshake by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// What asks for something without bringing anything must have begun to be answered by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// A node that takes nothing for so long of what is sent to it is given up.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a request that wait to be taken by a node.
const BUFFER: usize = 64 << 10;

/// The servers of all nodes.
pub struct Kubelets {
    registry: Registry,
    tls: TlsConnector,
    local: RwLock<HashMap<String, Router>>,
}

impl Kubelets {
    /// Finds the nodes in `registry`, and speaks to them with the API server's certificate.
    pub fn new(pki: &Pki, registry: Registry) -> Result<Self, PkiError> {
        let tls = TlsConnector::from(Arc::new(pki.kubelet_tls()?));
        Ok(Kubelets { registry, tls, local: RwLock::default() })
    }

    /// Says which node runs in this process.
    pub fn add_local(&self, node: &str, router: Router) {
        self.local.write().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), router);
    }

    /// Sends a request, whose URI is a path with its parameters, to a node's server.
    ///
    /// An upgrade is the node's to grant: the request must bring the `OnUpgrade` of the client's
    /// connection in its extensions. After the answer 101 the bytes of the two run between client
    /// and node, wherever the node is, with nothing left for the caller but to pass the answer on.
    ///
    /// # Errors
    /// If there is no such node, or it cannot be reached. What the node itself refuses is an
    /// answer.
    pub async fn request(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned();
        if let Some(router) = local {
            let Ok(response) = router.oneshot(request).await;
            return Ok(response);
        }
        let address = self.address(node)?;
        let asked = format!("{} \"https://{address}{}\"", go_verb(&request), request.uri());
        // The texts are those that users know from the stock server.
        let unreachable = |why: String| Refusal::new(500, "", format!("{asked}: {why}"));
        let stream = tokio::time::timeout(CONNECT_LIMIT, self.connect(node, address)).await;
        let stream = stream
            .unwrap_or_else(|_| Err(format!("dial tcp {address}: i/o timeout")))
            .map_err(unreachable)?;
        // What is still on its way to the node takes the time that its sender takes.
        let limit = if request.body().is_end_stream() { ANSWER_LIMIT } else { Duration::MAX };
        let answer = tokio::time::timeout(limit, send(stream, address, request)).await;
        let late = |_| unreachable("net/http: timeout awaiting response headers".to_owned());
        answer.map_err(late)?.map_err(|error| unreachable(error.to_string()))
    }

    /// Where a node says that its server is.
    fn address(&self, node: &str) -> Result<SocketAddr, Refusal> {
        let table = self.registry.kinds();
        let kind = table.by_plural("", "v1", "nodes").ok_or_else(Refusal::no_such_path)?;
        let object = self.registry.get(kind, "", node)?.value();
        address_of(&object)
            .ok_or_else(|| Refusal::new(500, "", "no preferred addresses found; known addresses: []"))
    }

    async fn connect(&self, node: &str, address: SocketAddr) -> Result<TlsStream<TcpStream>, String> {
        let dialed = TcpStream::connect(address).await;
        let stream = dialed.map_err(|error| format!("dial tcp {address}: {}", dial_text(&error)))?;
        // Keystrokes of an exec are small and wanted at once; without it they come slower.
        let _ = stream.set_nodelay(true);
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_LIMIT)) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
        }
        let name = ServerName::from(address.ip());
        let stream = self.tls.connect(name, stream).await.map_err(|error| format!("tls: {error}"))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let user = shown.and_then(|der| Facts::read(der).ok()).map(|facts| facts.common_name);
        let is_node = user.as_deref().and_then(|u| u.strip_prefix(NODE_USER_PREFIX)) == Some(node);
        if is_node { Ok(stream) } else { Err(format!("tls: the certificate is not that of node {node:?}")) }
    }
}

/// The address and port in a Node object.
fn address_of(node: &Value) -> Option<SocketAddr> {
    let addresses = node.pointer("/status/addresses")?.as_array()?;
    let of_type = |type_: &str| {
        let found = addresses.iter().filter(|a| a["type"] == type_);
        found.filter_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok()).next()
    };
    let ip = of_type("InternalIP").or_else(|| of_type("ExternalIP"))?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    Some(SocketAddr::new(ip, port.unwrap_or(KUBELET_PORT)))
}

/// One request on a connection of its own, which ends with the answer or with whoever waits for it: one
/// whose node takes nothing would not see by itself that nobody does any more.
async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    mut request: Request<Body>,
) -> Result<Response<Body>, hyper::Error> {
    let client = request.extensions_mut().remove::<OnUpgrade>();
    let host = HeaderValue::from_str(&address.to_string());
    if let Ok(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.version_mut() = http::Version::HTTP_11;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = builder.max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node ended");
        }
    }));
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        drop(connection.detach());
        let node = hyper::upgrade::on(&mut response);
        // Without a client's connection to join, the node's is dropped and ends.
        if let Some(client) = client {
            tokio::spawn(join(client, node));
        }
        return Ok(response.map(Body::new));
    }
    // How the node's connection framed the body is not how the client's does.
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    response.headers_mut().remove(header::CONNECTION);
    let until_its_end = move |frame| {
        let _ = &connection;
        frame
    };
    Ok(response.map(|body| Body::new(body.map_frame(until_its_end))))
}

/// Carries bytes both ways until both sides are done.
async fn join(client: OnUpgrade, node: OnUpgrade) {
    let (client, node) = match tokio::try_join!(client, node) {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "a stream to a node was not upgraded"),
    };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
        tracing::debug!(%error, "a stream to a node broke off");
    }
}

/// The method as Go's HTTP client names it in errors.
fn go_verb(request: &Request<Body>) -> String {
    let method = request.method().as_str();
    let (first, rest) = method.split_at(method.len().min(1));
    format!("{first}{}", rest.to_ascii_lowercase())
}

fn dial_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => format!("connect: {error}"),
    }
}

#[cfg(test)]
mod tests;
