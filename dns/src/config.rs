//! How the DNS server is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

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
    /// Connections over TCP at a time. One client may have a quarter of them.
    pub connections: usize,
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
