//! `port-forward`: each pair of streams, one for data and one for errors, is a connection to a
//! port of the pod, made from inside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proa_api::shares::Shares;
use proa_sandbox::protocol::Request;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::channel::{Input, Output};
use super::open::Taken;
use super::spdy::{Opened, Session};
use super::websocket::Channels;
use crate::engine::Sandbox;

/// Bytes that are read at a time.
const READ: usize = 32 << 10;
/// A pod that takes nothing for so long of what is sent to it is given up.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a client may go on sending to a server that has closed its side.
const LINGER: Duration = Duration::from_secs(1);

/// The pod whose ports are forwarded.
pub struct Pod {
    /// `name_namespace`, for messages.
    pub name: String,
    /// `metadata.uid`, for messages.
    pub uid: String,
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Room for connections, by `uid`.
    pub connections: Arc<Shares<String>>,
    /// What the client takes of the node.
    pub _share: Taken,
}

/// Forwards for a SPDY client until it goes.
pub async fn spdy(pod: Arc<Pod>, mut session: Session) {
    let mut waiting = Waiting::default();
    let mut connections = JoinSet::new();
    loop {
        let opened = tokio::select! {
            () = session.closed.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            opened = session.opened.recv() => opened,
        };
        let Some(opened) = opened else { return };
        if let Some((data, error)) = waiting.pair(opened) {
            let port = data.header("port").and_then(|port| port.parse().ok());
            let pod = Arc::clone(&pod);
            let work = async move { forward(&pod, port, data.input, data.output, error.output).await };
            connections.spawn(work);
        }
    }
}

/// Streams whose partner has not come yet, by what both have in common.
#[derive(Default)]
struct Waiting(BTreeMap<String, Opened>);

impl Waiting {
    /// The streams for data and for errors of a connection, once both are there.
    fn pair(&mut self, opened: Opened) -> Option<(Opened, Opened)> {
        // A stream that the client has reset waits for nothing, and counts no more as one of its streams.
        self.0.retain(|_, opened| !opened.output.closed.is_cancelled());
        let Some(request) = request_id(&opened) else {
            tracing::debug!("a stream of a client that forwards ports has no type or port");
            return None;
        };
        let Some(first) = self.0.remove(&request) else {
            self.0.insert(request, opened);
            return None;
        };
        let (data, error) = if is_data(&first) { (first, opened) } else { (opened, first) };
        (is_data(&data) && !is_data(&error)).then_some((data, error))
    }
}

fn is_data(opened: &Opened) -> bool {
    opened.header("streamtype") == Some("data")
}

/// What both streams of a connection have in common. Old clients do not number requests: there the
/// stream for data comes right after that for errors.
fn request_id(opened: &Opened) -> Option<String> {
    opened.header("port")?;
    let kind = opened.header("streamtype").filter(|kind| matches!(*kind, "data" | "error"))?;
    Some(match opened.header("requestid") {
        Some(id) => id.to_owned(),
        None if kind == "data" => format!("stream {}", opened.output.stream.saturating_sub(2)),
        None => format!("stream {}", opened.output.stream),
    })
}

