//! The pod network of one node: links and addresses, service rules, and their removal.
//!
//! The node agent attaches pods, `proxy` keeps the service rules, the binary starts and removes the
//! whole. Everything is done over netlink; no program is run. Reading order: `cidr`, `address`,
//! `rules`, `scope`, `entry`, `index` are pure; `nft` and `table` encode; `link`, `conntrack`, `thread`
//! and this file do the IO.
//!
//! Every pod hangs on a veth pair with a /32 route; one device per node holds the gateway's and the
//! DNS server's address and is where packets go that belong to nobody, to be refused there. State is
//! what the kernel holds: after a restart pods are found again by their links.

mod address;
mod cidr;
mod conntrack;
mod entry;
mod index;
mod link;
mod nft;
pub mod proxy;
mod rules;
mod scope;
mod table;
mod thread;

#[cfg(test)]
mod tests;

pub use cidr::Ipv4Net;
pub use rules::Protocol;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use address::AddressPool;
use link::{Link, Links};
use nft::Batch;
use rules::{Backends, Endpoint, Frontend, Pick, Rules};
use table::Layout;
use thread::{OwnThread, blocking};

/// Longest name of a network interface, without the final zero (linux/if.h, `IFNAMSIZ`).
const INTERFACE_NAME_MAX: usize = 15;
/// Kernel modules of nftables that the rules need, for who must load them.
const NFT_MODULES: &str =
    "nf_tables nft_chain_nat nft_nat nft_masq nft_ct nft_fib_ipv4 nft_hash nft_numgen nft_reject_ipv4";
/// Characters of a pod's link name that tell it from the others.
const LINK_SUFFIX_MIN: usize = 6;
/// So many that six of them hardly ever are the same twice.
const LINK_LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
/// Those of nodes that shared the names of their devices.
const SHARED_LINK_LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What the pod network of a node looks like.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the node's own device; at most eight characters. The pods' links begin with it.
    pub bridge: String,
    /// Name of the node's nftables table.
    pub table: String,
    /// The addresses of this node's pods. The first is the gateway.
    pub node_cidr: Ipv4Net,
    /// The addresses of all pods.
    pub cluster_cidr: Ipv4Net,
    /// The addresses of services.
    pub service_cidr: Ipv4Net,
    /// The address of the cluster's DNS server; it is put on the node's device, so that it can be bound.
    pub dns_address: Ipv4Addr,
    /// Where the cluster itself listens on this host, over TCP: no node or host port leads elsewhere.
    pub reserved: Vec<SocketAddrV4>,
}

/// A port of the host that leads to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// The host's address; 0.0.0.0 is all, of loopback 127.0.0.1 only.
    pub host_address: Ipv4Addr,
    /// Port there.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

/// Why the pod network could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// A host port that a pod asks for and cannot have.
    #[error("{0}")]
    HostPort(String),
    /// Every address of the node's range is taken.
    #[error("no free pod address is left in {0}")]
    Exhausted(Ipv4Net),
    /// The kernel refuses what every node needs.
    #[error("this kernel does not {what} ({source}): load its modules with `modprobe -a {modules}`")]
    Lacking {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        source: io::Error,
        /// Where that is, as a rule.
        modules: &'static str,
    },
    /// The kernel refused something.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused a change of the service rules.
    #[error(transparent)]
    Nft(#[from] nft::NftError),
}

/// The pod network of this node. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    config: NetworkConfig,
    gateway: Ipv4Addr,
    links: Links,
    /// Held only between awaits; owners are link names.
    pool: Mutex<AddressPool>,
    table: OwnThread<Table>,
}

/// The service rules: what is wanted, and what the kernel has.
struct Table {
    name: String,
    layout: Layout,
    /// From Services; `None` until the proxy has seen them all.
    services: Option<Rules>,
    /// From pods with host ports, by link name.
    host_ports: BTreeMap<String, Rules>,
    /// What the table holds. `None` for a table that an earlier process wrote or that is in doubt: it
    /// is then written anew in one transaction, so that no connection meets a gap.
    installed: Option<Rules>,
}

