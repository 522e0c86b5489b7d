//! `proa agent`: this machine as a node of a cluster whose API server is elsewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use k8s_openapi::api::core::v1::Taint;
use proa_api::names::KUBELET_PORT;
use proa_dns::{DnsConfig, Upstream};
use proa_runtime::event::COMPONENT;
use proa_runtime::image::{ImageStore, insecure_registry};
use proa_runtime::net::{Ipv4Net, Network, NetworkConfig, proxy};
use proa_runtime::node::descriptors::{self, Allowed};
use proa_runtime::node::disk::{EVICTION_HARD, Thresholds};
use proa_runtime::node::join::serve::{self, Serving};
use proa_runtime::node::join::{JoinConfig, Membership, join};
use proa_runtime::node::paths::Paths;
use proa_runtime::pod::sysctl::UnsafeSysctl;
use proa_runtime::{NodeConfig, ShownPods};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, DEFAULT_DATA_DIR};
use crate::parts::Parts;
use crate::up::{self, DNS_OFFSET, DNS_PORT, MAX_PODS};
use crate::{data_dir, lock, print};

/// What may be set; each also as `PROA_…` in the environment.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// URL of the cluster's API: https://HOST:PORT
    #[arg(long, env = "PROA_SERVER")]
    pub server: String,
    /// Bootstrap token, as made by `proa token create`; not needed once this node has joined
    #[arg(long, env = "PROA_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Hash of the cluster's CA, sha256:…, by which the server is known; not needed once this node has joined
    #[arg(long, env = "PROA_CA_HASH")]
    pub ca_hash: Option<String>,
    /// Directory of this node's state
    #[arg(long, env = "PROA_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_parser = config::absolute)]
    pub data_dir: PathBuf,
    /// Name of this node [default: the host name]
    #[arg(long, env = "PROA_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of this node, at which the cluster reaches it [default: the one that leads to the server]
    #[arg(long, env = "PROA_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// Label of this node, KEY=VALUE; may be repeated
    #[arg(long = "node-label", value_name = "KEY=VALUE")]
    pub node_labels: Vec<String>,
    /// Taints that this node is registered with: KEY=VALUE:EFFECT, separated by commas
    #[arg(long, env = "PROA_REGISTER_WITH_TAINTS", value_delimiter = ',', value_name = "TAINTS")]
    pub register_with_taints: Vec<String>,
    /// Registries that are spoken to without TLS, HOST:PORT; separated by commas
    #[arg(long, env = "PROA_INSECURE_REGISTRIES", value_delimiter = ',', value_parser = insecure_registry)]
    pub insecure_registries: Vec<String>,
    /// Most tasks of a pod; -1 for no limit
    #[arg(long, env = "PROA_POD_MAX_PIDS", default_value_t = config::POD_MAX_PIDS, allow_negative_numbers = true, value_parser = config::pod_max_pids)]
    pub pod_max_pids: i64,
    /// Kernel parameters that pods may set beside the safe ones, such as net.core.somaxconn or kernel.msg*; separated by commas
    #[arg(long, env = "PROA_ALLOWED_UNSAFE_SYSCTLS", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<UnsafeSysctl>,
    /// Less free disk than this is pressure: images, then pods are removed; signals as the kubelet's
    #[arg(long, env = "PROA_EVICTION_HARD", default_value = EVICTION_HARD)]
    pub eviction_hard: Thresholds,
    /// What to log, as tracing directives
    #[arg(long, env = "PROA_LOG", default_value = "info")]
    pub log: String,
}

/// Runs the node until it is told to stop; its pods go on after that.
pub fn run(options: Options) -> Result<()> {
    up::log_to_stderr(&options.log)?;
    ensure!(
        up::is_root(),
        "proa agent makes namespaces, cgroups and network devices: it must be run as root"
    );
    up::runtime().block_on(serve(options))
}