/// Forwards for a client that has two channels for each port, and one connection to it.
pub async fn websocket(pod: Arc<Pod>, ports: Vec<u16>, mut channels: Channels) {
    let mut connections = JoinSet::new();
    for (port, number) in ports.into_iter().zip((0_u8..).step_by(2)) {
        let taken = (channels.inputs.remove(&number), channels.outputs.remove(&number));
        let (Some(input), Some(data)) = taken else { return };
        let Some(error) = channels.outputs.remove(&(number + 1)) else { return };
        let pod = Arc::clone(&pod);
        connections.spawn(async move {
            let greeting = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.send(greeting.clone()).await.is_ok() && error.send(greeting).await.is_ok() {
                forward(&pod, Some(port), input, data, error).await;
            }
        });
    }
    tokio::select! {
        () = channels.closed.cancelled() => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
}

async fn forward(pod: &Pod, port: Option<u16>, input: Input, data: Output, error: Output) {
    let closed = data.closed.clone();
    let work = async {
        let share = pod.connections.take(pod.uid.clone());
        let connected = match port.filter(|port| *port > 0) {
            Some(_) if share.is_none() => Err("too many connections are forwarded to this pod".to_owned()),
            Some(port) => connect(pod, port).await,
            None => Err("unable to parse the port".to_owned()),
        };
        match connected {
            Ok(stream) => {
                let (read, write) = stream.into_split();
                let mut sending = std::pin::pin!(copy_in(input, write));
                let mut receiving = std::pin::pin!(copy_out(read, data));
                tokio::select! {
                    () = &mut sending => receiving.await,
                    // Not every client can say that it has nothing more to send.
                    () = &mut receiving => drop(tokio::time::timeout(LINGER, sending).await),
                }
            }
            Err(why) => {
                let _ = error.send(why.into()).await;
                data.end().await;
            }
        }
    };
    tokio::select! {
        () = closed.cancelled() => {}
        () = work => {}
    }
    // kubectl waits for this even when it has given up the data itself.
    error.end().await;
}

/// Connects as a program in the pod would connect to `localhost`.
async fn connect(pod: &Pod, port: u16) -> Result<TcpStream, String> {
    let [v4, v6] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let first = match dial(pod, SocketAddr::new(v4, port)).await {
        Ok(stream) => return Ok(stream),
        Err(why) => why,
    };
    let second = match dial(pod, SocketAddr::new(v6, port)).await {
        Ok(stream) => return Ok(stream),
        Err(why) => why,
    };
    Err(format!(
        "error forwarding port {port} to pod {}, uid {}: failed to connect to localhost:{port} inside \
         the pod, IPv4: {first} IPv6: {second}",
        pod.name, pod.uid
    ))
}

async fn dial(pod: &Pod, address: SocketAddr) -> Result<TcpStream, String> {
    let v6 = address.is_ipv6();
    let mut opened = pod.sandbox.open(Request::Socket { v6 }).await.map_err(|error| error.to_string())?;
    let (_, fd) = opened.streams.pop().ok_or("the sandbox gave no socket")?;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(fd));
    let stream = socket.connect(address).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp{} {address}: {why}", if v6 { 6 } else { 4 })
    })?;
    let _ = stream.set_nodelay(true);
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_LIMIT)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
    }
    Ok(stream)
}

async fn copy_in(mut input: Input, mut write: OwnedWriteHalf) {
    while let Some(bytes) = input.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

async fn copy_out(mut read: OwnedReadHalf, output: Output) {
    let mut buffer = BytesMut::with_capacity(READ);
    while let Ok(n) = read.read_buf(&mut buffer).await
        && n > 0
        && output.send(buffer.split().freeze()).await.is_ok()
    {
        buffer.reserve(READ);
    }
    output.end().await;
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn opened(kind: &str, request: usize) -> Opened {
        let header = |name: &str, value: String| (name.to_owned(), value);
        let headers = vec![
            header("streamtype", kind.to_owned()),
            header("port", "80".to_owned()),
            header("requestid", request.to_string()),
        ];
        let (queue, _) = mpsc::channel(1);
        let output = Output { stream: 1, queue, flow: None, closed: CancellationToken::new() };
        Opened { headers, input: mpsc::channel(1).1, output }
    }

    #[test]
    fn streams_find_their_partners() {
        let mut waiting = Waiting::default();
        assert!(waiting.pair(opened("error", 0)).is_none());
        assert!(waiting.pair(opened("data", 1)).is_none());
        let (data, error) = waiting.pair(opened("data", 0)).expect("both are there");
        assert!(is_data(&data) && !is_data(&error));
        assert!(waiting.pair(opened("error", 1)).is_some());
        assert!(waiting.0.is_empty());
    }

    #[test]
    fn what_was_reset_is_not_kept() {
        let mut waiting = Waiting::default();
        for request in 0..100 {
            let stream = opened("error", request);
            let reset = stream.output.closed.clone();
            waiting.pair(stream);
            reset.cancel();
        }
        assert_eq!(waiting.0.len(), 1);
    }
}
