//! One request: from the client to an endpoint, and the answer back.
//!
//! Bodies are streamed in both directions. Hop-by-hop headers (RFC 9110, section 7.6.1) stay
//! behind, `X-Forwarded-*` is set, and upgrades (WebSocket) become a pipe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, TE, UPGRADE};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::answer::{refuse, refuse_with};
use crate::body::{Answering, Body, Broken, Held, Lent};
use crate::endpoints::{Endpoints, Fault};
use crate::names::Names;
use crate::own_addresses::OwnAddresses;
use crate::path;
use crate::route::{Backend, Route, Table};
use crate::sign_in::SignIn;

/// Headers that a request may have. Many servers take no more, and close the connection on those that
/// come with more.
const REQUEST_HEADERS: usize = 100;
/// Headers that a client cannot be let say anything in, beside `X-Forwarded-…` and names with `_`.
const FORGEABLE: [&str; 7] = [
    "forwarded",
    "proxy",
    "x-original-forwarded-for",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
];

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
    endpoints: Endpoints,
    names: Names,
    sign_in: SignIn,
    /// A client may be silent so long in a body.
    patience: Duration,
    /// Where HTTPS is served.
    https_port: u16,
    /// Cancelled when everything is to end, upgraded connections too.
    ended: CancellationToken,
}

/// What a request asks for.
struct Asked<'a> {
    authority: Option<&'a Authority>,
    peer: SocketAddr,
    scheme: Scheme,
    /// Path and query, as they are sent on.
    target: Uri,
}

/// An upgrade a client has asked for.
struct Upgrade {
    protocol: HeaderValue,
    client_side: OnUpgrade,
}

