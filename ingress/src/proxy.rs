//! One request: from the client to an endpoint, and the answer back.
//!
//! Bodies are streamed in both directions. Hop-by-hop headers (RFC 9110, section 7.6.1) stay
//! behind, `X-Forwarded-*` is set, and upgrades (WebSocket) become a pipe.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, FORWARDED, HOST, HeaderName, HeaderValue, TE, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::route::{Backend, Table};

/// The body of an answer.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// An endpoint that does not take the connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to endpoints are kept this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// And so many for each endpoint.
const IDLE_CONNECTIONS: usize = 64;
/// An endpoint that is silent this long on a connection is asked by the kernel whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(60);

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
    /// Cancelled when everything is to end, upgraded connections too.
    ended: CancellationToken,
}

/// An upgrade a client has asked for.
struct Upgrade {
    protocol: HeaderValue,
    client_side: OnUpgrade,
}

impl Proxy {
    pub fn new(table: Arc<ArcSwap<Table>>, ended: CancellationToken) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Proxy { table, client, ended }
    }

    /// Cancelled when every connection is to end, whatever it is doing.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Answers a request; never fails, as a refusal is an answer too.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        scheme: Scheme,
    ) -> Response<Body> {
        let to_head = request.method() == Method::HEAD;
        let answer = self.route(request, peer, scheme).await;
        match to_head {
            // Over HTTP/2 hyper would send a reason's text, which is an error there.
            true => answer.map(|_| Empty::new().map_err(|never| match never {}).boxed()),
            false => answer,
        }
    }

    async fn route(&self, request: Request<Incoming>, peer: SocketAddr, scheme: Scheme) -> Response<Body> {
        let authority = match authority_of(&request) {
            Ok(authority) => authority,
            Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
        };
        // A name that ends in a dot is the same name.
        let host = authority.as_ref().map_or("", |a| a.host().trim_end_matches('.')).to_ascii_lowercase();
        let table = self.table.load();
        if !table.is_compiled() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the ingress does not know its routes yet");
        }
        let Some(backend) = table.find(&host, request.uri().path()) else {
            let text = format!("no Ingress has a rule for {host}{}", request.uri().path());
            return refuse(StatusCode::NOT_FOUND, &text);
        };
        let backend = Arc::clone(backend);
        drop(table);
        self.forward(request, &backend, authority.as_ref(), peer, scheme).await
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        backend: &Backend,
        authority: Option<&Authority>,
        peer: SocketAddr,
        scheme: Scheme,
    ) -> Response<Body> {
        let upgrade = upgrade_of(&mut request);
        let (mut head, body) = request.into_parts();
        remove_hop_by_hop(&mut head.headers);
        set_forwarded(&mut head.headers, authority, peer, scheme);
        if let Some(upgrade) = &upgrade {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, upgrade.protocol.clone());
        }
        let body = Lent::new(body);
        let mut may_repeat = head.method.is_idempotent() && hyper::body::Body::is_end_stream(&body);
        let mut turn = backend.in_turn();
        let mut next = turn.next();
        while let Some(endpoint) = next {
            let Some(uri) = towards(endpoint, &head.uri) else {
                return refuse(StatusCode::BAD_REQUEST, "the request's target is no path");
            };
            let mut outgoing = Request::new(body.clone());
            *outgoing.method_mut() = head.method.clone();
            *outgoing.uri_mut() = uri;
            *outgoing.headers_mut() = head.headers.clone();
            match self.client.request(outgoing).await {
                Ok(answer) => return self.pass_on(answer, upgrade),
                // No connection, so nothing has been sent: another endpoint may be asked.
                Err(error) if error.is_connect() => {
                    tracing::debug!(backend = %backend.name, %endpoint, %error, "endpoint does not answer");
                    next = turn.next();
                }
                // Most likely a kept connection that the endpoint closed while the request was on
                // its way. Asking once more is allowed (RFC 9110, section 9.2.2).
                Err(error) if may_repeat && closed_early(&error) => {
                    may_repeat = false;
                    next = turn.next().or(Some(endpoint));
                }
                Err(error) => {
                    tracing::debug!(backend = %backend.name, %endpoint, %error, "endpoint failed");
                    let why = match closed_early(&error) {
                        true => "the endpoint closed the connection",
                        false => "the endpoint's answer is not valid HTTP",
                    };
                    return refuse(StatusCode::BAD_GATEWAY, &format!("{}: {why}", backend.name));
                }
            }
        }
        let why = if backend.endpoints.is_empty() { backend.unavailable } else { "no endpoint answers" };
        refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{}: {why}", backend.name))
    }

    /// The answer without what concerns only the connection it came over; an upgrade becomes a
    /// pipe.
    fn pass_on(&self, mut answer: Response<Incoming>, upgrade: Option<Upgrade>) -> Response<Body> {
        let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = answer.headers().get(UPGRADE).cloned();
        remove_hop_by_hop(answer.headers_mut());
        // The endpoint's version is its own affair: it would be taken for this proxy's.
        *answer.version_mut() = Version::HTTP_11;
        if !switching {
            return answer.map(BodyExt::boxed);
        }
        let (Some(upgrade), Some(protocol)) = (upgrade, protocol) else {
            return refuse(StatusCode::BAD_GATEWAY, "the endpoint switched protocols unasked");
        };
        let endpoint_side = hyper::upgrade::on(&mut answer);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        answer.headers_mut().insert(UPGRADE, protocol);
        tokio::spawn(self.ended.clone().run_until_cancelled_owned(async move {
            let (Ok(client), Ok(endpoint)) = tokio::join!(upgrade.client_side, endpoint_side) else { return };
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            // Either side may hang up at any time; that is the end of it, not a fault.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await;
        }));
        answer.map(BodyExt::boxed)
    }
}

