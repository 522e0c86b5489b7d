//! Cluster DNS: answers names of Services and pods from memory and passes everything else on.
//!
//! `watch` fills `zone` from Services and EndpointSlices, `answer` decides (pure, the Kubernetes DNS
//! specification v1.1.0), `server` is the IO on hickory, `forward` asks the node's own resolvers. It
//! never writes to the API.

pub mod answer;
mod forward;
mod server;
mod watch;
pub mod zone;

pub use server::Server;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// What the DNS server does.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen, on UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The domain under which the cluster's names are, such as `cluster.local`.
    pub cluster_domain: String,
    /// The ranges of the cluster's own addresses, network and prefix length. Names of addresses in them
    /// are never asked elsewhere.
    pub own_ranges: Vec<(Ipv4Addr, u8)>,
    /// How long clients may keep an answer about the cluster, in seconds.
    pub ttl_seconds: u32,
    /// Who is asked about everything else.
    pub upstream: Upstream,
}

impl DnsConfig {
    /// Clients keep answers this long unless configured otherwise, in seconds.
    pub const TTL_SECONDS: u32 = 5;
}

/// Resolvers for names outside the cluster.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// Those of a file in the format of resolv.conf(5); read again when it changes.
    ResolvConf(PathBuf),
    /// These, on UDP and TCP.
    Servers(Vec<SocketAddr>),
}

/// Why the DNS server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The cluster domain is not a domain name.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// An address cannot be listened on.
    #[error("DNS cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("DNS server: {0}")]
    Server(String),
}

/// Serves until `shutdown`.
pub async fn run(
    config: DnsConfig,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<(), DnsError> {
    Server::bind(config).await?.run(client, shutdown).await
}
