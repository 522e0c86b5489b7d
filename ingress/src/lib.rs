//! The layer-7 ingress: an HTTP proxy whose routes are compiled from Ingress objects.
//!
//! Fed by a `kube::Client` that watches Ingresses, IngressClasses, Services, EndpointSlices, Nodes,
//! TLS Secrets and the Secrets with passwords that Ingresses name. Requests read an immutable route
//! table that is replaced whole, so a change of routes touches no connection. It writes the Ingresses'
//! status and Events about them, and nothing else.
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/>

mod access;
mod annotations;
mod answer;
mod body;
mod certificate;
mod endpoints;
mod events;
mod htpasswd;
mod index;
mod names;
mod own_addresses;
mod path;
mod pattern;
mod proxy;
mod route;
mod serve;
mod sign_in;
mod status;
mod tls;
mod turns;
mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use kube::Client;
use proa_supervise::{Task, keep};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::index::Index;
use crate::proxy::Proxy;
use crate::route::Table;
use crate::serve::Serving;

pub use index::Ranges;
pub use ipnet::IpNet;
pub use serve::Limits;

/// The part of Proa that it is, as Events of the Node name it.
const COMPONENT: &str = "proa-ingress";

/// Where the ingress listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// For HTTP.
    pub http: SocketAddr,
    /// For HTTPS.
    pub https: SocketAddr,
    /// Where pods and Services are, so that none is asked that cannot be reached from here.
    pub ranges: Option<Ranges>,
    /// Namespace and name of the TLS Secret for names without one; without it a certificate is made
    /// that nobody trusts.
    pub default_certificate: Option<(String, String)>,
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
    /// No certificate could be made.
    #[error("cannot make the ingress's own certificate: {0}")]
    Certificate(String),
}

/// The ingress with its sockets bound and nothing served yet.
pub struct Ingress {
    http: TcpListener,
    https: TcpListener,
    address: IpAddr,
    limits: Limits,
    config: Config,
    certificate: Arc<CertifiedKey>,
}

impl Ingress {
    /// Binds both sockets.
    pub async fn bind(config: &Config) -> Result<Self, IngressError> {
        let http = listen(config.http, "--ingress-http").await?;
        let https = listen(config.https, "--ingress-https").await?;
        let certificate = certificate::self_made().map_err(IngressError::Certificate)?;
        let (address, limits) = (reachable(config.http.ip()), Limits::default());
        Ok(Ingress { http, https, address, limits, config: config.clone(), certificate })
    }

    /// The same ingress with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Ingress { limits, ..self }
    }

    /// The addresses in use, for HTTP and for HTTPS.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.https.local_addr()?))
    }

    /// Serves until `shutdown`; then requests under way may end. Afterwards no connection is left.
    pub async fn run(self, client: Client, shutdown: CancellationToken) {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let ended = CancellationToken::new();
        let https_port = self.https.local_addr().map_or(self.config.https.port(), |address| address.port());
        let proxy = Arc::new(Proxy::new(Arc::clone(&table), https_port, self.limits.silence, ended.clone()));
        let certificates = tls::ByServerName::new(Arc::clone(&table), self.certificate);
        let serving = Serving::new(proxy, self.limits, shutdown.clone());
        // The routes that are known stay until they have been read again.
        let watching = || {
            let index = Index {
                ranges: self.config.ranges.clone(),
                default_certificate: self.config.default_certificate.clone(),
                ..Index::default()
            };
            watch::run(client.clone(), self.address, index, Arc::clone(&table), shutdown.clone())
        };
        let task = |name| Task { component: COMPONENT, name };
        let _guard = ended.drop_guard();
        tokio::join!(
            keep(task("ingress-watch"), &shutdown, watching),
            keep(task("ingress-http"), &shutdown, || serving.http(&self.http)),
            keep(task("ingress-https"), &shutdown, || serving.https(&self.https, certificates.clone())),
        );
        drop((self.http, self.https));
        serving.drain().await;
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, IngressError> {
    TcpListener::bind(address).await.map_err(|error| IngressError::Bind { address, flag, error })
}

/// An address that clients can use, where the ingress listens on all: the one from which this
/// machine would reach others. Asking the kernel for it sends nothing.
fn reachable(address: IpAddr) -> IpAddr {
    if !address.is_unspecified() {
        return address;
    }
    // Addresses for documentation (RFC 5737, RFC 3849).
    let (loopback, far): (IpAddr, SocketAddr) = match address {
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into()),
        IpAddr::V6(_) => {
            (Ipv6Addr::LOCALHOST.into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into())
        }
    };
    let asked = UdpSocket::bind((address, 0)).and_then(|socket| {
        socket.connect(far)?;
        socket.local_addr()
    });
    // Without a route the machine is reached only from itself.
    asked.map_or(loopback, |a| a.ip())
}
