//! Asks the node's own resolvers about names outside the cluster, and remembers their answers.

use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::{TokioResolver, system_conf};
use proa_api::seldom::Seldom;
use proa_api::shares::{self, Shares};
use proa_resolve::Watched;

use crate::config::Upstream;

/// Answers remembered, each well below a kilobyte.
const CACHED_ANSWERS: u64 = 2048;
/// Clients give up after five seconds (resolv.conf(5)), so a second try must fit in before that.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Questions that may wait for an answer at the same time, in all and of one client.
const IN_FLIGHT: (usize, usize) = (512, 64);
const DNS_PORT: u16 = 53;

/// What a resolver elsewhere said.
pub struct Forwarded {
    /// Its verdict.
    pub code: ResponseCode,
    /// Its answers.
    pub answers: Vec<Record>,
    /// With an empty answer, who says so.
    pub authorities: Vec<Record>,
}

impl Forwarded {
    fn failed(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }
}

/// The way to the resolvers elsewhere.
pub struct Forwarder {
    upstream: Upstream,
    /// Addresses of this server, which must not ask itself.
    own: Vec<SocketAddr>,
    in_flight: Arc<Shares<IpAddr>>,
    refusals: Seldom,
    resolvers: Watched<TokioResolver>,
}

impl Forwarder {
    /// Asks nobody yet. `own` are the addresses this server listens on.
    pub fn new(upstream: Upstream, own: Vec<SocketAddr>) -> Self {
        let in_flight = Shares::new(IN_FLIGHT.0, IN_FLIGHT.1);
        Self { upstream, own, in_flight, refusals: Seldom::new(), resolvers: Watched::new() }
    }

    /// Asks for a client. Fails at once if there is nobody to ask or too much is being asked already.
    pub async fn ask(&self, client: IpAddr, name: &Name, asked: RecordType) -> Forwarded {
        let Some(resolver) = self.resolver() else { return Forwarded::failed(ResponseCode::ServFail) };
        let client = shares::client(client);
        let Some(_share) = self.in_flight.take(client) else {
            if self.refusals.is_due(Instant::now()) {
                tracing::warn!(%client, "too many questions wait for resolvers elsewhere");
            }
            return Forwarded::failed(ResponseCode::ServFail);
        };
        match resolver.lookup(name.clone(), asked).await {
            Ok(lookup) => Forwarded {
                code: lookup.message().metadata.response_code,
                answers: lookup.answers().to_vec(),
                authorities: Vec::new(),
            },
            Err(NetError::Dns(Refusal::NoRecordsFound(none))) => Forwarded {
                code: none.response_code,
                answers: Vec::new(),
                authorities: none.soa.into_iter().map(|soa| (*soa).into_record_of_rdata()).collect(),
            },
            Err(NetError::Dns(Refusal::ResponseCode(code))) => Forwarded::failed(code),
            Err(error) => {
                tracing::debug!(%name, %error, "no answer from elsewhere");
                Forwarded::failed(ResponseCode::ServFail)
            }
        }
    }

    /// The resolvers to ask now. A changed file is a new network, so what was remembered is forgotten.
    fn resolver(&self) -> Option<TokioResolver> {
        let files = match &self.upstream {
            Upstream::ResolvConf(path) => slice::from_ref(path),
            Upstream::Servers(_) => &[],
        };
        self.resolvers.get(files, Instant::now(), || self.build())
    }

    fn build(&self) -> Option<TokioResolver> {
        let servers: Vec<NameServerConfig> = match &self.upstream {
            Upstream::Servers(servers) => {
                servers.iter().filter(|s| !self.own.contains(s)).map(server).collect()
            }
            Upstream::ResolvConf(path) => {
                let text = std::fs::read(path).unwrap_or_default();
                let read = system_conf::parse_resolv_conf(text).map(|(config, _)| config.into_parts().2);
                let is_own = |s: &NameServerConfig| self.own.contains(&SocketAddr::new(s.ip, DNS_PORT));
                read.unwrap_or_default().into_iter().filter(|s| !is_own(s)).collect()
            }
        };
        if servers.is_empty() {
            tracing::warn!("no resolver for names outside the cluster");
            return None;
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options();
        match builder.build() {
            Ok(resolver) => Some(resolver),
            Err(error) => {
                tracing::warn!(%error, "cannot use the resolvers for names outside the cluster");
                None
            }
        }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.cache_size = CACHED_ANSWERS;
    // Pods have a hosts file of their own; the node's is not theirs.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = IN_FLIGHT.0;
    options
}
