//! Answers of which each piece is one message of a WebSocket: logs and watches, as programs in
//! browsers read them.
//!
//! What the client sends is not looked at; that it goes ends the answer.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use proa_api::Refusal;

use super::api::Call;
use super::held::Held;

/// Between signs of life, by which a client that has vanished is noticed.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Most bytes of a client's message: none is looked at.
const MAX_MESSAGE: usize = 4 << 10;

/// What a piece becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A message of text.
    Text,
    /// A message of bytes.
    Binary,
    /// A message of text: the bytes in base64.
    Base64,
}

/// The subprotocols of a log; without any it is binary.
const OF_LOGS: &[(&str, Framing)] =
    &[("binary.k8s.io", Framing::Binary), ("base64.binary.k8s.io", Framing::Base64)];

/// Whether a client wants a WebSocket.
pub fn asked(call: &Call) -> bool {
    let upgrade = call.headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    call.upgrade.is_some() && upgrade.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
}

/// Answers with the pieces of a log. An empty message says that somebody is there.
pub async fn log(call: &Call, answer: Response<Body>) -> Result<Response<Body>, Refusal> {
    let (name, framing) = of_logs(&call.headers)?;
    let (socket, held) = (accept(call, name).await?, call.held.clone());
    Ok(socket.on_upgrade(move |socket| send(socket, answer.into_body(), held, framing, true)))
}

/// Answers with the events of a watch. They are of one kind, whatever a client calls it.
pub async fn watch(call: &Call, answer: Response<Body>) -> Result<Response<Body>, Refusal> {
    let name = offers(&call.headers).first().copied().unwrap_or_default();
    let (socket, held) = (accept(call, name).await?, call.held.clone());
    Ok(socket.on_upgrade(move |socket| send(socket, answer.into_body(), held, Framing::Text, false)))
}

fn offers(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let values = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    values.map(str::trim).filter(|offer| !offer.is_empty()).collect()
}

/// The client's first offer that is known.
fn of_logs(headers: &HeaderMap) -> Result<(&str, Framing), Refusal> {
    let offers = offers(headers);
    if offers.is_empty() {
        return Ok(("", Framing::Binary));
    }
    let known = |offer: &&str| OF_LOGS.iter().find(|(name, _)| name == offer).copied();
    offers.iter().find_map(known).ok_or_else(|| {
        let text = format!(
            "requested protocol(s) are not supported: [{}]; the server supports [binary.k8s.io base64.binary.k8s.io]",
            offers.join(" ")
        );
        Refusal::new(403, "Forbidden", text)
    })
}

async fn accept(call: &Call, protocol: &str) -> Result<WebSocketUpgrade, Refusal> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers = call.headers.clone();
    if let Some(connection) = &call.upgrade {
        parts.extensions.insert(connection.clone());
    }
    let socket = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let socket = socket.map_err(|error| Refusal::bad_request(error.body_text()))?;
    let mut socket = socket.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    if !protocol.is_empty() {
        let protocol = HeaderValue::from_str(protocol).map_err(Refusal::internal)?;
        socket.set_selected_protocol(protocol);
    }
    Ok(socket)
}

async fn send(socket: WebSocket, body: Body, held: Held, framing: Framing, hello: bool) {
    let (sink, stream) = socket.split();
    tokio::select! {
        () = until_gone(stream) => {}
        sent = write(sink, body.into_data_stream(), &held, framing, hello) => {
            if let Err(error) = sent {
                tracing::debug!(%error, "a WebSocket ended early");
            }
        }
    }
}

async fn until_gone(mut stream: SplitStream<WebSocket>) {
    while let Some(Ok(message)) = stream.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut pieces: BodyDataStream,
    held: &Held,
    framing: Framing,
    hello: bool,
) -> Result<(), axum::Error> {
    if hello {
        sink.send(message(Bytes::new(), framing)).await?;
    }
    loop {
        let next = tokio::select! {
            next = pieces.next() => next,
            () = tokio::time::sleep(PING_EVERY) => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match next {
            Some(piece) => {
                let piece = piece?;
                let _counted = held.count(piece.len()).map_err(axum::Error::new)?;
                sink.send(message(piece, framing)).await?;
            }
            None => {
                let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
                return sink.send(Message::Close(Some(close))).await;
            }
        }
    }
}

fn message(piece: Bytes, framing: Framing) -> Message {
    match framing {
        Framing::Text => Message::text(String::from_utf8_lossy(&piece).into_owned()),
        Framing::Binary => Message::Binary(piece),
        Framing::Base64 => Message::text(BASE64_STANDARD.encode(piece)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(offer: &'static str, expected: Option<(&str, Framing)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer));
        assert_eq!(of_logs(&headers).ok(), expected, "{offer}");
    }

    #[test]
    fn the_first_known_offer_says_how_a_log_comes() {
        check("", Some(("", Framing::Binary)));
        check("binary.k8s.io", Some(("binary.k8s.io", Framing::Binary)));
        check("x, base64.binary.k8s.io, binary.k8s.io", Some(("base64.binary.k8s.io", Framing::Base64)));
        check("x", None);
        assert_eq!(message("hi".into(), Framing::Base64), Message::text("aGk="));
        assert_eq!(message("hi".into(), Framing::Binary), Message::Binary("hi".into()));
    }
}