impl Proxy {
    pub fn new(
        table: Arc<ArcSwap<Table>>,
        https_port: u16,
        patience: Duration,
        ended: CancellationToken,
    ) -> Self {
        Proxy {
            table,
            endpoints: Endpoints::new(patience, ended.clone()),
            names: Names::new(),
            sign_in: SignIn::new(),
            patience,
            https_port,
            ended,
        }
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
        let host = authority.as_ref().map_or("", |a| a.host());
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let target = match path::target(request.uri().path()) {
            Ok(target) => target,
            Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
        };
        let table = self.table.load();
        if !table.is_compiled() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the ingress does not know its routes yet");
        }
        let Some(route) = table.find(&host, &target.matched) else {
            let text = format!("no Ingress has a rule for {host}{}", request.uri().path());
            return refuse(StatusCode::NOT_FOUND, &text);
        };
        let (route, own) = (Arc::clone(route), Arc::clone(table.own_addresses()));
        drop(table);
        if let Err(answer) = self.admit(&route, &request, &host, &target.sent, peer, scheme).await {
            return *answer;
        }
        let sent = match route.rewritten(&target.matched) {
            Some(Ok(path)) => path.into(),
            Some(Err(why)) => return refuse(StatusCode::BAD_REQUEST, why),
            None => target.sent,
        };
        let Some(target) = with_query(&sent, request.uri().query()) else {
            return refuse(StatusCode::BAD_REQUEST, "the request's target is no path");
        };
        let asked = Asked { authority: authority.as_ref(), peer, scheme, target };
        self.forward(request, &route, &asked, &own).await
    }

    /// The answer to a request that does not get further than this.
    async fn admit(
        &self,
        route: &Route,
        request: &Request<Incoming>,
        host: &str,
        path: &str,
        peer: SocketAddr,
        scheme: Scheme,
    ) -> Result<(), Box<Response<Body>>> {
        let refused = |status, why: &str| Err(Box::new(refuse(status, why)));
        match route.access.closed.as_deref() {
            None => {}
            Some("") => return refused(StatusCode::SERVICE_UNAVAILABLE, "who may use it is not known yet"),
            Some(why) => return refused(StatusCode::SERVICE_UNAVAILABLE, why),
        }
        if !route.access.admits(peer.ip()) {
            return refused(StatusCode::FORBIDDEN, "the client's address is not among those that may use it");
        }
        if route.access.https_only && scheme == Scheme::Http {
            return refused(StatusCode::NOT_FOUND, "it is served over HTTPS only");
        }
        if route.to_https && scheme == Scheme::Http && !host.is_empty() {
            let port = if self.https_port == 443 { String::new() } else { format!(":{}", self.https_port) };
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            let location = format!("https://{host}{port}{path}{query}");
            let answer = refuse_with(StatusCode::PERMANENT_REDIRECT, &location, LOCATION, &location);
            return Err(Box::new(answer));
        }
        match &route.access.auth {
            Some(auth) => self.sign_in.check(auth, request.headers(), peer.ip()).await.map_err(Box::new),
            None => Ok(()),
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        route: &Route,
        asked: &Asked<'_>,
        own: &OwnAddresses,
    ) -> Response<Body> {
        let backend = &*route.backend;
        let looked_up = match &backend.external {
            Some(external) => match self.names.endpoints(external, asked.peer.ip(), own).await {
                Ok(endpoints) => Some(endpoints),
                Err(why) => {
                    return refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{}: {why}", backend.name));
                }
            },
            None => None,
        };
        let endpoints = looked_up.as_deref().unwrap_or(&backend.endpoints);
        // HTTP/2 has no upgrades of this kind: there it is a request like others.
        let upgrade = upgrade_of(&mut request).filter(|_| !backend.http2);
        let (mut head, body) = request.into_parts();
        remove_hop_by_hop(&mut head.headers);
        set_forwarded(&mut head.headers, asked.authority, asked.peer, asked.scheme);
        if route.access.auth.is_some() {
            // The password is for the ingress.
            head.headers.remove(AUTHORIZATION);
        }
        if head.headers.len() > REQUEST_HEADERS {
            let why =
                format!("the request has more than {REQUEST_HEADERS} headers, with those the ingress adds");
            return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &why);
        }
        if let Some(upgrade) = &upgrade {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, upgrade.protocol.clone());
        }
        // A stream of HTTP/2 may be quiet for as long as both sides want, and costs neither a connection.
        let is_stream = backend.http2 && head.version == Version::HTTP_2;
        let body = Lent::new(body, (!is_stream).then_some(self.patience));
        let mut may_repeat = head.method.is_idempotent() && hyper::body::Body::is_end_stream(&body);
        let mut turn = backend.in_turn(endpoints);
        let mut next = turn.next();
        while let Some(endpoint) = next {
            match self.send(backend, endpoint, asked, &head, body.clone()).await {
                Ok(answer) => return self.pass_on(answer, upgrade, body.answering()),
                // Another endpoint may be asked.
                Err(Fault::Connect(error)) => {
                    tracing::debug!(backend = %backend.name, %endpoint, error, "endpoint does not answer");
                    next = turn.next();
                }
                // Most likely a kept connection that the endpoint closed while the request was on
                // its way. Asking once more is allowed (RFC 9110, section 9.2.2).
                Err(Fault::Closed(_)) if may_repeat => {
                    may_repeat = false;
                    next = turn.next().or(Some(endpoint));
                }
                Err(fault) => {
                    let (answer, error) = failed(backend, fault, body.broken());
                    tracing::debug!(backend = %backend.name, %endpoint, error, "request failed");
                    return answer;
                }
            }
        }
        let why = if endpoints.is_empty() { backend.unavailable } else { "no endpoint answers" };
        refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{}: {why}", backend.name))
    }

    async fn send(
        &self,
        backend: &Backend,
        endpoint: SocketAddr,
        asked: &Asked<'_>,
        head: &Parts,
        body: Lent,
    ) -> Result<Response<Body>, Fault> {
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = head.method.clone();
        *outgoing.uri_mut() = asked.target.clone();
        *outgoing.headers_mut() = head.headers.clone();
        if !backend.http2 {
            return self.endpoints.http1(endpoint, outgoing).await;
        }
        // There the name is in the target.
        outgoing.headers_mut().remove(HOST);
        let authority = asked.authority.map_or_else(|| endpoint.to_string(), ToString::to_string);
        self.endpoints.http2(endpoint, asked.peer.ip(), &authority, outgoing).await
    }

    /// The answer without what concerns only the connection it came over; an upgrade becomes a
    /// pipe.
    fn pass_on(
        &self,
        mut answer: Response<Body>,
        upgrade: Option<Upgrade>,
        answering: Answering,
    ) -> Response<Body> {
        let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = answer.headers().get(UPGRADE).cloned();
        remove_hop_by_hop(answer.headers_mut());
        // The endpoint's version is its own affair: it would be taken for this proxy's.
        *answer.version_mut() = Version::HTTP_11;
        if !switching {
            return answer.map(|body| Held::new(body, answering).boxed());
        }
        let (Some(upgrade), Some(protocol)) = (upgrade, protocol) else {
            return refuse(StatusCode::BAD_GATEWAY, "the endpoint switched protocols unasked");
        };
        let endpoint_side = hyper::upgrade::on(&mut answer);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        answer.headers_mut().insert(UPGRADE, protocol);
        tokio::spawn(self.ended.clone().run_until_cancelled_owned(async move {
            let _answering = answering;
            let (Ok(client), Ok(endpoint)) = tokio::join!(upgrade.client_side, endpoint_side) else { return };
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            // Either side may hang up at any time; that is the end of it, not a fault.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await;
        }));
        answer
    }
}

