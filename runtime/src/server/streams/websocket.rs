//! Streams as channels of one WebSocket: each message begins with the number of its channel.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#websockets>. In the base64
//! variants the number is a digit and the rest is encoded. Version 5 adds a message that ends a
//! channel, without which a client cannot end a command's input.

use std::collections::BTreeMap;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channel::{Input, Outgoing, Output, PIECES, Untaken};

/// The channel whose messages end others.
const CLOSE: u8 = 255;
/// How long a client may take to hang up after the end.
const LINGER: Duration = Duration::from_secs(5);
/// Between signs of life, by which a client that has vanished is noticed.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How messages are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// In base64, with a digit for the channel.
    pub base64: bool,
    /// Channels can be ended.
    pub ends: bool,
}

/// A connection with its channels.
pub struct Channels {
    /// What comes in.
    pub inputs: BTreeMap<u8, Input>,
    /// What goes out.
    pub outputs: BTreeMap<u8, Output>,
    /// The connection is over.
    pub closed: CancellationToken,
}

/// Serves a client. `hello` is the channel on which it is sent an empty message, by which it knows
/// that somebody is there; none where the first message of each channel means something else.
pub fn serve(
    socket: WebSocket,
    coding: Coding,
    inputs: &[u8],
    outputs: &[u8],
    hello: Option<u8>,
) -> Channels {
    let closed = CancellationToken::new();
    let (queue, outgoing) = mpsc::channel(PIECES);
    let (mut senders, mut channels) = (BTreeMap::new(), BTreeMap::new());
    for channel in inputs {
        let (send, input) = mpsc::channel(PIECES);
        senders.insert(*channel, send);
        channels.insert(*channel, input);
    }
    let output = |channel: &u8| {
        let output =
            Output { stream: (*channel).into(), queue: queue.clone(), flow: None, closed: closed.clone() };
        (*channel, output)
    };
    let outputs = outputs.iter().map(output).collect();
    let (sink, stream) = socket.split();
    let over = closed.clone();
    tokio::spawn(async move {
        let mut reading = std::pin::pin!(read(stream, coding, senders));
        let writing = std::pin::pin!(write(sink, coding, outgoing, hello));
        tokio::select! {
            () = &mut reading => {}
            written = writing => {
                if written.is_ok() {
                    let _ = tokio::time::timeout(LINGER, reading).await;
                }
            }
        }
        over.cancel();
    });
    Channels { inputs: channels, outputs, closed }
}

async fn read(
    mut stream: SplitStream<WebSocket>,
    coding: Coding,
    mut inputs: BTreeMap<u8, mpsc::Sender<Bytes>>,
) {
    let room = Untaken::new();
    while let Some(Ok(message)) = stream.next().await {
        let message = match message {
            Message::Binary(bytes) => bytes,
            // Some clients send what is text as text.
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        let Some((channel, bytes)) = decode(coding, message) else { return };
        if channel == CLOSE && coding.ends {
            inputs.retain(|channel, _| bytes.first() != Some(channel));
        } else if let Some(input) = inputs.get(&channel).filter(|_| !bytes.is_empty()) {
            // What nobody takes is thrown away.
            let _ = input.send(room.hold(bytes).await).await;
        }
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    coding: Coding,
    mut outgoing: mpsc::Receiver<Outgoing>,
    hello: Option<u8>,
) -> Result<(), axum::Error> {
    if let Some(hello) = hello {
        sink.send(encode(coding, hello, &Bytes::new())).await?;
    }
    loop {
        let next = tokio::select! {
            next = outgoing.recv() => next,
            () = tokio::time::sleep(PING_EVERY) => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match next {
            Some(Outgoing::Data(channel, bytes)) => {
                sink.send(encode(coding, u8::try_from(channel).unwrap_or(CLOSE), &bytes)).await?;
            }
            // Clients are told of the end of everything only.
            Some(Outgoing::End(_) | Outgoing::Control(_) | Outgoing::Last(_)) => {}
            None => {
                let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
                return sink.send(Message::Close(Some(close))).await;
            }
        }
    }
}

/// The channel of a message and what it holds. `None` for one that is not in the coding.
fn decode(coding: Coding, mut message: Bytes) -> Option<(u8, Bytes)> {
    if message.is_empty() {
        return Some((CLOSE, message));
    }
    let first = message.split_to(1)[0];
    if !coding.base64 {
        return Some((first, message));
    }
    let channel = first.checked_sub(b'0').filter(|channel| *channel < 10)?;
    Some((channel, BASE64_STANDARD.decode(&message).ok()?.into()))
}

fn encode(coding: Coding, channel: u8, bytes: &Bytes) -> Message {
    if coding.base64 {
        return Message::text(format!("{channel}{}", BASE64_STANDARD.encode(bytes)));
    }
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: Coding = Coding { base64: false, ends: true };
    const BASE64: Coding = Coding { base64: true, ends: false };

    fn check(coding: Coding, message: &'static [u8], expected: Option<(u8, &[u8])>) {
        let found = decode(coding, Bytes::from_static(message));
        assert_eq!(found.as_ref().map(|(channel, bytes)| (*channel, &bytes[..])), expected, "{message:?}");
    }

    #[test]
    fn messages() {
        check(BINARY, b"\0hello", Some((0, b"hello")));
        check(BINARY, b"\xff\0", Some((255, b"\0")));
        check(BINARY, b"\x04", Some((4, b"")));
        check(BINARY, b"", Some((255, b"")));
        check(BASE64, b"0aGVsbG8=", Some((0, b"hello")));
        check(BASE64, b"0", Some((0, b"")));
        check(BASE64, b"0!", None);
        check(BASE64, b"xaGVsbG8=", None);
        assert_eq!(encode(BINARY, 1, &"hi".into()), Message::Binary("\x01hi".into()));
        assert_eq!(encode(BASE64, 3, &"hi".into()), Message::text("3aGk="));
    }
}