async fn serve(mut options: Options) -> Result<()> {
    let mut stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    up::machine_is_ready()?;
    options.data_dir = data_dir::prepare(&options.data_dir)?;
    let _lock = lock::take(&options.data_dir)?;
    descriptors::raise();
    let parts = Parts::default();
    let [terminate, interrupt] = &mut stop;
    tokio::select! {
        started = start(&options, &parts) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; the pods go on");
    parts.end().await;
    Ok(())
}

/// Joins, and starts everything of the node.
async fn start(options: &Options, parts: &Parts) -> Result<()> {
    let node_name = match &options.node_name {
        Some(name) => name.clone(),
        None => config::host_name()?,
    };
    let node_name = node_name.to_ascii_lowercase();
    let labels = labels(&options.node_labels)?;
    let taints: Vec<Taint> = options.register_with_taints.iter().map(|t| taint(t)).collect::<Result<_>>()?;
    let node_ip = match options.node_ip {
        Some(ip) => ip,
        None => address_towards(&options.server)?,
    };
    // What another program may hold is taken first, so that a refusal leaves nothing behind.
    let address = SocketAddr::from((node_ip, KUBELET_PORT));
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("the node's server cannot listen on {address}"))?;
    let membership = join(&JoinConfig {
        server: options.server.clone(),
        token: options.token.clone(),
        ca_hash: options.ca_hash.clone(),
        node_name: node_name.clone(),
        data_dir: options.data_dir.clone(),
    })
    .await?;
    let cluster = membership.cluster().await?;
    let pod_cidr = membership.register(labels.clone(), taints.clone()).await?;
    let range = |text: &str| -> Result<Ipv4Net> {
        text.parse().map_err(|error| anyhow::anyhow!("the cluster's range {text:?}: {error}"))
    };
    let service_cidr = range(&cluster.service_cidr)?;
    let host_names = up::host_names(&options.data_dir).await?;
    let network = NetworkConfig {
        bridge: host_names.bridge(),
        table: host_names.table(),
        node_cidr: range(&pod_cidr)?,
        cluster_cidr: range(&cluster.cluster_cidr)?,
        service_cidr,
        dns_address: service_cidr.nth(DNS_OFFSET).context("the cluster's range of services is too small")?,
        reserved: up::reserved(&[address]),
    };
    let node = NodeConfig {
        node_name: node_name.clone(),
        data_dir: options.data_dir.clone(),
        host_names,
        node_ip,
        pod_cidr,
        cluster_dns: network.dns_address.into(),
        cluster_domain: cluster.cluster_domain,
        labels,
        taints,
        kubelet_port: Some(KUBELET_PORT),
        max_pods: MAX_PODS,
        pod_max_pids: options.pod_max_pids,
        allowed_unsafe_sysctls: options.allowed_unsafe_sysctls.clone(),
        eviction_hard: options.eviction_hard,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let images = ImageStore::open(&Paths::new(&node.data_dir), &options.insecure_registries)?;
    start_parts(node, images, network, membership, listener, parts).await?;
    print::line(&format!("node        {node_name}"));
    print::line(&format!("address     {address}"));
    print::line(&format!("cluster     {}", options.server));
    Ok(())
}

async fn start_parts(
    node: NodeConfig,
    images: ImageStore,
    network: NetworkConfig,
    membership: Membership,
    listener: TcpListener,
    parts: &Parts,
) -> Result<()> {
    let client = membership.client();
    let dns = DnsConfig {
        listen: vec![SocketAddr::from((network.dns_address, DNS_PORT))],
        cluster_domain: node.cluster_domain.clone(),
        own_ranges: [network.cluster_cidr, network.service_cidr].map(|r| (r.network(), r.prefix())).to_vec(),
        ttl_seconds: DnsConfig::TTL_SECONDS,
        connections: Allowed::of(descriptors::limit()).dns,
        upstream: Upstream::ResolvConf("/etc/resolv.conf".into()),
    };
    let network = Network::start(network).await?;
    let (proxy_client, node_name) = (client.clone(), node.node_name.clone());
    let rules = network.clone();
    parts.start(proxy::COMPONENT, "service-proxy", move |shutdown| {
        proxy::run(proxy_client.clone(), rules.clone(), node_name.clone(), shutdown)
    });
    let dns_client = client.clone();
    parts.start(proa_dns::COMPONENT, "dns", move |shutdown| {
        proa_dns::run(dns.clone(), dns_client.clone(), shutdown)
    });

    let (pods, serving) = (ShownPods::default(), Arc::new(Serving::default()));
    let router = proa_runtime::kubelet_router(pods.clone(), Paths::new(&node.data_dir));
    let (membership, listener, node_ip) = (Arc::new(membership), Arc::new(listener), node.node_ip);
    let (served, shown) = (membership.clone(), serving.clone());
    parts.start(COMPONENT, "node-server", move |shutdown| {
        let (listener, served) = (listener.clone(), served.clone());
        let (shown, router) = (shown.clone(), router.clone());
        async move { serve::run(&listener, served.ca_pem(), shown, router, shutdown).await }
    });
    parts.start(COMPONENT, "certificates", move |shutdown| {
        let (membership, serving) = (membership.clone(), serving.clone());
        async move { membership.keep_certificates(node_ip, serving, shutdown).await }
    });
    parts.start(COMPONENT, "node", move |shutdown| {
        let (images, network, pods) = (images.clone(), network.clone(), pods.clone());
        proa_runtime::run(node.clone(), client.clone(), images, network, pods, shutdown)
    });
    Ok(())
}

/// The address of this machine from which packets go to the server. Nothing is sent.
fn address_towards(server: &str) -> Result<IpAddr> {
    let authority = server.trim_start_matches("https://").trim_end_matches('/');
    let address = authority.to_socket_addrs().ok().and_then(|mut found| found.next());
    let address =
        address.with_context(|| format!("--server {server:?} is not of the form https://HOST:PORT"))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    let routed = socket.connect(address).and_then(|()| socket.local_addr());
    let local = routed.with_context(|| format!("no route to {server}: set --node-ip"))?;
    Ok(local.ip())
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>> {
    texts
        .iter()
        .map(|text| {
            let (key, value) =
                text.split_once('=').with_context(|| format!("--node-label {text:?} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// A taint in the form of `kubectl taint`.
fn taint(text: &str) -> Result<Taint> {
    let wrong = || format!("--register-with-taints {text:?} is not KEY=VALUE:EFFECT");
    let (rest, effect) = text.rsplit_once(':').with_context(wrong)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        bail!(wrong());
    }
    Ok(Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()).filter(|value| !value.is_empty()),
        effect: effect.to_owned(),
        time_added: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints() {
        let found = taint("dedicated=gpu:NoSchedule").unwrap();
        assert_eq!((found.key.as_str(), found.value.as_deref()), ("dedicated", Some("gpu")));
        assert_eq!(taint("k:NoExecute").unwrap().value, None);
        assert!(taint("k=v").is_err() && taint("k=v:Never").is_err() && taint("=v:NoExecute").is_err());
        assert_eq!(labels(&["a=b".to_owned()]).unwrap()["a"], "b");
        assert!(labels(&["a".to_owned()]).is_err());
    }
}
