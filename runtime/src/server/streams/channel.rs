//! One stream of a client, seen from the node: what comes in, and what goes out.
//!
//! Made by `spdy` and `websocket`, which carry many of them over one connection; used by `remote`
//! and `forward`.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::spdy::flow::Flow;

/// Most bytes that go out in one piece.
const MAX_PIECE: usize = 32 << 10;
/// Pieces that wait in a stream, in each direction, before whoever sends more has to wait.
pub const PIECES: usize = 16;

/// Bytes that one client may have sent, on all of its streams together, and nobody has taken yet.
const UNTAKEN_BYTES: u32 = 1 << 20;
/// What a piece costs beside its bytes, so that many small ones are not free.
const PIECE_COST: u32 = 256;

/// What a client sends on one stream; it ends where the client ends it. That the whole connection
/// has ended is another matter: see [`Output::closed`].
pub type Input = mpsc::Receiver<Bytes>;

/// Untaken for what one client has sent and nobody has taken yet.
#[derive(Debug)]
pub struct Untaken(Arc<Semaphore>);

/// Bytes with their part of the room, which is free again when they are dropped.
struct Held {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Untaken {
    /// For a connection.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNTAKEN_BYTES as usize)))
    }

    /// A copy that takes its part of the room for as long as it is there. Waits until there is room.
    /// What it is copied from may be a slice of something larger, which would live as long.
    pub async fn hold(&self, bytes: Bytes) -> Bytes {
        let size = u32::try_from(bytes.len()).unwrap_or(UNTAKEN_BYTES).saturating_add(PIECE_COST);
        match Arc::clone(&self.0).acquire_many_owned(size.min(UNTAKEN_BYTES)).await {
            Ok(permit) => Bytes::from_owner(Held { bytes: bytes.to_vec(), _permit: permit }),
            // It is never closed.
            Err(_) => bytes,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_nobody_takes_is_bounded() {
        let room = Untaken::new();
        let piece = Bytes::from(vec![0; UNTAKEN_BYTES as usize / 4]);
        let held: Vec<Bytes> =
            std::iter::from_fn(|| room.hold(piece.clone()).now_or_never()).take(9).collect();
        assert_eq!(held.len(), 3, "four and what they cost are too many");
        assert_eq!(held[0], piece);
        drop(held);
        let larger = Bytes::from(vec![0; 2 * UNTAKEN_BYTES as usize]);
        let all = room.hold(larger).now_or_never().expect("what is larger than the room takes all of it");
        assert_eq!(room.hold("x".into()).now_or_never(), None);
        drop(all);
        let small = std::iter::from_fn(|| room.hold("x".into()).now_or_never());
        assert!(small.take(100_000).collect::<Vec<_>>().len() < 5_000);
    }
}
