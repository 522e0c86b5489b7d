//! One request: from the client to an endpoint, and the answer back.
//!
//! Bodies are streamed in both directions. Hop-by-hop headers (RFC 9110, section 7.6.1) stay
//! behind, `X-Forwarded-*` is set, and upgrades (WebSocket) become a pipe.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, TE, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::route::{Backend, Table};

/// The body of an answer.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// An endpoint that does not take the connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to endpoints are kept this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How the request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// The table of the moment and the connections to endpoints.
pub struct Proxy {
    table: Arc<ArcSwap<Table>>,
    client: Client<HttpConnector, Lent>,
}

impl Proxy {
    pub fn new(table: Arc<ArcSwap<Table>>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Proxy { table, client }
    }

    /// Answers a request; never fails, as a refusal is an answer too.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        scheme: Scheme,
    ) -> Response<Body> {
        let Some(host) = host_of(&request) else {
            return refuse(StatusCode::BAD_REQUEST, "the request names no host");
        };
        let table = self.table.load();
        let Some(backend) = table.find(&host, request.uri().path()) else {
            let text = format!("no Ingress has a rule for {host}{}", request.uri().path());
            return refuse(StatusCode::NOT_FOUND, &text);
        };
        let backend = Arc::clone(backend);
        drop(table);
        self.forward(request, &backend, &host, peer, scheme).await
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        backend: &Backend,
        host: &str,
        peer: SocketAddr,
        scheme: Scheme,
    ) -> Response<Body> {
        let upgrade = upgrade_of(request.headers());
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        set_forwarded(&mut head.headers, host, peer, scheme);
        remove_hop_by_hop(&mut head.headers);
        if let Some(protocol) = &upgrade {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, protocol.clone());
        }
        let original_host = head.headers.get(HOST).cloned().or_else(|| HeaderValue::from_str(host).ok());
        if let Some(value) = original_host {
            head.headers.insert(HOST, value);
        }
        head.version = Version::HTTP_11;
        let body = Lent::new(body);
        for endpoint in backend.in_turn() {
            let Some(uri) = towards(endpoint, &head.uri) else {
                return refuse(StatusCode::BAD_REQUEST, "the request's target is no path");
            };
            let mut outgoing = Request::new(body.clone());
            *outgoing.method_mut() = head.method.clone();
            *outgoing.uri_mut() = uri;
            *outgoing.headers_mut() = head.headers.clone();
            match self.client.request(outgoing).await {
                Ok(answer) => return pass_on(answer, client_side),
                // No connection, so nothing has been sent: another endpoint may be asked.
                Err(error) if error.is_connect() => {
                    tracing::debug!(backend = %backend.name, %endpoint, %error, "endpoint does not answer");
                }
                Err(error) => {
                    tracing::debug!(backend = %backend.name, %endpoint, %error, "endpoint failed");
                    let why = format!("{}: the endpoint closed the connection", backend.name);
                    return refuse(StatusCode::BAD_GATEWAY, &why);
                }
            }
        }
        let why = if backend.endpoints.is_empty() { backend.unavailable } else { "no endpoint answers" };
        refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{}: {why}", backend.name))
    }
}

/// The answer without what concerns only the connection it came over; an upgrade becomes a pipe.
fn pass_on(mut answer: Response<Incoming>, client_side: Option<OnUpgrade>) -> Response<Body> {
    let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = answer.headers().get(UPGRADE).cloned();
    remove_hop_by_hop(answer.headers_mut());
    if let (true, Some(client_side), Some(protocol)) = (switching, client_side, protocol) {
        let endpoint_side = hyper::upgrade::on(&mut answer);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        answer.headers_mut().insert(UPGRADE, protocol);
        tokio::spawn(async move {
            let (Ok(client), Ok(endpoint)) = tokio::join!(client_side, endpoint_side) else { return };
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            // Either side may hang up at any time; that is the end of it, not a fault.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await;
        });
    }
    answer.map(BodyExt::boxed)
}

/// The host a request is for, without port: the authority of HTTP/2, else the Host header.
fn host_of<B>(request: &Request<B>) -> Option<String> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => request.headers().get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?,
    };
    Some(authority.host().to_ascii_lowercase())
}

fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let asked = asked.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| asked).cloned()
}

fn towards(endpoint: SocketAddr, target: &Uri) -> Option<Uri> {
    let path = target.path_and_query()?.clone();
    Uri::builder().scheme("http").authority(endpoint.to_string()).path_and_query(path).build().ok()
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    let trailers = headers.get(TE).is_some_and(|v| v == "trailers");
    for name in named {
        headers.remove(name);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What a client claims of itself in these headers is replaced, not added to: nothing in front of
/// this proxy is known to be trusted.
fn set_forwarded(headers: &mut HeaderMap, host: &str, peer: SocketAddr, scheme: Scheme) {
    let scheme = if scheme == Scheme::Https { "https" } else { "http" };
    let peer = peer.ip().to_string();
    for (name, value) in [
        ("x-forwarded-for", peer.as_str()),
        ("x-real-ip", peer.as_str()),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", scheme),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let text = format!("{} {}: {why}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// A request's body that may be offered to one endpoint after another: whoever polls it first
/// has it.
#[derive(Clone)]
struct Lent {
    offered: Arc<Mutex<Option<Incoming>>>,
    hint: (bool, SizeHint),
    taken: Option<Arc<Mutex<Incoming>>>,
}

impl Lent {
    fn new(body: Incoming) -> Self {
        let hint = (hyper::body::Body::is_end_stream(&body), hyper::body::Body::size_hint(&body));
        Lent { offered: Arc::new(Mutex::new(Some(body))), hint, taken: None }
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.taken.is_none() {
            let body = self.offered.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.taken = body.map(|b| Arc::new(Mutex::new(b)));
        }
        let Some(body) = &self.taken else { return Poll::Ready(None) };
        let mut body = body.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.hint.0
    }

    fn size_hint(&self) -> SizeHint {
        self.hint.1.clone()
    }
}
