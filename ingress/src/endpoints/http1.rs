//! Connections over HTTP/1.1: each carries one request at a time, and waits for the next one after a whole
//! answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::dial::{self, Fault, fault};
use crate::body::{Body, Lent};

/// Idle connections that are kept for each endpoint.
const IDLE_CONNECTIONS: usize = 64;
/// Headers that an answer may have.
const ANSWER_HEADERS: usize = 256;
/// Most bytes of an answer's head, and of what waits to be taken by either side.
const BUFFER: usize = 32 << 10;
/// How long an endpoint that has answered may go on taking the request's body.
const LINGER: Duration = Duration::from_secs(2);

/// The connections that wait for a request.
#[derive(Clone)]
pub struct Pool {
    idle: Arc<Mutex<Idle>>,
    patience: Duration,
    ended: CancellationToken,
}

/// By endpoint, with the time since when they wait; the last one waits for the shortest time.
type Idle = HashMap<SocketAddr, Vec<(Instant, Connection)>>;

struct Connection {
    sender: SendRequest<Lent>,
    task: AbortOnDropHandle<()>,
}

/// The body of an answer. Dropped before its end it takes its connection along.
struct Answer {
    body: Incoming,
    has_ended: bool,
    endpoint: SocketAddr,
    connection: Option<Connection>,
    pool: Pool,
}

impl Pool {
    /// None yet. An endpoint may take nothing for so long; none is kept once all has `ended`.
    pub fn new(patience: Duration, ended: CancellationToken) -> Self {
        Pool { idle: Arc::default(), patience, ended }
    }

    /// Sends a request.
    pub async fn send(
        &self,
        endpoint: SocketAddr,
        mut request: Request<Lent>,
    ) -> Result<Response<Body>, Fault> {
        while let Some(connection) = self.take(endpoint) {
            match self.ask(endpoint, connection, request).await {
                Ok(answer) => return Ok(answer),
                // The endpoint closed the connection meanwhile.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(fault(&error.into_error())),
                },
            }
        }
        let stream = dial::connect(endpoint, self.patience).await?;
        let mut builder = Builder::new();
        builder.max_headers(ANSWER_HEADERS).max_buf_size(BUFFER);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| Fault::Connect(error.to_string()))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%endpoint, %error, "connection ended early");
            }
        });
        let connection = Connection { sender, task: AbortOnDropHandle::new(task) };
        let answer = self.ask(endpoint, connection, request).await;
        answer.map_err(|error| fault(&error.into_error()))
    }

    #[allow(clippy::result_large_err, reason = "what was not sent comes back whole")]
    async fn ask(
        &self,
        endpoint: SocketAddr,
        mut connection: Connection,
        request: Request<Lent>,
    ) -> Result<Response<Body>, TrySendError<Request<Lent>>> {
        let answer = connection.sender.try_send_request(request).await?;
        let connection = match answer.status() {
            // It becomes something else, which ends with its sides.
            StatusCode::SWITCHING_PROTOCOLS => {
                drop(connection.task.detach());
                None
            }
            _ => Some(connection),
        };
        let pool = self.clone();
        Ok(answer.map(|body| Answer { body, has_ended: false, endpoint, connection, pool }.boxed()))
    }

    fn take(&self, endpoint: SocketAddr) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = idle.get_mut(&endpoint)?;
        while let Some((_, connection)) = waiting.pop() {
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, endpoint: SocketAddr, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = idle.entry(endpoint).or_default();
        if waiting.len() < IDLE_CONNECTIONS && !self.ended.is_cancelled() {
            waiting.push((Instant::now(), connection));
        }
    }

    /// Drops the connections that nobody has used for so long.
    pub fn prune(&self, unused: Duration) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, waiting| {
            waiting.retain(|(since, connection)| since.elapsed() < unused && !connection.sender.is_closed());
            !waiting.is_empty()
        });
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.has_ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Otherwise the connection is not where a request can begin.
        if !self.has_ended && !hyper::body::Body::is_end_stream(&self.body) {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        let (pool, endpoint) = (self.pool.clone(), self.endpoint);
        if connection.sender.is_ready() {
            return pool.keep(endpoint, connection);
        }
        tokio::spawn(self.pool.ended.clone().run_until_cancelled_owned(async move {
            if let Ok(Ok(())) = tokio::time::timeout(LINGER, connection.sender.ready()).await {
                pool.keep(endpoint, connection);
            }
        }));
    }
}
