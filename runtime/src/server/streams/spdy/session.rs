//! One SPDY connection: reads frames and gives out the streams that the client opens, writes what
//! goes out on them.
//!
//! When nobody here holds the session or a stream any more, what has been written is flushed and
//! the connection ended. When the client goes, `closed` says so to all.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::flow::Flow;
use super::frame::{self, Decoder, Frame, GoAway, Reset};
use super::headers::{Headers, Writer};
use crate::server::streams::channel::{Input, Outgoing, Output, PIECES, Untaken};

/// Streams at a time: a client that forwards ports has two for each connection.
const MAX_STREAMS: usize = 1000;
/// Streams that have been opened and not been looked at.
const MAX_OPENED: usize = 64;
/// The headers by which streams are told apart; nobody asks for others.
const KEPT: [&str; 3] = ["streamtype", "port", "requestid"];
/// Longest value of those: kinds and numbers.
const MAX_KEPT_VALUE: usize = 64;
/// Between signs of life, by which a client that has vanished is noticed.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a client may take to hang up after the end.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that are read at a time.
const READ: usize = 32 << 10;
/// Bytes that are collected into one write.
const WRITE: usize = 64 << 10;
/// So much must have been taken before the client is told that it may send as much again.
const UPDATE: u32 = 32 << 10;

/// A connection.
pub struct Session {
    /// Streams as the client opens them.
    pub opened: mpsc::Receiver<Opened>,
    /// The connection is over.
    pub closed: CancellationToken,
    /// Keeps the connection open between streams.
    _queue: mpsc::Sender<Outgoing>,
}

/// A stream that the client has opened.
pub struct Opened {
    /// What it is for.
    pub headers: Headers,
    /// What the client sends on it.
    pub input: Input,
    /// What goes to the client on it.
    pub output: Output,
}

impl Opened {
    /// A header; their names are in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Serves a client.
pub fn serve<S>(stream: S) -> Session
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (queue, outgoing) = mpsc::channel(PIECES);
    let (give, opened) = mpsc::channel(MAX_OPENED);
    let closed = CancellationToken::new();
    let reader = Reader {
        decoder: Decoder::new(),
        replies: Writer::new(),
        queue: queue.downgrade(),
        flow: Arc::new(Flow::new()),
        streams: BTreeMap::new(),
        last: 0,
        taken: 0,
        room: Untaken::new(),
        give,
        closed: closed.clone(),
    };
    tokio::spawn(drive(stream, reader, outgoing, closed.clone()));
    Session { opened, closed, _queue: queue }
}

async fn drive<S>(
    stream: S,
    mut reader: Reader,
    mut outgoing: mpsc::Receiver<Outgoing>,
    closed: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, mut write) = tokio::io::split(stream);
    {
        let mut reading = std::pin::pin!(reader.run(read));
        let writing = std::pin::pin!(write_all(&mut write, &mut outgoing));
        tokio::select! {
            () = &mut reading => {}
            written = writing => {
                if written.is_ok() {
                    // Who closes first with something unread makes the other lose it.
                    let _ = tokio::time::timeout(LINGER, reading).await;
                }
            }
        }
    }
    closed.cancel();
    // It may be too late for that.
    let _ = tokio::time::timeout(LINGER, write.shutdown()).await;
}

/// Writes what comes, until nobody is left who could send more.
async fn write_all(
    write: &mut (impl AsyncWrite + Unpin),
    outgoing: &mut mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let (mut buffer, mut last) = (BytesMut::with_capacity(WRITE), false);
    let mut pings = (2_u32..).step_by(2);
    while !last {
        let first = tokio::select! {
            first = outgoing.recv() => first,
            () = tokio::time::sleep(PING_EVERY) => pings.next().map(|id| Outgoing::Control(frame::ping(id))),
        };
        let mut next = Some(first.unwrap_or_else(|| Outgoing::Last(frame::goaway(0, GoAway::Ok))));
        while let Some(outgoing_now) = next.take() {
            match outgoing_now {
                Outgoing::Data(stream, bytes) => {
                    buffer.extend_from_slice(&frame::data_head(stream, bytes.len(), false));
                    buffer.extend_from_slice(&bytes);
                }
                Outgoing::End(stream) => buffer.extend_from_slice(&frame::data_head(stream, 0, true)),
                Outgoing::Control(bytes) => buffer.extend_from_slice(&bytes),
                Outgoing::Last(bytes) => {
                    buffer.extend_from_slice(&bytes);
                    last = true;
                }
            }
            if !last && buffer.len() < WRITE {
                next = outgoing.try_recv().ok();
            }
        }
        write.write_all(&buffer).await?;
        write.flush().await?;
        buffer.clear();
    }
    Ok(())
}

/// What is known of the client's streams.
struct Reader {
    decoder: Decoder,
    replies: Writer,
    /// Weak, so that the connection ends when nobody else can send.
    queue: mpsc::WeakSender<Outgoing>,
    flow: Arc<Flow>,
    streams: BTreeMap<u32, Peer>,
    /// The newest stream.
    last: u32,
    /// Bytes that the client has not been told of as taken, of all streams.
    taken: u32,
    /// For what nobody has taken, of all streams.
    room: Untaken,
    give: mpsc::Sender<Opened>,
    closed: CancellationToken,
}

