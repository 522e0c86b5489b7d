//! The layer-7 ingress: an HTTP proxy whose routes are compiled from Ingress objects.
//!
//! Fed by a `kube::Client` that watches Ingresses, IngressClasses, Services, EndpointSlices and
//! TLS Secrets. Requests read an immutable route table that is replaced whole, so a change of
//! routes touches no connection. It writes the Ingresses' status and nothing else.
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/>

mod index;
mod proxy;
mod route;
mod serve;
mod status;
mod tls;
mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use route::Table;

/// Where the ingress listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// For HTTP.
    pub http: SocketAddr,
    /// For HTTPS.
    pub https: SocketAddr,
}

/// Why the ingress cannot start.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({flag}): {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The setting it comes from.
        flag: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
}

/// The ingress with its sockets bound and nothing served yet.
pub struct Ingress {
    http: TcpListener,
    https: TcpListener,
    address: IpAddr,
}

impl Ingress {
    /// Binds both sockets.
    pub async fn bind(config: &Config) -> Result<Self, IngressError> {
        let http = listen(config.http, "--ingress-http").await?;
        let https = listen(config.https, "--ingress-https").await?;
        Ok(Ingress { http, https, address: config.http.ip() })
    }

    /// The addresses in use, for HTTP and for HTTPS.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.https.local_addr()?))
    }

    /// Serves until `shutdown`; then requests under way may end.
    pub async fn run(self, client: Client, shutdown: CancellationToken) {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let watching = watch::run(client, self.address, Arc::clone(&table), shutdown.clone());
        let proxy = Arc::new(proxy::Proxy::new(Arc::clone(&table)));
        let http = serve::http(self.http, Arc::clone(&proxy), shutdown.clone());
        let https = serve::https(self.https, proxy, table, shutdown);
        tokio::join!(watching, http, https);
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, IngressError> {
    TcpListener::bind(address).await.map_err(|error| IngressError::Bind { address, flag, error })
}