/// The host and port a request is for: the authority of its target if that has one, else the Host
/// header (RFC 9112, section 3.2.2). Only HTTP/1.0 may name none.
fn authority_of<B>(request: &Request<B>) -> Result<Option<Authority>, &'static str> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => {
            let mut hosts = request.headers().get_all(HOST).iter();
            let host = match (hosts.next(), hosts.next()) {
                (Some(host), None) => host,
                (Some(_), Some(_)) => return Err("the request names more than one host"),
                (None, _) if request.version() == Version::HTTP_10 => return Ok(None),
                (None, _) => return Err("the request names no host"),
            };
            let host = host.to_str().ok().and_then(|h| h.parse().ok());
            host.ok_or("the request's host is not valid")?
        }
    };
    match authority.as_str().contains('@') {
        true => Err("the request's host is not valid"),
        false => Ok(Some(authority)),
    }
}

/// The protocol a client wants to switch to. Not to HTTP/2 in the clear: that one concerns the
/// connection to this proxy, and passed on it would carry requests past the routes.
fn upgrade_of(request: &mut Request<Incoming>) -> Option<Upgrade> {
    let asked = request.headers().get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let asked = asked.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = request.headers().get(UPGRADE).filter(|_| asked)?.clone();
    let names_h2c = protocol.to_str().is_ok_and(|p| p.to_ascii_lowercase().contains("h2c"));
    (!names_h2c).then(|| Upgrade { protocol, client_side: hyper::upgrade::on(request) })
}

/// True if the endpoint closed the connection before it answered.
fn closed_early(error: &(dyn Error + 'static)) -> bool {
    if error.is::<std::io::Error>() {
        return true;
    }
    let closed = |e: &hyper::Error| e.is_incomplete_message() || e.is_canceled() || e.is_closed();
    error.downcast_ref().is_some_and(closed) || error.source().is_some_and(closed_early)
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
/// this proxy is known to be trusted. The Host that counted for the route is the one passed on.
fn set_forwarded(headers: &mut HeaderMap, authority: Option<&Authority>, peer: SocketAddr, scheme: Scheme) {
    let claims = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || name == FORWARDED;
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| claims(name)).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let scheme = if scheme == Scheme::Https { "https" } else { "http" };
    let peer = peer.ip().to_canonical().to_string();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-forwarded-for", &peer);
    set("x-real-ip", &peer);
    set("x-forwarded-proto", scheme);
    if let Some(authority) = authority {
        set("host", authority.as_str());
        set("x-forwarded-host", authority.as_str());
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
        self.hint.1
    }
}
