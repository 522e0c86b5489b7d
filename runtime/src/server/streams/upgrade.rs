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

/// Most bytes of a client's message. The largest that is known is of a library that forwards ports:
/// 1 MiB and the number of the channel.
const MAX_MESSAGE: usize = 2 << 20;

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
/// `port-forward` over WebSocket: with two channels for each port, or tunnelled, where nothing is
/// coded.
const FORWARD_WEBSOCKET: &[(&str, Option<Coding>)] = &[
    (FORWARD_TUNNEL, None),
    ("v4.channel.k8s.io", Some(BINARY)),
    ("v4.base64.channel.k8s.io", Some(BASE64)),
];

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
    let (name, version, coding) = choose(&request, REMOTE_WEBSOCKET, |(name, _, _)| name, ("", 1, BINARY))?;
    let socket = web_socket(request, name).await?;
    Ok(socket.on_upgrade(move |socket| async move {
        let hello = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        let outputs = [STDOUT, STDERR, ERROR];
        let channels = websocket::serve(socket, coding, &[STDIN, RESIZE], &outputs, Some(hello));
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
    let (name, coding) = choose(&request, FORWARD_WEBSOCKET, |(name, _)| name, ("", Some(BINARY)))?;
    let Some(coding) = coding else {
        let socket = web_socket(request, name).await?;
        return Ok(socket.on_upgrade(move |socket: WebSocket| async move {
            forward::spdy(pod, spdy::serve(tunnel::bytes(socket))).await;
        }));
    };
    if ports.is_empty() || ports.len() > 100 {
        return Err((StatusCode::BAD_REQUEST, "query parameter \"port\" is required".to_owned()));
    }
    let socket = web_socket(request, name).await?;
    Ok(socket.on_upgrade(move |socket| async move {
        let numbers: Vec<u8> = (0..2 * ports.len() as u8).collect();
        let data: Vec<u8> = numbers.iter().copied().step_by(2).collect();
        let channels = websocket::serve(socket, coding, &data, &numbers, None);
        forward::websocket(pod, ports, channels).await;
    }))
}

fn asks_for(request: &Request, protocol: &str) -> bool {
    let asked = request.headers().get(header::UPGRADE);
    asked.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

/// The client's first offer that is known here.
fn agree<T: Copy>(request: &Request, known: &[T], name: impl Fn(T) -> &'static str) -> Result<T, Refusal> {
    let asked = offers(request, &PROTOCOL);
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

/// What a client names in a header, in its order, which is that of its preference.
fn offers<'a>(request: &'a Request, header: &HeaderName) -> Vec<&'a str> {
    let values = request.headers().get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|offer| !offer.is_empty()).collect()
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

/// Answers a WebSocket's handshake with a subprotocol; with none if that is empty.
async fn web_socket(request: Request, protocol: &'static str) -> Result<WebSocketUpgrade, Refusal> {
    if !asks_for(&request, "websocket") {
        return Err((StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()));
    }
    let (mut parts, _) = request.into_parts();
    let taken = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let socket = taken
        .map_err(|why| (why.into_response().status(), "the WebSocket handshake is not valid".to_owned()))?;
    let mut socket = socket.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    if !protocol.is_empty() {
        socket.set_selected_protocol(HeaderValue::from_static(protocol));
    }
    Ok(socket)
}

/// The client's first offer of a subprotocol that is known here; `none` for a client that offers
/// nothing.
fn choose<T: Copy>(
    request: &Request,
    known: &[T],
    name: impl Fn(T) -> &'static str,
    none: T,
) -> Result<T, Refusal> {
    let asked = offers(request, &header::SEC_WEBSOCKET_PROTOCOL);
    if asked.is_empty() {
        return Ok(none);
    }
    let found = asked.iter().find_map(|asked| known.iter().find(|known| name(**known) == *asked));
    found.copied().ok_or_else(|| {
        let ours: Vec<&str> = known.iter().map(|known| name(*known)).collect();
        let text = format!(
            "requested protocol(s) are not supported: [{}]; the server supports [{}]",
            asked.join(" "),
            ours.join(" ")
        );
        (StatusCode::FORBIDDEN, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client of an `exec` that has upgraded, and the sizes of what comes from it on standard input.
    async fn connected() -> (tokio::io::DuplexStream, tokio::sync::mpsc::UnboundedReceiver<usize>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let (told, sizes) = tokio::sync::mpsc::unbounded_channel();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let told = told.clone();
            async move {
                let wanted = Wanted { stdin: true, stdout: true, stderr: false, resize: false };
                let talk = move |mut streams: Streams, _| async move {
                    while let Some(bytes) = streams.stdin.as_mut().unwrap().recv().await {
                        told.send(bytes.len()).unwrap();
                    }
                };
                let answer = streams(request.map(Body::new), wanted, talk).await;
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        let server =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
        tokio::spawn(server.with_upgrades());
        let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            sec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        (client, sizes)
    }

    /// The head of a binary frame whose mask changes nothing.
    fn head(last: bool, first: bool, size: u64) -> Vec<u8> {
        let mut head = vec![u8::from(last) << 7 | if first { 2 } else { 0 }, 0xff];
        head.extend_from_slice(&size.to_be_bytes());
        head.extend_from_slice(&[0; 4]);
        head
    }

    #[tokio::test]
    async fn a_message_has_an_end() {
        use tokio::io::AsyncWriteExt;
        let (mut client, mut sizes) = connected().await;
        let usual = (1 << 20) + 1;
        client.write_all(&head(true, true, usual)).await.unwrap();
        client.write_all(&vec![0; usual as usize]).await.unwrap();
        assert_eq!(sizes.recv().await, Some(1 << 20));
        client.write_all(&head(true, true, MAX_MESSAGE as u64 + 1)).await.unwrap();
        assert_eq!(sizes.recv().await, None, "nobody waits for the rest");

        let (mut client, mut sizes) = connected().await;
        let piece = vec![0; MAX_MESSAGE / 2];
        for part in 0..3 {
            client.write_all(&head(false, part == 0, piece.len() as u64)).await.unwrap();
            // The server may have hung up.
            let _ = client.write_all(&piece).await;
        }
        assert_eq!(sizes.recv().await, None, "nor for more parts");
    }

    #[track_caller]
    fn check(offers: &[&str], expected: Result<&str, StatusCode>) {
        let mut request = Request::new(Body::empty());
        for offer in offers {
            let value = HeaderValue::from_str(offer).unwrap();
            request.headers_mut().append(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        let found = choose(&request, REMOTE_WEBSOCKET, |(name, _, _)| name, ("", 1, BINARY));
        assert_eq!(found.map(|found| found.0).map_err(|(code, _)| code), expected, "{offers:?}");
    }

    #[test]
    fn the_first_offer_that_is_known_wins() {
        check(&["v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io"], Ok("v5.channel.k8s.io"));
        check(&["v4.channel.k8s.io,v5.channel.k8s.io"], Ok("v4.channel.k8s.io"));
        check(&["v6.channel.k8s.io", "v5.channel.k8s.io", "v4.channel.k8s.io"], Ok("v5.channel.k8s.io"));
        check(&["channel.k8s.io, base64.channel.k8s.io"], Ok("channel.k8s.io"));
        check(&["v3.channel.k8s.io"], Err(StatusCode::FORBIDDEN));
        check(&[], Ok(""));
        check(&[" , "], Ok(""));
    }
}