impl Network {
    /// Sets up the node's device, routes and table, and finds the pods that are already attached.
    /// Needs root, and a tokio runtime that outlives the network.
    pub async fn start(config: NetworkConfig) -> Result<Self, NetError> {
        let gateway = check(&config)?;
        let layout = Layout {
            device: config.bridge.clone(),
            cluster: config.cluster_cidr,
            node: config.node_cidr,
            services: config.service_cidr,
            gateway,
            reserved: config.reserved.clone(),
        };
        let links = Links::connect().map_err(kernel("open a netlink socket"))?;
        refuse_overlap(&config, &links).await?;
        attempt(&layout, format!("{}-try", config.table), &links).await?;
        write_setting("ip_forward", "1")?;
        let device = links.make_device(&config.bridge).await.map_err(lacking("make bridges", "bridge"))?;
        keep_to_data(&config.bridge)?;
        links.raise(device).await.map_err(kernel(&format!("bring {} up", config.bridge)))?;
        for address in [gateway, config.dns_address] {
            links
                .add_address(device, address)
                .await
                .map_err(kernel(&format!("add the address {address}")))?;
        }
        // Addresses nobody has end here; each pod has a more specific route.
        for range in [config.cluster_cidr, config.service_cidr] {
            links.route(range, device, gateway).await.map_err(kernel(&format!("route {range}")))?;
        }
        let pool = adopt_pods(&config, &links).await?;
        let table = Table {
            name: config.table.clone(),
            layout,
            services: None,
            host_ports: BTreeMap::new(),
            installed: Some(Rules::new()),
        };
        let table = OwnThread::start("nftables", table).map_err(kernel("start a thread"))?;
        let inner = Inner { config, gateway, links, pool: Mutex::new(pool), table };
        let network = Self(Arc::new(inner));
        network.with_table(Table::open).await?;
        Ok(network)
    }

