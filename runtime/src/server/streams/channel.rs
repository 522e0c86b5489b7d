//! One stream of a client, seen from the node: what comes in, and what goes out.
//!
//! Made by `spdy` and `websocket`, which carry many of them over one connection; used by `remote`
//! and `forward`.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spdy::flow::Flow;

/// Most bytes that go out in one piece.
const MAX_PIECE: usize = 32 << 10;
/// Pieces that wait in a stream, in each direction, before whoever sends more has to wait.
pub const PIECES: usize = 16;

/// What a client sends on one stream; it ends where the client ends it. That the whole connection
/// has ended is another matter: see [`Output::closed`].
pub type Input = mpsc::Receiver<Bytes>;

/// What is on its way to a client.
#[derive(Debug)]
pub enum Outgoing {
    /// Bytes of one stream.
    Data(u32, Bytes),
    /// The end of one stream.
    End(u32),
    /// A frame of the protocol's own, encoded.
    Control(Vec<u8>),
    /// The last frame, encoded: the connection is given up.
    Last(Vec<u8>),
}

/// The client takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// One stream to a client.
pub struct Output {
    /// Its number in the connection.
    pub stream: u32,
    /// What carries it.
    pub queue: mpsc::Sender<Outgoing>,
    /// What the client is ready to take, where it says so.
    pub flow: Option<Arc<Flow>>,
    /// The stream, or all of the connection, is over.
    pub closed: CancellationToken,
}

impl Output {
    /// Sends bytes, when the client is ready for them.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let mut size = bytes.len().min(MAX_PIECE);
            if let Some(flow) = &self.flow {
                size = tokio::select! {
                    () = self.closed.cancelled() => return Err(Closed),
                    size = flow.take(self.stream, size) => size,
                };
            }
            self.push(Outgoing::Data(self.stream, bytes.split_to(size))).await?;
        }
        Ok(())
    }

    /// Ends it.
    pub async fn end(self) {
        // To a client that has gone there is nothing to end.
        let _ = self.push(Outgoing::End(self.stream)).await;
        if let Some(flow) = &self.flow {
            flow.end(self.stream);
        }
    }

    async fn push(&self, outgoing: Outgoing) -> Result<(), Closed> {
        tokio::select! {
            () = self.closed.cancelled() => Err(Closed),
            sent = self.queue.send(outgoing) => sent.map_err(|_| Closed),
        }
    }
}

/// The streams of `exec` and `attach`, as far as the client has asked for them.
pub struct Streams {
    /// Standard input.
    pub stdin: Option<Input>,
    /// Standard output, or all of a terminal.
    pub stdout: Option<Output>,
    /// Standard error.
    pub stderr: Option<Output>,
    /// How it ended.
    pub error: Output,
    /// Sizes of the client's terminal.
    pub resize: Option<Input>,
    /// The connection is over.
    pub closed: CancellationToken,
}
