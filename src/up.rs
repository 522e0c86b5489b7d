//! `proa up` and `proa down`: the parts put together, and taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use proa_control::http::api::Build;
use proa_control::registry::Caller;
use proa_control::server::{self, Server};
use proa_dns::{DnsConfig, Upstream};
use proa_ingress::{Ingress, Limits};
use proa_logic::world::settings::ClusterSettings;
use proa_runtime::event::COMPONENT;
use proa_runtime::image::ImageStore;
use proa_runtime::net::{Ipv4Net, Network, NetworkConfig, proxy};
use proa_runtime::node::descriptors::{self, Allowed};
use proa_runtime::node::paths::Paths;
use proa_runtime::{HostNames, NodeConfig, ShownPods};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Options};
use crate::parts::Parts;
use crate::{data_dir, lock, node_ip, print};

/// Addresses a node has for its pods: a /24.
const NODE_PREFIX: u8 = 24;
/// The place of the DNS server in the service range.
pub const DNS_OFFSET: u32 = 10;
pub const DNS_PORT: u16 = 53;
/// As many pods as the node's range has addresses for.
pub const MAX_PODS: u32 = 250;

/// Runs the cluster until it is told to stop.
pub fn up(options: Options) -> Result<()> {
    let config = options.resolve()?;
    log_to_stderr(&config.log)?;
    ensure!(is_root(), "proa up makes namespaces, cgroups and network devices: it must be run as root");
    runtime().block_on(serve(config))
}

/// Stops the cluster if it is up, then its pods, and removes what it made outside its data.
pub fn down(data_dir: &Path) -> Result<()> {
    ensure!(is_root(), "proa down must be run as root");
    let Ok(data_dir) = data_dir.canonicalize() else { return Ok(()) };
    let _lock = lock::stop_holder(&data_dir)?;
    runtime()
        .block_on(async { proa_runtime::down(&data_dir).await.map_err(|failures| anyhow::anyhow!(failures)) })
}

/// The runtime of everything that is asynchronous.
pub fn runtime() -> tokio::runtime::Runtime {
    // One provider of cryptography for every part; a second call finds it set, which is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the kernel gives threads and epoll")
}

/// True for root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Logs what these directives choose.
pub fn log_to_stderr(directives: &str) -> Result<()> {
    // hickory reports every query at info; those who want that name it after this.
    let filter = tracing_subscriber::EnvFilter::try_new(format!("hickory_server=warn,{directives}"))
        .with_context(|| format!("--log {directives:?} is not a list of tracing directives"))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr).init();
    Ok(())
}

/// An error is what this machine lacks.
pub fn machine_is_ready() -> Result<()> {
    proa_runtime::node::preflight::check().map_err(|lacks| anyhow::anyhow!(lacks))
}

/// How what the node has outside its data directory is named.
pub async fn host_names(data_dir: &Path) -> Result<HostNames> {
    proa_runtime::settle(&Paths::new(data_dir)).await.map_err(|failures| anyhow::anyhow!(failures))
}

/// The ranges and addresses of the cluster.
struct Addresses {
    cluster: Ipv4Net,
    node: Ipv4Net,
    gateway: Ipv4Addr,
    service: Ipv4Net,
    dns: Ipv4Addr,
    /// Where others reach this node.
    node_ip: IpAddr,
}

impl Addresses {
    fn of(config: &Config) -> Result<Self> {
        let range = |flag: &str, text: &str| -> Result<Ipv4Net> {
            text.parse().map_err(|e| anyhow::anyhow!("{flag} {text:?}: {e}"))
        };
        let cluster = range("--cluster-cidr", &config.cluster_cidr)?;
        let service = range("--service-cidr", &config.service_cidr)?;
        let node = Ipv4Net::new(cluster.network(), NODE_PREFIX.max(cluster.prefix()));
        let node = node.context("a prefix of at most 32")?;
        let dns =
            service.nth(DNS_OFFSET).with_context(|| format!("--service-cidr {service} is too small"))?;
        let gateway = node.nth(1).with_context(|| format!("--cluster-cidr {cluster} is too small"))?;
        let node_ip = node_ip(config, &[cluster, service]);
        Ok(Addresses { cluster, node, gateway, service, dns, node_ip })
    }