/// The client's side of one stream.
struct Peer {
    /// Until the client has ended it.
    input: Option<mpsc::Sender<Bytes>>,
    /// Bytes that the client has not been told of as taken.
    taken: u32,
    closed: CancellationToken,
}

impl Reader {
    /// Reads until the client ends the connection, or breaks the rules.
    async fn run(&mut self, mut read: impl AsyncRead + Unpin) {
        loop {
            loop {
                match self.decoder.next() {
                    Ok(Some(frame)) => {
                        if let Err(why) = self.frame(frame).await {
                            return self.give_up(why).await;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return self.give_up(error.to_string()).await,
                }
            }
            self.decoder.input().reserve(READ);
            match read.read_buf(self.decoder.input()).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
    }

    /// Says that the client is at fault; the writer then ends.
    async fn give_up(&mut self, why: String) {
        tracing::debug!(why, "a SPDY client is given up");
        self.send(Outgoing::Last(frame::goaway(self.last, GoAway::ProtocolError))).await;
        self.closed.cancelled().await;
    }

    async fn send(&self, outgoing: Outgoing) {
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.send(outgoing).await;
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                self.open(stream, fin, unidirectional, headers).await;
            }
            Frame::Data { stream, bytes, fin } => self.data(stream, bytes, fin).await,
            Frame::Headers { stream, fin } => {
                if let Some(peer) = self.streams.get_mut(&stream).filter(|_| fin) {
                    peer.input = None;
                }
            }
            Frame::Reset { stream } => {
                self.flow.end(stream);
                if let Some(peer) = self.streams.remove(&stream) {
                    peer.closed.cancel();
                }
            }
            Frame::Settings { initial_window: Some(size) } => {
                if !self.flow.set_initial(size) {
                    return Err(format!("an initial window of {size} bytes"));
                }
            }
            Frame::WindowUpdate { stream, delta } => {
                if !self.flow.grow(stream, delta) {
                    return Err(format!("a window of stream {stream} that is too large"));
                }
            }
            // Even ones are this side's own, come back.
            Frame::Ping(id) if id % 2 == 1 => self.send(Outgoing::Control(frame::ping(id))).await,
            Frame::Settings { .. } | Frame::Ping(_) | Frame::GoAway => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, fin: bool, unidirectional: bool, mut headers: Headers) {
        let flow = Arc::clone(&self.flow);
        self.streams.retain(|stream, peer| peer.input.is_some() || flow.open(*stream));
        let refused = if stream.is_multiple_of(2) || stream <= self.last {
            Some(Reset::ProtocolError)
        } else {
            (self.streams.len() >= MAX_STREAMS).then_some(Reset::RefusedStream)
        };
        if let Some(why) = refused {
            return self.send(Outgoing::Control(frame::rst_stream(stream, why))).await;
        }
        self.last = stream;
        let Some(queue) = self.queue.upgrade() else { return };
        let (send, input) = mpsc::channel(PIECES);
        let closed = self.closed.child_token();
        self.flow.begin(stream);
        // Before whatever is sent on it.
        let reply = frame::syn_reply(stream, &self.replies.write(&[]));
        let _ = queue.send(Outgoing::Control(reply)).await;
        let input_open = (!fin).then_some(send);
        self.streams.insert(stream, Peer { input: input_open, taken: 0, closed: closed.clone() });
        if unidirectional {
            closed.cancel();
        }
        let output = Output { stream, queue, flow: Some(flow), closed };
        headers.retain(|(name, value)| KEPT.contains(&name.as_str()) && value.len() <= MAX_KEPT_VALUE);
        headers.shrink_to_fit();
        // Nobody may be waiting for streams any more.
        let _ = self.give.send(Opened { headers, input, output }).await;
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        let size = bytes.len() as u32;
        let Some(peer) = self.streams.get_mut(&stream) else {
            // Of a stream that has been reset, some may still be on its way.
            if stream > self.last || stream.is_multiple_of(2) {
                self.send(Outgoing::Control(frame::rst_stream(stream, Reset::InvalidStream))).await;
            }
            return self.took(size).await;
        };
        if let Some(input) = &peer.input {
            if !bytes.is_empty() {
                // What nobody takes is thrown away.
                let _ = input.send(self.room.hold(bytes).await).await;
            }
            peer.taken = peer.taken.saturating_add(size);
        }
        if fin {
            peer.input = None;
        }
        let taken = if peer.taken >= UPDATE && !fin { std::mem::take(&mut peer.taken) } else { 0 };
        if taken > 0 {
            self.send(Outgoing::Control(frame::window_update(stream, taken))).await;
        }
        self.took(size).await;
    }

    /// Tells the client of what has been taken of all streams together.
    async fn took(&mut self, size: u32) {
        self.taken = self.taken.saturating_add(size);
        if self.taken >= UPDATE {
            let taken = std::mem::take(&mut self.taken);
            self.send(Outgoing::Control(frame::window_update(0, taken))).await;
        }
    }
}

#[cfg(test)]
mod tests;
