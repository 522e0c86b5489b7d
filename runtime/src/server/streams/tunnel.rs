//! A WebSocket as a plain stream of bytes, for the protocol that is tunnelled through it:
//! `SPDY/3.1+portforward.k8s.io`
//! (<https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets>).

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

/// Bytes on their way in each direction.
const BUFFER: usize = 64 << 10;
/// How long a client may take to hang up after the end.
const LINGER: Duration = Duration::from_secs(5);

/// Carries the bytes of binary messages; where they are cut means nothing.
pub fn bytes(socket: WebSocket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (from, to) = tokio::io::split(far);
    let (sink, stream) = socket.split();
    tokio::spawn(async move {
        let mut reading = std::pin::pin!(read(stream, to));
        let writing = std::pin::pin!(write(sink, from));
        // When either is over so is the other: what remains is the client's farewell.
        tokio::select! {
            () = &mut reading => {}
            _ = writing => {
                let _ = tokio::time::timeout(LINGER, reading).await;
            }
        }
    });
    near
}

async fn read(
    mut stream: impl StreamExt<Item = Result<Message, axum::Error>> + Unpin,
    mut to: WriteHalf<DuplexStream>,
) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) => {
                // What nobody takes is thrown away, until the client has hung up.
                let _ = to.write_all(&bytes).await;
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) => break,
        }
    }
    let _ = to.shutdown().await;
}

async fn write(
    mut sink: impl SinkExt<Message, Error = axum::Error> + Unpin,
    mut from: ReadHalf<DuplexStream>,
) -> Result<(), axum::Error> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BUFFER);
        match from.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => sink.send(Message::Binary(buffer.split().freeze())).await?,
            _ => {
                let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
                return sink.send(Message::Close(Some(close))).await;
            }
        }
    }
}
