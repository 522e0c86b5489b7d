//! Connections to endpoints, over HTTP/1.1 and over HTTP/2 in the clear.
//!
//! None outlives what it is for: with a request that is given up goes the connection, wherever it stands.
//! One whose endpoint takes nothing would not see by itself that nobody wants it any more.

mod dial;
mod http1;
mod http2;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use tokio_util::sync::CancellationToken;

use crate::body::{Body, Lent};

pub use dial::Fault;

/// Connections that nobody uses are kept this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The connections that there are.
pub struct Endpoints {
    http1: http1::Pool,
    http2: http2::Pool,
}

impl Endpoints {
    /// None yet. An endpoint may take nothing for so long; all end with `ended`.
    pub fn new(patience: Duration, ended: CancellationToken) -> Self {
        let http1 = http1::Pool::new(patience, ended.clone());
        let http2 = http2::Pool::new(patience, ended.clone());
        let (idle1, idle2) = (http1.clone(), http2.clone());
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(IDLE_TIMEOUT).await;
                idle1.prune(IDLE_TIMEOUT);
                idle2.prune(IDLE_TIMEOUT);
            }
        }));
        Endpoints { http1, http2 }
    }

    /// Sends a request whose target is a path.
    pub async fn http1(
        &self,
        endpoint: SocketAddr,
        mut request: Request<Lent>,
    ) -> Result<Response<Body>, Fault> {
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::try_from(endpoint.to_string());
            request.headers_mut().insert(HOST, host.expect("an address has plain characters"));
        }
        self.http1.send(endpoint, request).await
    }

    /// The same over HTTP/2, where the name the client asked for is part of the target.
    pub async fn http2(
        &self,
        endpoint: SocketAddr,
        client: IpAddr,
        authority: &str,
        mut request: Request<Lent>,
    ) -> Result<Response<Body>, Fault> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let made = Uri::builder().scheme("http").authority(authority).path_and_query(target).build();
        *request.uri_mut() = made.map_err(|error| Fault::Invalid(error.to_string()))?;
        self.http2.send(endpoint, client, request).await
    }
}