    /// The node's address in its pod range: the pods' default gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.0.gateway
    }

    /// The configuration the network was started with.
    pub fn config(&self) -> &NetworkConfig {
        &self.0.config
    }

    /// Connects the network namespace of `sandbox_pid` and returns the pod's address. Doing it again
    /// for the same pod and namespace changes nothing; for another namespace it moves the address.
    pub async fn attach(&self, pod_uid: &str, sandbox_pid: i32) -> Result<Ipv4Addr, NetError> {
        let name = self.link_name(pod_uid);
        let known = self.pool().held_by(&name);
        if let Some(address) = known
            && blocking(move || link::pod_has_address(sandbox_pid, address)).await.unwrap_or(false)
        {
            return Ok(address);
        }
        // A link of this name now can only lead to a namespace that is gone or on its way out.
        if known.is_some() {
            self.0.links.remove(&name).await.map_err(kernel(&format!("remove the link {name}")))?;
        }
        let address = self.pool().take(&name).ok_or(NetError::Exhausted(self.0.config.node_cidr))?;
        let connected = self.connect(&name, address, sandbox_pid).await;
        if connected.is_err() {
            // The first error says what is wrong.
            let _ = self.0.links.remove(&name).await;
            self.pool().release(&name);
        }
        connected.map(|()| address)
    }

    /// The address of a pod that was attached before this process started.
    pub async fn adopt(&self, pod_uid: &str) -> Option<Ipv4Addr> {
        self.pool().held_by(&self.link_name(pod_uid))
    }

    /// Leads ports of the host to a pod's ports; an empty list takes them away. To be repeated after a
    /// restart. A port that a Service of type NodePort has stays with the Service, and so does an
    /// address at which the cluster itself listens with the cluster.
    pub async fn set_host_ports(&self, pod_uid: &str, ports: &[HostPort]) -> Result<(), NetError> {
        let name = self.link_name(pod_uid);
        if !ports.is_empty() {
            let addresses = self.0.links.addresses().await.map_err(kernel("list the host's addresses"))?;
            let addresses: Vec<Ipv4Addr> = addresses.into_iter().map(|(_, address)| address).collect();
            for port in ports {
                check_host_port(&self.0.config, &addresses, port).map_err(NetError::HostPort)?;
            }
        }
        let address = self.pool().held_by(&name);
        let rules: Rules =
            address.into_iter().flat_map(|a| ports.iter().map(move |p| host_port(a, p))).collect();
        self.with_table(move |table| {
            if rules.is_empty() {
                table.host_ports.remove(&name);
            } else {
                table.host_ports.insert(name, rules);
            }
            table.sync()
        })
        .await
    }

    /// Takes the pod off the network and frees its address. Not an error if it is not attached.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetError> {
        let name = self.link_name(pod_uid);
        self.set_host_ports(pod_uid, &[]).await?;
        self.0.links.remove(&name).await.map_err(kernel(&format!("remove the link {name}")))?;
        self.pool().release(&name);
        Ok(())
    }

    /// Removes everything this module makes, also what an earlier process made. Not an error if there
    /// is nothing. `ip_forward` stays on, because others may rely on it by now.
    pub async fn remove_all(&self) -> Result<(), NetError> {
        let NetworkConfig { bridge, table, .. } = &self.0.config;
        remove_all(bridge, table, &self.0.links).await?;
        self.with_table(|table| {
            table.installed = None;
            Ok(())
        })
        .await
    }

    /// Removes what a node's network with this device and table left, without starting one: for
    /// `proa down`.
    pub async fn remove_left_over(bridge: &str, table: &str) -> Result<(), NetError> {
        let links = Links::connect().map_err(kernel("open a netlink socket"))?;
        remove_all(bridge, table, &links).await
    }

    /// The same for a node of a version that named its device and table as all others did: removes the
    /// links of these pods, and the rest only if no other pod hangs on it.
    pub async fn remove_shared(bridge: &str, table: &str, pod_uids: &[String]) -> Result<(), NetError> {
        let links = Links::connect().map_err(kernel("open a netlink socket"))?;
        for name in pod_uids.iter().map(|uid| link_name_in(SHARED_LINK_LETTERS, bridge, uid)) {
            links.remove(&name).await.map_err(kernel(&format!("remove the link {name}")))?;
        }
        let left = links.list().await.map_err(kernel("list the links"))?;
        match left.iter().any(|link| is_pod_link(bridge, &link.name)) {
            true => Ok(()),
            false => remove_all(bridge, table, &links).await,
        }
    }

    /// Replaces the rules that come from Services.
    pub(crate) async fn set_services(&self, services: Rules) -> Result<(), NetError> {
        self.with_table(move |table| {
            table.services = Some(services);
            table.sync()
        })
        .await
    }

    async fn connect(&self, name: &str, address: Ipv4Addr, pid: i32) -> Result<(), NetError> {
        let about = kernel(&format!("connect the network of process {pid}"));
        let bits = address.octets();
        // The first octet marks it as locally administered; the rest keeps it unique on the node.
        let hardware = [0x0a, 0x58, bits[0], bits[1], bits[2], bits[3]];
        let pid_number = u32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let connect = async {
            let links = &self.0.links;
            let index = match links.make_veth(name, pid_number?, hardware).await {
                // Left by an earlier namespace that the kernel has not cleaned up yet.
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                    links.remove(name).await?;
                    links.make_veth(name, pid as u32, hardware).await?
                }
                other => other?,
            };
            keep_to_data(name).map_err(io::Error::other)?;
            links.raise(index).await?;
            let gateway = self.0.gateway;
            let inside = blocking(move || link::configure_pod(pid, address, gateway));
            let host = Ipv4Net::new(address, 32).expect("32 bits are a valid prefix");
            let outside = self.0.links.route(host, index, gateway);
            futures::future::try_join(inside, outside).await?;
            link::settle(name)
        };
        connect.await.map_err(about)?;
        // A pod may only send from its own address.
        write_setting(&format!("conf/{name}/rp_filter"), "1")?;
        allow_loopback(name)
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, AddressPool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn with_table<F>(&self, change: F) -> Result<(), NetError>
    where
        F: FnOnce(&mut Table) -> Result<(), NetError> + Send + 'static,
    {
        self.0.table.run(change).await.map_err(kernel("change the service rules"))?
    }

    fn link_name(&self, pod_uid: &str) -> String {
        link_name(&self.0.config.bridge, pod_uid)
    }
}

impl Table {
    /// Takes over a table that exists, so that connections go on until the services are known, or makes
    /// an empty one.
    fn open(&mut self) -> Result<(), NetError> {
        if nft::table_exists(&self.name)? {
            self.installed = None;
            return Ok(());
        }
        self.write(&Rules::new())
    }

    /// Brings the kernel from what it has to what is wanted.
    fn sync(&mut self) -> Result<(), NetError> {
        if self.installed.is_none() && self.services.is_none() {
            return Ok(());
        }
        let wanted = self.wanted();
        let Some(installed) = &self.installed else { return self.write(&wanted) };
        let changes = rules::plan(installed, &wanted);
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(&self.name);
        changes.iter().for_each(|change| table::encode(change, &mut batch));
        if nft::transact(batch).is_err() {
            // Somebody else changed the table. A whole new one says whether anything else is wrong.
            return self.write(&wanted);
        }
        self.installed = Some(wanted);
        conntrack::forget_removed(&changes);
        Ok(())
    }

