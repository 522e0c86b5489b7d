//! A client's side by hand, over a pipe in memory.

use std::time::Duration;

use tokio::io::DuplexStream;

use super::*;
use crate::server::streams::spdy::frame::syn_stream;

/// A client that writes bytes and reads frames.
struct Client {
    stream: DuplexStream,
    headers: Writer,
    input: BytesMut,
}

fn connect() -> (Client, Session) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (Client { stream: near, headers: Writer::new(), input: BytesMut::new() }, serve(far))
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let block = self.headers.write(&[("streamtype", kind)]);
        self.send(&syn_stream(stream, false, &block)).await;
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        self.send(&[&frame::data_head(stream, bytes.len(), fin)[..], bytes].concat()).await;
    }

    /// The first eight bytes of the next frame, and the rest. `None` at the end.
    async fn frame(&mut self) -> Option<(u64, Bytes)> {
        loop {
            if let Some(head) = self.input.first_chunk::<8>() {
                let head = u64::from_be_bytes(*head);
                let length = (head & 0xff_ffff) as usize;
                if self.input.len() >= 8 + length {
                    return Some((head, self.input.split_to(8 + length).freeze().slice(8..)));
                }
            }
            let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.input));
            if read.await.expect("a frame in time").unwrap() == 0 {
                return None;
            }
        }
    }

    /// The next frame must be a control frame of this type.
    async fn control(&mut self, kind: u16) -> Bytes {
        let (head, payload) = self.frame().await.expect("a frame");
        assert_eq!(head >> 32, u64::from(0x8003_0000 | u32::from(kind)), "{payload:?}");
        payload
    }

    /// The next frame must be data of this stream.
    async fn expect(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        let (head, found) = self.frame().await.expect("a frame");
        assert_eq!((head >> 32, head >> 24 & 0xff, &found[..]), (stream.into(), fin.into(), bytes));
    }
}

const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const WINDOW_UPDATE: u16 = 9;

#[tokio::test]
async fn streams_go_both_ways_and_end() {
    let (mut client, mut session) = connect();
    client.open(1, "stdin").await;
    client.data(1, b"hello", false).await;
    client.data(1, b"", true).await;
    let mut opened = session.opened.recv().await.unwrap();
    assert_eq!(opened.header("streamtype"), Some("stdin"));
    assert_eq!(opened.input.recv().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(opened.input.recv().await, None);
    opened.output.send("back".into()).await.unwrap();
    opened.output.end().await;
    client.control(SYN_REPLY).await;
    client.expect(1, b"back", false).await;
    client.expect(1, b"", true).await;
    client.send(&frame::ping(5)).await;
    assert_eq!(&client.control(PING).await[..], [0, 0, 0, 5]);
    drop(session);
    assert_eq!(&client.control(GOAWAY).await[4..], [0; 4]);
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn when_the_client_goes_all_is_over() {
    let (mut client, mut session) = connect();
    client.open(1, "stdout").await;
    let opened = session.opened.recv().await.unwrap();
    drop(client);
    session.closed.cancelled().await;
    assert!(opened.output.closed.is_cancelled());
    assert!(opened.output.send("x".into()).await.is_err());
}

#[tokio::test]
async fn a_stream_can_be_reset() {
    let (mut client, mut session) = connect();
    client.open(1, "data").await;
    let opened = session.opened.recv().await.unwrap();
    client.control(SYN_REPLY).await;
    client.send(&frame::rst_stream(1, Reset::ProtocolError)).await;
    opened.output.closed.cancelled().await;
    assert!(!session.closed.is_cancelled(), "the connection goes on");
    client.data(1, b"late", false).await;
    client.send(&frame::ping(1)).await;
    client.control(PING).await;
}

#[tokio::test]
async fn headers_that_mean_nothing_are_not_kept() {
    let (mut client, mut session) = connect();
    let (large, number) = ("a".repeat(60_000), "1".repeat(MAX_KEPT_VALUE + 1));
    let headers = [("port", "80"), ("requestid", &*number), ("streamtype", "data"), ("x", &*large)];
    let block = client.headers.write(&headers);
    client.send(&syn_stream(1, false, &block)).await;
    let opened = session.opened.recv().await.unwrap();
    let kept: Vec<_> = opened.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(kept, [("port", "80"), ("streamtype", "data")]);
}

#[tokio::test]
async fn numbers_of_streams_are_odd_and_grow() {
    let (mut client, _session) = connect();
    client.open(3, "data").await;
    client.control(SYN_REPLY).await;
    for stream in [2, 1, 3] {
        client.open(stream, "data").await;
        assert_eq!(&client.control(RST_STREAM).await[..], [0, 0, 0, stream as u8, 0, 0, 0, 1]);
    }
    client.data(9, b"x", false).await;
    assert_eq!(&client.control(RST_STREAM).await[..], [0, 0, 0, 9, 0, 0, 0, 2]);
}

#[tokio::test]
async fn who_does_not_speak_spdy_is_told_so() {
    let (mut client, session) = connect();
    client.send(b"\x80\x02\0\x01\0\0\0\0").await;
    assert_eq!(&client.control(GOAWAY).await[4..], [0, 0, 0, 1]);
    session.closed.cancelled().await;
}

#[tokio::test]
async fn windows_are_kept_and_given() {
    let (mut client, mut session) = connect();
    // An initial window of 10 bytes.
    client.send(b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\0\0\0\x07\0\0\0\x0a").await;
    client.open(1, "data").await;
    let mut opened = session.opened.recv().await.unwrap();
    client.control(SYN_REPLY).await;
    let sending = tokio::spawn(async move {
        opened.output.send("0123456789abcde".into()).await.unwrap();
        let mut found = 0;
        while let Some(bytes) = opened.input.recv().await {
            found += bytes.len();
        }
        found
    });
    client.expect(1, b"0123456789", false).await;
    client.send(&frame::window_update(1, 100)).await;
    client.expect(1, b"abcde", false).await;
    client.data(1, &vec![0; 40_000], false).await;
    assert_eq!(&client.control(WINDOW_UPDATE).await[..4], [0, 0, 0, 1]);
    assert_eq!(&client.control(WINDOW_UPDATE).await[..4], [0; 4]);
    client.data(1, b"", true).await;
    assert_eq!(sending.await.unwrap(), 40_000);
}