    /// The same in the ingress's words.
    fn ingress_ranges(&self) -> Result<proa_ingress::Ranges> {
        let range = |net: Ipv4Net| -> Result<proa_ingress::IpNet> { Ok(net.to_string().parse()?) };
        Ok(proa_ingress::Ranges {
            pods: range(self.cluster)?,
            node: range(self.node)?,
            services: range(self.service)?,
        })
    }
}

async fn serve(mut config: Config) -> Result<()> {
    let addresses = Addresses::of(&config)?;
    let mut stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    machine_is_ready()?;
    config.data_dir = data_dir::prepare(&config.data_dir)?;
    let _lock = lock::take(&config.data_dir)?;
    let allowed = Allowed::of(descriptors::raise());

    // What another program may hold is taken first, so that a refusal leaves nothing behind.
    let ingress = proa_ingress::Config {
        http: config.ingress_http,
        https: config.ingress_https,
        ranges: Some(addresses.ingress_ranges()?),
        default_certificate: config.ingress_default_certificate.clone(),
    };
    let limits = Limits { open: allowed.ingress, ..Limits::default() };
    let ingress = Ingress::bind(&ingress).await?.with_limits(limits);
    // Pods reach the API at the gateway's address, which exists once the network does, unless other
    // machines reach it too: then at the address that all share.
    let in_cluster = SocketAddr::from((addresses.gateway, config.api_listen.port()));
    let advertise = advertised(&config, &addresses);
    let server = Server::start(server::Config {
        data_dir: config.data_dir.clone(),
        listen: vec![config.api_listen],
        service_cidr: config.service_cidr.parse()?,
        cluster_domain: config.cluster_domain.clone(),
        advertise: Some(SocketAddr::from((advertise, config.api_listen.port()))),
        node_name: config.node_name.clone(),
        settings: ClusterSettings {
            cluster_cidr: config.cluster_cidr.as_str().into(),
            autoscaler: config.autoscaler.clone(),
            node_monitor_grace_period: config.node_monitor_grace_period,
            // What else the server is set up with it fills in itself.
            ..ClusterSettings::default()
        },
        extra_names: config.tls_san.clone(),
        build: build(),
        deny_external_ips: config.deny_external_ips,
        connections: allowed.api,
        legacy_api: config.legacy_api,
        scheduler: config.scheduler.clone(),
    })
    .await?;
    let (ingress_http, ingress_https) = ingress.addresses()?;
    let listening = [config.api_listen, in_cluster, ingress_http, ingress_https];
    let host_names = host_names(&config.data_dir).await?;
    let network = Network::start(NetworkConfig {
        bridge: host_names.bridge(),
        table: host_names.table(),
        node_cidr: addresses.node,
        cluster_cidr: addresses.cluster,
        service_cidr: addresses.service,
        dns_address: addresses.dns,
        reserved: reserved(&listening),
    })
    .await?;
    if config.api_listen.ip().is_loopback() {
        server.listen(in_cluster).await?;
    }

    print::line(&format!("API         https://{}", server.addresses()[0]));
    print::line(&format!("kubeconfig  {}", server.kubeconfig_path().display()));
    print::line(&format!("ingress     http://{ingress_http} https://{ingress_https}"));

    let parts = Parts::default();
    start_parts(&config, &addresses, &server, (network, host_names), ingress, &parts)?;

    let [terminate, interrupt] = &mut stop;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; the pods go on");
    parts.end().await;
    server.shutdown().await;
    Ok(())
}

/// Where other programs' ports of this host do not lead elsewhere. Pods and their ports are IPv4.
pub fn reserved(listening: &[SocketAddr]) -> Vec<SocketAddrV4> {
    let reserved = listening.iter().filter_map(|address| match address {
        SocketAddr::V4(address) => Some(*address),
        // A socket on all addresses of IPv6 takes those of IPv4 too.
        SocketAddr::V6(address) if address.ip().is_unspecified() => {
            Some(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, address.port()))
        }
        SocketAddr::V6(_) => None,
    });
    let distinct: BTreeSet<SocketAddrV4> = reserved.collect();
    distinct.into_iter().collect()
}