    /// The rules of Services, and of host ports what Services leave.
    fn wanted(&self) -> Rules {
        let services = self.services.clone().unwrap_or_default();
        let mut wanted = services.clone();
        for (frontend, backends) in self.host_ports.values().flatten() {
            let of_service = |on_host, address| Frontend { on_host, address, ..*frontend };
            let taken = [of_service(true, Ipv4Addr::UNSPECIFIED), of_service(false, frontend.address)];
            if !taken.iter().any(|frontend| services.contains_key(frontend)) {
                wanted.entry(*frontend).or_insert_with(|| backends.clone());
            }
        }
        wanted
    }

    fn write(&mut self, wanted: &Rules) -> Result<(), NetError> {
        self.installed = None;
        let mut batch = Batch::new(&self.name);
        table::create(&self.layout, &mut batch);
        rules::plan(&Rules::new(), wanted).iter().for_each(|change| table::encode(change, &mut batch));
        nft::transact(batch)?;
        self.installed = Some(wanted.clone());
        Ok(())
    }
}

/// The gateway, if the configuration makes sense.
fn check(config: &NetworkConfig) -> Result<Ipv4Addr, NetError> {
    let refuse = |text: String| Err(NetError::Config(text));
    if config.bridge.is_empty() || config.bridge.len() + 1 + LINK_SUFFIX_MIN > INTERFACE_NAME_MAX {
        return refuse(format!("{:?} is not a device name of one to eight characters", config.bridge));
    }
    if config.cluster_cidr.overlaps(&config.service_cidr) {
        let (pods, services) = (config.cluster_cidr, config.service_cidr);
        return refuse(format!("the pods' range {pods} and the services' range {services} overlap"));
    }
    if !config.service_cidr.contains(config.dns_address) {
        let (dns, services) = (config.dns_address, config.service_cidr);
        return refuse(format!("the DNS address {dns} is not in the services' range {services}"));
    }
    let inside = config.cluster_cidr.contains(config.node_cidr.network())
        && config.node_cidr.prefix() >= config.cluster_cidr.prefix();
    match config.node_cidr.nth(1) {
        Some(gateway) if inside && config.node_cidr.prefix() <= 30 => Ok(gateway),
        _ => {
            let (node, pods) = (config.node_cidr, config.cluster_cidr);
            refuse(format!("the node's range {node} is not a range of at least four addresses in {pods}"))
        }
    }
}

/// Does once what pods and services will need, so that a kernel that cannot says so at the start.
async fn attempt(layout: &Layout, table: String, links: &Links) -> Result<(), NetError> {
    let name = format!("{}-try", layout.device);
    links.try_veth(&name).await.map_err(lacking("make pairs of network devices", "veth"))?;
    let layout = layout.clone();
    let tried = blocking(move || {
        let mut batch = Batch::new(&table);
        table::attempt(&layout, &mut batch);
        Ok(nft::transact(batch))
    });
    let tried = tried.await.map_err(kernel("try the service rules"))?;
    tried.map_err(|error| {
        lacking(&format!("take the rules of services: {}", error.about), NFT_MODULES)(error.source)
    })
}

/// Refuses ranges that the host already uses for something else: its own network would be cut off.
async fn refuse_overlap(config: &NetworkConfig, links: &Links) -> Result<(), NetError> {
    let about = || kernel("list the host's addresses");
    let all = links.list().await.map_err(about())?;
    let is_own = |link: &Link| link.name == config.bridge || is_pod_link(&config.bridge, &link.name);
    let own: Vec<u32> = all.iter().filter(|link| is_own(link)).map(|link| link.index).collect();
    for (index, address) in links.addresses().await.map_err(about())? {
        let range = [config.cluster_cidr, config.service_cidr].into_iter().find(|r| r.contains(address));
        if let Some(range) = range
            && !own.contains(&index)
        {
            let link = all.iter().find(|link| link.index == index).map_or("?", |link| &link.name);
            return Err(NetError::Config(format!(
                "the range {range} is in use on this host, which has the address {address} on {link}"
            )));
        }
    }
    Ok(())
}

/// Fills the pool with the pods whose links exist, oldest first.
async fn adopt_pods(config: &NetworkConfig, links: &Links) -> Result<AddressPool, NetError> {
    let about = || kernel("list the pods' links");
    let mut pool = AddressPool::new(config.node_cidr);
    let routes = links.host_routes().await.map_err(about())?;
    let mut pods = links.list().await.map_err(about())?;
    pods.sort_by_key(|link| link.index);
    for link in pods.iter().filter(|link| is_pod_link(&config.bridge, &link.name)) {
        if let Some(address) = routes.get(&link.index) {
            pool.adopt(&link.name, *address);
            allow_loopback(&link.name)?;
        }
        keep_to_data(&link.name)?;
    }
    Ok(pool)
}

