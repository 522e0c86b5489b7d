//! How a request becomes streams: the protocol is agreed on, the connection taken over.
//!
//! Clients name the versions that they speak, the best first; the first that is known here is
//! taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;

use super::channel::{Output, Streams};
use super::forward::{self, Pod};
use super::spdy::{self, Opened, Session};
use super::tunnel;
use super::websocket::{self, Channels, Coding};

/// The header in which SPDY clients name versions.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What SPDY clients ask for.
const SPDY: &str = "SPDY/3.1";
/// How long a client may take to open the streams that it has asked for.
const STREAMS_LIMIT: Duration = Duration::from_secs(30);

/// Versions of `exec` and `attach` over SPDY.
const REMOTE_SPDY: &[(&str, u8)] =
    &[("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];
/// Versions of `exec` and `attach` over WebSocket, and how messages are coded there.
const REMOTE_WEBSOCKET: &[(&str, u8, Coding)] = &[
    ("v5.channel.k8s.io", 5, Coding { base64: false, ends: true }),
    ("v4.channel.k8s.io", 4, BINARY),
    ("v4.base64.channel.k8s.io", 4, BASE64),
    ("channel.k8s.io", 1, BINARY),
    ("base64.channel.k8s.io", 1, BASE64),
];
const BINARY: Coding = Coding { base64: false, ends: false };
const BASE64: Coding = Coding { base64: true, ends: false };
/// `port-forward` over SPDY.
const FORWARD_SPDY: &str = "portforward.k8s.io";
/// The same, tunnelled through a WebSocket.
const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// `port-forward` with two channels for each port.
const FORWARD_WEBSOCKET: &[(&str, Coding)] =
    &[("v4.channel.k8s.io", BINARY), ("v4.base64.channel.k8s.io", BASE64)];

/// Channels of a WebSocket, and where each is in `Streams`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Status code and text.
type Refusal = (StatusCode, String);

/// Which streams a client has asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Sizes of its terminal.
    pub resize: bool,
}

/// Takes over the connection of an `exec` or `attach`, and calls `talk` with its streams and the
/// version of the protocol.
pub async fn streams<F>(
    request: Request,
    wanted: Wanted,
    talk: impl FnOnce(Streams, u8) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = ()> + Send,
{
    if asks_for(&request, SPDY) {
        let (name, version) = agree(&request, REMOTE_SPDY, |(name, _)| name)?;
        return Ok(take_over(request, name, move |session| async move {
            match collect(session, wanted, version).await {
                Some((streams, unused)) => {
                    talk(streams, version).await;
                    for output in unused {
                        output.end().await;
                    }
                }
                None => tracing::debug!("timed out waiting for client to create streams"),
            }
        }));
    }
    let socket = web_socket(request).await?;
    let (socket, (_, version, coding)) =
        choose(socket, REMOTE_WEBSOCKET, |(name, _, _)| name, ("", 1, BINARY))?;
    Ok(socket.on_upgrade(move |socket| async move {
        let hello = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        let channels = websocket::serve(socket, coding, &[STDIN, RESIZE], &[STDOUT, STDERR, ERROR], hello);
        if let Some(streams) = arrange(channels, wanted) {
            talk(streams, version).await;
        }
    }))
}

/// Takes over the connection of a `port-forward`. `ports` are those that are named beforehand,
/// where the protocol wants that.
pub async fn ports(request: Request, pod: Arc<Pod>, ports: Vec<u16>) -> Result<Response, Refusal> {
    if asks_for(&request, SPDY) {
        let (name,) = agree(&request, &[(FORWARD_SPDY,)], |(name,)| name)?;
        return Ok(take_over(request, name, move |session| forward::spdy(pod, session)));
    }
    let mut socket = web_socket(request).await?;
    if socket.requested_protocols().any(|name| name == FORWARD_TUNNEL) {
        socket.set_selected_protocol(HeaderValue::from_static(FORWARD_TUNNEL));
        return Ok(socket.on_upgrade(move |socket: WebSocket| async move {
            forward::spdy(pod, spdy::serve(tunnel::bytes(socket))).await;
        }));
    }
    let (socket, (_, coding)) = choose(socket, FORWARD_WEBSOCKET, |(name, _)| name, ("", BINARY))?;
    if ports.is_empty() || ports.len() > 100 {
        return Err((StatusCode::BAD_REQUEST, "query parameter \"port\" is required".to_owned()));
    }
    Ok(socket.on_upgrade(move |socket| async move {
        let numbers: Vec<u8> = (0..2 * ports.len() as u8).collect();
        let data: Vec<u8> = numbers.iter().copied().step_by(2).collect();
        let channels = websocket::serve(socket, coding, &data, &numbers, 0);
        forward::websocket(pod, ports, channels).await;
    }))
}

fn asks_for(request: &Request, protocol: &str) -> bool {
    let asked = request.headers().get(header::UPGRADE);
    asked.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

/// The first version that both sides speak.
fn agree<T: Copy>(request: &Request, known: &[T], name: impl Fn(T) -> &'static str) -> Result<T, Refusal> {
    let values = request.headers().get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let asked: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if asked.is_empty() {
        return Err((StatusCode::BAD_REQUEST, format!("unable to upgrade: {SPDY_HEADER} is required")));
    }
    let found = asked.iter().find_map(|asked| known.iter().find(|known| name(**known) == *asked));
    found.copied().ok_or_else(|| {
        let ours: Vec<&str> = known.iter().map(|known| name(*known)).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            asked.join(" "),
            ours.join(" ")
        );
        (StatusCode::FORBIDDEN, text)
    })
}

/// [`PROTOCOL`] as it is written in messages.
const SPDY_HEADER: &str = "X-Stream-Protocol-Version";

/// Answers that the connection is SPDY from now on, and calls `talk` when it is.
fn take_over<F>(
    mut request: Request,
    protocol: &'static str,
    talk: impl FnOnce(Session) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(connection) => talk(spdy::serve(TokioIo::new(connection))).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded to SPDY"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(PROTOCOL, HeaderValue::from_static(protocol));
    response
}

/// Waits for the streams that a client has asked for. Gives the unused halves of some of them too,
/// which must not be ended before the rest.
async fn collect(mut session: Session, wanted: Wanted, version: u8) -> Option<(Streams, Vec<Output>)> {
    let mut missing = vec!["error"];
    // Terminals had no sizes before version 3.
    let asked = [
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.resize && version >= 3),
    ];
    missing.extend(asked.iter().filter(|(_, asked)| *asked).map(|(name, _)| *name));
    let mut found = BTreeMap::<&str, Opened>::new();
    let all = async {
        while !missing.is_empty() {
            let opened = session.opened.recv().await?;
            let kind = opened.header("streamtype");
            if let Some(at) = missing.iter().position(|name| Some(*name) == kind) {
                found.insert(missing.swap_remove(at), opened);
            }
        }
        Some(())
    };
    tokio::time::timeout(STREAMS_LIMIT, all).await.ok()??;
    let closed = session.closed.clone();
    let mut input =
        |name: &str| found.get_mut(name).map(|opened| std::mem::replace(&mut opened.input, ended()));
    let (stdin, resize) = (input("stdin"), input("resize"));
    let mut output = |name: &str| found.remove(name).map(|opened| opened.output);
    let (stdout, stderr, error) = (output("stdout"), output("stderr"), output("error")?);
    // To kubectl the end of these would say that nobody reads what it sends any more.
    let unused = found.into_values().map(|opened| opened.output).collect();
    Some((Streams { stdin, stdout, stderr, error, resize, closed }, unused))
}

/// An input on which nothing comes.
fn ended() -> super::channel::Input {
    tokio::sync::mpsc::channel(1).1
}

/// The channels by what they are for.
fn arrange(mut channels: Channels, wanted: Wanted) -> Option<Streams> {
    let mut output =
        |number: u8, wanted: bool| -> Option<Output> { channels.outputs.remove(&number).filter(|_| wanted) };
    let (stdout, stderr, error) =
        (output(STDOUT, wanted.stdout), output(STDERR, wanted.stderr), output(ERROR, true)?);
    let mut input = |number: u8, wanted: bool| channels.inputs.remove(&number).filter(|_| wanted);
    let (stdin, resize) = (input(STDIN, wanted.stdin), input(RESIZE, wanted.resize));
    Some(Streams { stdin, stdout, stderr, error, resize, closed: channels.closed })
}

async fn web_socket(request: Request) -> Result<WebSocketUpgrade, Refusal> {
    if !asks_for(&request, "websocket") {
        return Err((StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()));
    }
    let (mut parts, _) = request.into_parts();
    let taken = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    taken.map_err(|why| (why.into_response().status(), "the WebSocket handshake is not valid".to_owned()))
}

/// The first subprotocol that both sides speak; `none` for a client that names none.
fn choose<T: Copy>(
    mut socket: WebSocketUpgrade,
    known: &[T],
    name: impl Fn(T) -> &'static str,
    none: T,
) -> Result<(WebSocketUpgrade, T), Refusal> {
    if socket.requested_protocols().next().is_none() {
        return Ok((socket, none));
    }
    let found = socket
        .requested_protocols()
        .find_map(|asked| known.iter().copied().find(|known| asked == name(*known)));
    let Some(found) = found else {
        return Err((StatusCode::BAD_REQUEST, "none of the WebSocket subprotocols is supported".to_owned()));
    };
    socket.set_selected_protocol(HeaderValue::from_static(name(found)));
    Ok((socket, found))
}
