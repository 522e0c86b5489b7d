//! DNS over TCP: connections of clients, of which each has so many at most.
//!
//! hickory reads and writes the messages; its own listener takes whatever comes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp::TcpStream;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::MessageType;
use hickory_server::server::{Request, RequestHandler, ResponseHandle};
use proa_api::seldom::Seldom;
use proa_api::shares::Room;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How long a client may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait on one connection for a client that does not read.
const ANSWERS: usize = 32;
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections for ever.
pub async fn serve(listener: &TcpListener, handler: impl RequestHandler + Clone, room: Room) {
    let (mut connections, failures) = (JoinSet::new(), Seldom::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, client)) => {
                let Some(guest) = room.take(client.ip()) else {
                    tracing::debug!(%client, "too many connections are open");
                    continue;
                };
                let handler = handler.clone();
                connections.spawn(async move {
                    connection(stream, client, handler).await;
                    drop(guest);
                });
            }
            Err(error) => {
                if failures.is_due(Instant::now()) {
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, client: SocketAddr, handler: impl RequestHandler) {
    let (mut messages, answers) =
        TcpStream::from_stream_with_buffer_size(AsyncIoTokioAsStd(stream), client, ANSWERS);
    while let Ok(Some(Ok(message))) = tokio::time::timeout(IDLE, messages.next()).await {
        let (bytes, from) = message.into_parts();
        // One at a time: who asks faster waits for the answers.
        let Ok(request) = Request::from_bytes(bytes, from, Protocol::Tcp) else { return };
        if request.metadata.message_type == MessageType::Query {
            let to = ResponseHandle::new(from, answers.clone(), Protocol::Tcp);
            handler.handle_request::<_, TokioTime>(&request, to).await;
        }
    }
}