/// What `build.rs` found out.
fn build() -> Build {
    let seconds = env!("PROA_BUILD_SECONDS").parse().ok();
    let date = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    Build {
        git_commit: env!("PROA_GIT_COMMIT").to_owned(),
        git_tree_state: env!("PROA_GIT_TREE_STATE").to_owned(),
        date: date.map(|date| date.to_string()).unwrap_or_default(),
        compiler: env!("PROA_COMPILER").to_owned(),
    }
}

/// The address of this node: what is set, where the API listens if others can reach that, or what the
/// machine has.
fn node_ip(config: &Config, own: &[Ipv4Net]) -> IpAddr {
    let listen = config.api_listen.ip();
    let is_shared = !listen.is_loopback() && !listen.is_unspecified();
    let set = config.node_ip.or(is_shared.then_some(listen));
    set.unwrap_or_else(|| node_ip::find(own))
}

/// Where pods reach the API.
fn advertised(config: &Config, addresses: &Addresses) -> IpAddr {
    match config.api_listen.ip() {
        listen if listen.is_loopback() => addresses.gateway.into(),
        listen if listen.is_unspecified() => addresses.node_ip,
        listen => listen,
    }
}

/// Starts what speaks to the API as a client.
fn start_parts(
    config: &Config,
    addresses: &Addresses,
    server: &Server,
    (network, host_names): (Network, HostNames),
    ingress: Ingress,
    parts: &Parts,
) -> Result<()> {
    let client = |user: &str| server.client(Caller::part(user));
    let ingress_client = client("system:proa-ingress");
    parts.start_kept(|shutdown| ingress.run(ingress_client, shutdown));

    let proxy_client = client("system:kube-proxy");
    let node_name = config.node_name.clone();
    let rules = network.clone();
    parts.start(proxy::COMPONENT, "service-proxy", move |shutdown| {
        proxy::run(proxy_client.clone(), rules.clone(), node_name.clone(), shutdown)
    });

    let dns = DnsConfig {
        listen: vec![SocketAddr::from((addresses.dns, DNS_PORT))],
        cluster_domain: config.cluster_domain.clone(),
        own_ranges: [addresses.cluster, addresses.service].map(|r| (r.network(), r.prefix())).to_vec(),
        ttl_seconds: DnsConfig::TTL_SECONDS,
        connections: Allowed::of(descriptors::limit()).dns,
        upstream: Upstream::ResolvConf("/etc/resolv.conf".into()),
    };
    let dns_client = client("system:proa-dns");
    parts.start(proa_dns::COMPONENT, "dns", move |shutdown| {
        proa_dns::run(dns.clone(), dns_client.clone(), shutdown)
    });

    let pods = ShownPods::default();
    let logs = proa_runtime::kubelet_router(pods.clone(), Paths::new(&config.data_dir));
    server.add_node(&config.node_name, logs);
    let node = NodeConfig {
        node_name: config.node_name.clone(),
        data_dir: config.data_dir.clone(),
        host_names,
        node_ip: addresses.node_ip,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        kubelet_port: None,
        pod_cidr: addresses.node.to_string(),
        cluster_dns: addresses.dns.into(),
        cluster_domain: config.cluster_domain.clone(),
        max_pods: MAX_PODS,
        pod_max_pids: config.pod_max_pids,
        allowed_unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
        eviction_hard: config.eviction_hard,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let images = ImageStore::open(&Paths::new(&config.data_dir), &config.insecure_registries)?;
    let node_client = server.client(Caller::node(&config.node_name));
    parts.start(COMPONENT, "node", move |shutdown| {
        let (images, network, pods) = (images.clone(), network.clone(), pods.clone());
        proa_runtime::run(node.clone(), node_client.clone(), images, network, pods, shutdown)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_reach_the_api_where_it_listens() {
        let check = |listen: &str, want: &str| {
            let listen = format!("{listen}:6443").parse().unwrap();
            let options = Options {
                api_listen: Some(listen),
                node_name: Some("n".to_owned()),
                node_ip: Some([192, 0, 2, 7].into()),
                ..Options::default()
            };
            let config = options.resolve().unwrap();
            let addresses = Addresses::of(&config).unwrap();
            assert_eq!(advertised(&config, &addresses), want.parse::<IpAddr>().unwrap());
        };
        check("127.0.0.1", "10.42.0.1");
        check("0.0.0.0", "192.0.2.7");
        check("192.0.2.9", "192.0.2.9");
    }
}
