//! Connections to endpoints, over HTTP/1.1 and over HTTP/2 in the clear.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::body::Lent;

/// An endpoint that does not take the connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to endpoints are kept this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// And so many for each endpoint.
const IDLE_CONNECTIONS: usize = 64;
/// An endpoint that is silent this long on a connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Headers that an answer may have.
const ANSWER_HEADERS: usize = 256;

/// Why an endpoint has not answered.
pub enum Fault {
    /// No connection, so nothing has been sent.
    Connect(String),
    /// The endpoint closed the connection before it answered.
    Closed(String),
    /// What came is not valid HTTP.
    Invalid(String),
}

/// The connections that are kept.
pub struct Endpoints {
    http1: Client<HttpConnector, Lent>,
    /// One to each endpoint carries all its requests.
    http2: Mutex<HashMap<SocketAddr, SendRequest<Lent>>>,
    ended: CancellationToken,
}

impl Endpoints {
    /// None yet; those over HTTP/2 end with `ended`.
    pub fn new(ended: CancellationToken) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        let http1 = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_headers(ANSWER_HEADERS)
            .build(connector);
        Endpoints { http1, http2: Mutex::default(), ended }
    }

    /// Sends a request whose target is a path.
    pub async fn http1(
        &self,
        endpoint: SocketAddr,
        mut request: Request<Lent>,
    ) -> Result<Response<Incoming>, Fault> {
        *request.uri_mut() = absolute(&endpoint.to_string(), request.uri())?;
        self.http1.request(request).await.map_err(|error| match error.is_connect() {
            true => Fault::Connect(describe(&error)),
            false => fault(&error),
        })
    }

    /// The same over HTTP/2, where the name the client asked for is part of the target.
    pub async fn http2(
        &self,
        endpoint: SocketAddr,
        authority: &str,
        mut request: Request<Lent>,
    ) -> Result<Response<Incoming>, Fault> {
        *request.uri_mut() = absolute(authority, request.uri())?;
        let mut sender = self.sender(endpoint).await?;
        sender.send_request(request).await.map_err(|error| fault(&error))
    }

    async fn sender(&self, endpoint: SocketAddr) -> Result<SendRequest<Lent>, Fault> {
        let open = || self.http2.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = open().get(&endpoint).filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let connect = async {
            let stream = TcpStream::connect(endpoint).await.map_err(|e| Fault::Connect(e.to_string()))?;
            // Where the option cannot be set answers are merely slower.
            let _ = stream.set_nodelay(true);
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE);
            builder.handshake(TokioIo::new(stream)).await.map_err(|e| Fault::Connect(e.to_string()))
        };
        let timed = tokio::time::timeout(CONNECT_TIMEOUT, connect);
        let (sender, connection) = timed.await.map_err(|e| Fault::Connect(e.to_string()))??;
        tokio::spawn(self.ended.clone().run_until_cancelled_owned(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%endpoint, %error, "connection ended early");
            }
        }));
        let mut open = open();
        open.retain(|_, sender| !sender.is_closed());
        open.insert(endpoint, sender.clone());
        Ok(sender)
    }
}

fn absolute(authority: &str, target: &Uri) -> Result<Uri, Fault> {
    let target = target.path_and_query().map_or("/", |target| target.as_str());
    let made = Uri::builder().scheme("http").authority(authority).path_and_query(target).build();
    made.map_err(|error| Fault::Invalid(error.to_string()))
}

fn fault(error: &(dyn Error + 'static)) -> Fault {
    match closed_early(error) {
        true => Fault::Closed(describe(error)),
        false => Fault::Invalid(describe(error)),
    }
}

fn closed_early(error: &(dyn Error + 'static)) -> bool {
    if error.is::<std::io::Error>() {
        return true;
    }
    let closed = |e: &hyper::Error| e.is_incomplete_message() || e.is_canceled() || e.is_closed();
    error.downcast_ref().is_some_and(closed) || error.source().is_some_and(closed_early)
}

fn describe(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