async fn remove_all(bridge: &str, table: &str, links: &Links) -> Result<(), NetError> {
    for link in links.list().await.map_err(kernel("list the links"))? {
        if link.name == bridge || is_pod_link(bridge, &link.name) {
            links.remove(&link.name).await.map_err(kernel(&format!("remove the link {}", link.name)))?;
        }
    }
    let table = table.to_owned();
    let removed = blocking(move || {
        let mut batch = Batch::new(&table);
        // Removing needs something to remove.
        batch.add_table();
        batch.delete_table();
        Ok(nft::transact(batch))
    });
    removed.await.map_err(kernel("remove the service rules"))??;
    Ok(())
}

/// The host end of a pod's veth pair. The name says which pod it belongs to, so nothing else must
/// remember it.
fn link_name(bridge: &str, pod_uid: &str) -> String {
    link_name_in(LINK_LETTERS, bridge, pod_uid)
}

fn link_name_in(letters: &[u8], bridge: &str, pod_uid: &str) -> String {
    let hash = Sha256::digest(pod_uid.as_bytes());
    let room = INTERFACE_NAME_MAX - bridge.len() - 1;
    let letter = |byte: &u8| char::from(letters[usize::from(*byte) % letters.len()]);
    let suffix: String = hash.iter().take(room).map(letter).collect();
    format!("{bridge}-{suffix}")
}

fn is_pod_link(bridge: &str, name: &str) -> bool {
    name.strip_prefix(bridge).is_some_and(|rest| rest.starts_with('-'))
}

/// Why a pod cannot have a port of the host.
fn check_host_port(config: &NetworkConfig, own: &[Ipv4Addr], port: &HostPort) -> Result<(), String> {
    let HostPort { host_address, host_port, protocol, .. } = *port;
    let any = host_address.is_unspecified();
    if !any && (!own.contains(&host_address) || config.service_cidr.contains(host_address)) {
        return Err(format!("hostIP {host_address} is not an address of this node"));
    }
    let is_reserved = config.reserved.iter().any(|reserved| {
        reserved.port() == host_port && (reserved.ip().is_unspecified() || *reserved.ip() == host_address)
    });
    match is_reserved && protocol == Protocol::Tcp {
        true => Err(format!("hostPort {host_port} is where the cluster itself listens on this node")),
        false => Ok(()),
    }
}

fn host_port(pod: Ipv4Addr, port: &HostPort) -> (Frontend, Backends) {
    let HostPort { host_address, host_port, protocol, container_port } = *port;
    let frontend = Frontend { on_host: true, address: host_address, protocol, port: host_port };
    let endpoints = vec![Endpoint { address: pod, port: container_port }];
    (frontend, Backends { pick: Pick::Random, endpoints })
}

/// Lets the host's own loopback address reach the pod behind a link through node and host ports. What
/// comes from the pod to a loopback address is dropped by the table.
fn allow_loopback(link: &str) -> Result<(), NetError> {
    write_setting(&format!("conf/{link}/route_localnet"), "1")
}

/// Has the host take nothing that arrives on a link for news of where to send its own packets: neither
/// redirects nor routers that a pod announces. Pods have no IPv6 addresses, so the host needs none there.
/// To be called before the link is up.
fn keep_to_data(link: &str) -> Result<(), NetError> {
    write_setting(&format!("conf/{link}/accept_redirects"), "0")?;
    for (name, value) in [("accept_ra", "0"), ("accept_redirects", "0"), ("disable_ipv6", "1")] {
        let path = Path::new("/proc/sys/net/ipv6/conf").join(link).join(name);
        match std::fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(kernel(&format!("set {} to {value}", path.display())))?,
        }
    }
    Ok(())
}

/// Writes an IPv4 setting of the current network namespace.
fn write_setting(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys/net/ipv4").join(name);
    std::fs::write(&path, value).map_err(kernel(&format!("set {} to {value}", path.display())))
}

fn lacking(what: &str, modules: &'static str) -> impl FnOnce(io::Error) -> NetError + use<> {
    let what = what.to_owned();
    move |source| NetError::Lacking { what, source, modules }
}

fn kernel(what: &str) -> impl FnOnce(io::Error) -> NetError + use<> {
    let what = what.to_owned();
    move |source| NetError::Kernel { what, source }
}
