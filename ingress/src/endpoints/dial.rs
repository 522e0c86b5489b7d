//! New connections to endpoints, and why an endpoint has not answered.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// An endpoint that does not take the connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An endpoint that is silent this long on a connection is asked whether it lives.
pub const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why an endpoint has not answered.
pub enum Fault {
    /// No connection, so nothing has been sent.
    Connect(String),
    /// The endpoint closed the connection before it answered.
    Closed(String),
    /// What came is not valid HTTP.
    Invalid(String),
}

/// A connection that the kernel ends when the endpoint takes nothing for `patience` while there is something
/// for it to take: a client that has sent it cannot be seen to leave before it has been taken.
pub async fn connect(endpoint: SocketAddr, patience: Duration) -> Result<TcpStream, Fault> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await;
    let stream = connected
        .map_err(|late| Fault::Connect(late.to_string()))?
        .map_err(|error| Fault::Connect(error.to_string()))?;
    let socket = SockRef::from(&stream);
    let tuned = socket
        .set_tcp_user_timeout(Some(patience))
        .and_then(|()| socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE)))
        // Requests leave at once.
        .and_then(|()| socket.set_tcp_nodelay(true));
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket options not set");
    }
    Ok(stream)
}

/// Why a request that was sent has no answer.
pub fn fault(error: &(dyn Error + 'static)) -> Fault {
    let causes = std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    match closed_early(error) {
        true => Fault::Closed(text),
        false => Fault::Invalid(text),
    }
}

fn closed_early(error: &(dyn Error + 'static)) -> bool {
    if error.is::<std::io::Error>() {
        return true;
    }
    let closed = |e: &hyper::Error| e.is_incomplete_message() || e.is_canceled() || e.is_closed();
    error.downcast_ref().is_some_and(closed) || error.source().is_some_and(closed_early)
}
