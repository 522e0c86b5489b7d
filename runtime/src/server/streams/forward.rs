//! `port-forward`: each pair of streams, one for data and one for errors, is a connection to a
//! port of the pod, made from inside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proa_sandbox::protocol::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::channel::{Input, Output};
use super::spdy::{Opened, Session};
use super::websocket::Channels;
use crate::engine::Sandbox;

/// Bytes that are read at a time.
const READ: usize = 32 << 10;
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
}

/// Forwards for a SPDY client until it goes.
pub async fn spdy(pod: Arc<Pod>, mut session: Session) {
    let mut waiting = BTreeMap::<String, Opened>::new();
    let mut connections = JoinSet::new();
    loop {
        let opened = tokio::select! {
            () = session.closed.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            opened = session.opened.recv() => opened,
        };
        let Some(opened) = opened else { return };
        let Some(request) = request_id(&opened) else {
            tracing::debug!("a stream of a client that forwards ports has no type or port");
            continue;
        };
        match waiting.remove(&request) {
            None => drop(waiting.insert(request, opened)),
            Some(first) => {
                let (data, error) = if is_data(&first) { (first, opened) } else { (opened, first) };
                if !is_data(&data) || is_data(&error) {
                    continue;
                }
                let port = data.header("port").and_then(|port| port.parse().ok());
                let pod = Arc::clone(&pod);
                let work = async move { forward(&pod, port, data.input, data.output, error.output).await };
                connections.spawn(work);
            }
        }
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
        let connected = match port.filter(|port| *port > 0) {
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
