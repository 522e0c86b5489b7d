//! Connections over HTTP/2 in the clear: each carries the requests of one client at a time.
//!
//! What requests on one connection share, they can take from each other: the streams that the endpoint lets
//! be open, and how much of their bodies may be under way. So they are those of one client, and there are
//! further connections for others, and for more streams than one may carry.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use proa_api::shares;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::{self, Fault, KEEPALIVE, fault};
use crate::body::{Body, Held, Lent};

/// Requests that one connection carries, if the endpoint does not want fewer.
const STREAMS: usize = 100;
/// Bytes of one answer that may be under way, and of all on one connection.
const WINDOWS: (u32, u32) = (128 << 10, 256 << 10);
/// Bytes of a request's body that wait to be sent.
const SEND_BUFFER: usize = 16 << 10;
/// Connections without requests that are kept for each endpoint.
const IDLE_CONNECTIONS: usize = 64;
/// How long an endpoint may hold back a request's body that nobody wants any more.
const LINGER: Duration = Duration::from_secs(2);

/// The connections that there are.
#[derive(Clone)]
pub struct Pool {
    lines: Arc<Mutex<Lines>>,
    patience: Duration,
    ended: CancellationToken,
}

type Lines = HashMap<SocketAddr, Vec<Line>>;

/// One connection, and whose requests it carries.
struct Line {
    client: IpAddr,
    requests: usize,
    /// The last time at which a request began or ended.
    used: Instant,
    /// Made by the first request that needs it.
    carrier: Arc<OnceCell<Carrier>>,
}

struct Carrier {
    sender: SendRequest<Watched>,
    connection: Arc<Mutex<Connection<TokioIo<TcpStream>, Watched, Tasks>>>,
    alive: CancellationToken,
}

/// A body of which can be seen whether it is still there.
type Watched = Held<Lent, DropGuard>;

/// Runs what belongs to a connection as long as that is wanted.
#[derive(Clone)]
struct Tasks(CancellationToken);

/// The place of a request on a connection, until it is dropped.
struct Place {
    pool: Pool,
    endpoint: SocketAddr,
    carrier: Arc<OnceCell<Carrier>>,
    /// Cancelled when the request's body is gone. Without a body nothing was sent.
    body_gone: Option<CancellationToken>,
}

impl Pool {
    /// None yet. An endpoint may take nothing for so long; all end with `ended`.
    pub fn new(patience: Duration, ended: CancellationToken) -> Self {
        Pool { lines: Arc::default(), patience, ended }
    }

    /// Sends a request of this client.
    pub async fn send(
        &self,
        endpoint: SocketAddr,
        client: IpAddr,
        request: Request<Lent>,
    ) -> Result<Response<Body>, Fault> {
        let mut place = self.place(endpoint, shares::client(client));
        let carrier = Arc::clone(&place.carrier);
        let carrier =
            carrier.get_or_try_init(|| Carrier::connect(endpoint, self.patience, &self.ended)).await?;
        let body_gone = CancellationToken::new();
        place.body_gone = Some(body_gone.clone());
        let request = request.map(|body| Held::new(body, body_gone.drop_guard()));
        let answer = carrier.sender.clone().send_request(request).await.map_err(|error| fault(&error))?;
        Ok(answer.map(|body| Held::new(body, place).boxed()))
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that carries this client's requests or none, or on a new one.
    fn place(&self, endpoint: SocketAddr, client: IpAddr) -> Place {
        let mut lines = self.lines();
        let lines = lines.entry(endpoint).or_default();
        let own = lines.iter().position(|line| line.client == client && line.has_room());
        let idle = || lines.iter().position(|line| line.requests == 0 && line.has_room());
        let at = own.or_else(idle).unwrap_or_else(|| {
            lines.push(Line { client, requests: 0, used: Instant::now(), carrier: Arc::default() });
            lines.len() - 1
        });
        let line = &mut lines[at];
        line.client = client;
        line.requests += 1;
        Place { pool: self.clone(), endpoint, carrier: Arc::clone(&line.carrier), body_gone: None }
    }

    fn leave(&self, endpoint: SocketAddr, carrier: &Arc<OnceCell<Carrier>>) {
        let mut all = self.lines();
        let Some(lines) = all.get_mut(&endpoint) else { return };
        let idle = lines.iter().filter(|line| line.requests == 0).count();
        let Some(at) = lines.iter().position(|line| Arc::ptr_eq(&line.carrier, carrier)) else { return };
        let line = &mut lines[at];
        line.requests -= 1;
        line.used = Instant::now();
        // One that could not be made is none.
        let is_good = line.carrier.get().is_some_and(Carrier::is_open) && idle < IDLE_CONNECTIONS;
        if line.requests == 0 && !is_good {
            lines.swap_remove(at);
        }
        if lines.is_empty() {
            all.remove(&endpoint);
        }
    }

    /// Drops the connections that nobody has used for so long.
    pub fn prune(&self, unused: Duration) {
        self.lines().retain(|_, lines| {
            lines.retain(|line| line.requests > 0 || (line.used.elapsed() < unused && line.has_room()));
            !lines.is_empty()
        });
    }
}

impl Line {
    fn has_room(&self) -> bool {
        let room = self.carrier.get().map_or(STREAMS, Carrier::room);
        self.requests < room
    }
}

impl Carrier {
    async fn connect(
        endpoint: SocketAddr,
        patience: Duration,
        ended: &CancellationToken,
    ) -> Result<Self, Fault> {
        let stream = dial::connect(endpoint, patience).await?;
        let alive = ended.child_token();
        let mut builder = Builder::new(Tasks(alive.clone()));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_send_buf_size(SEND_BUFFER);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| Fault::Connect(error.to_string()))?;
        let connection = Arc::new(Mutex::new(connection));
        let driven = Arc::clone(&connection);
        Tasks(alive.clone()).execute(async move {
            let done = std::future::poll_fn(|cx| {
                Pin::new(&mut *driven.lock().unwrap_or_else(PoisonError::into_inner)).poll(cx)
            });
            if let Err(error) = done.await {
                tracing::debug!(%endpoint, %error, "connection ended early");
            }
        });
        Ok(Carrier { sender, connection, alive })
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// How many requests it carries.
    fn room(&self) -> usize {
        if !self.is_open() {
            return 0;
        }
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.current_max_send_streams().clamp(1, STREAMS)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (pool, endpoint, carrier) = (self.pool.clone(), self.endpoint, Arc::clone(&self.carrier));
        let gone = self.body_gone.take().filter(|gone| !gone.is_cancelled());
        let Some(gone) = gone else { return pool.leave(endpoint, &carrier) };
        // A body that waits for the endpoint to take it does not see that nobody wants that any more.
        tokio::spawn(self.pool.ended.clone().run_until_cancelled_owned(async move {
            if tokio::time::timeout(LINGER, gone.cancelled()).await.is_err()
                && let Some(carrier) = carrier.get()
            {
                carrier.alive.cancel();
            }
            pool.leave(endpoint, &carrier);
        }));
    }
}