/// The answer to a request that an endpoint has got and not answered, and what is to be known of it.
fn failed(backend: &Backend, fault: Fault, broken: Option<Broken>) -> (Response<Body>, String) {
    let (why, error) = match fault {
        Fault::Invalid(error) => ("the endpoint's answer is not valid HTTP", error),
        Fault::Closed(error) | Fault::Connect(error) => ("the endpoint closed the connection", error),
    };
    let answer = match broken {
        Some(Broken::Invalid) => refuse(StatusCode::BAD_REQUEST, &Broken::Invalid.to_string()),
        Some(Broken::Stalled) => refuse(StatusCode::REQUEST_TIMEOUT, &Broken::Stalled.to_string()),
        None => refuse(StatusCode::BAD_GATEWAY, &format!("{}: {why}", backend.name)),
    };
    (answer, error)
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
    match is_plain(&authority) {
        true => Ok(Some(authority)),
        false => Err("the request's host is not valid"),
    }
}

/// A name or address with at most a port: no user, and nothing that is read in two ways.
fn is_plain(authority: &Authority) -> bool {
    let (host, all) = (authority.host(), authority.as_str());
    let rest = all.strip_prefix(host).map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    let is_port = rest.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    is_port && is_host && !host.starts_with('.') && !host.contains("..")
}

fn with_query(path: &str, query: Option<&str>) -> Option<Uri> {
    match query {
        Some(query) => format!("{path}?{query}").parse().ok(),
        None => path.parse().ok(),
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

/// Whether a header is one that only a proxy has to say something in, or that servers take for one: many
/// take `X_Real_IP` for `X-Real-IP`, programs behind CGI take `Proxy` for the proxy that they are to use
/// (<https://httpoxy.org>), and some take a path from a header for the one that was asked for.
fn is_forgeable(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.contains('_') || name.starts_with("x-forwarded-") || FORGEABLE.contains(&name)
}

/// What a client says of itself in these headers is replaced, not added to: nothing in front of
/// this proxy is known to be trusted. The Host that counted for the route is the one passed on.
fn set_forwarded(headers: &mut HeaderMap, authority: Option<&Authority>, peer: SocketAddr, scheme: Scheme) {
    let said: Vec<HeaderName> = headers.keys().filter(|name| is_forgeable(name)).cloned().collect();
    for name in said {
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
    set("x-scheme", scheme);
    if let Some(authority) = authority {
        set("host", authority.as_str());
        set("x-forwarded-host", authority.as_str());
    }
}
