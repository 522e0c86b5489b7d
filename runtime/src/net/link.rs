//! The links, addresses and routes of the node and its pods, over rtnetlink.
//!
//! Called by `Network` only. Each pod has a veth pair of its own and a /32 route on the host end, so
//! all traffic between pods is routed: it passes the service rules without `br_netfilter`, and an
//! address without a route is an address without a pod.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use super::cidr::Ipv4Net;

/// Name of a pod's interface inside the pod.
const POD_INTERFACE: &str = "eth0";
/// Every namespace has its loopback interface at this index.
pub const LOOPBACK: u32 = 1;

/// A link of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// The connection over which all changes in the host's namespace are made.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Connects in the current thread's network namespace. Needs a tokio runtime, which drives the
    /// connection for as long as a `Links` exists.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All links of the host.
    pub async fn list(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(fault)?;
        Ok(messages.iter().filter_map(named).collect())
    }

    /// All IPv4 addresses of the host, by the index of their link.
    pub async fn addresses(&self) -> io::Result<Vec<(u32, Ipv4Addr)>> {
        let messages: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(fault)?;
        let of = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        };
        Ok(messages
            .iter()
            .filter_map(|m| Some((m.header.index, m.attributes.iter().find_map(of)?)))
            .collect())
    }

    /// The address that each link has a /32 route for.
    pub async fn host_routes(&self) -> io::Result<BTreeMap<u32, Ipv4Addr>> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<_> = self.handle.route().get(all).execute().try_collect().await.map_err(fault)?;
        let mut found = BTreeMap::new();
        for message in messages.iter().filter(|m| m.header.destination_prefix_length == 32) {
            let link = message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let address = message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
                _ => None,
            });
            if let (Some(link), Some(address)) = (link, address) {
                found.insert(link, address);
            }
        }
        Ok(found)
    }

    /// Makes the node's own device if it is missing: a bridge without ports, because every kernel that can
    /// run containers has bridges.
    pub async fn make_device(&self, name: &str) -> io::Result<u32> {
        match self.handle.link().add(LinkBridge::new(name).build()).execute().await.map_err(fault) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(e),
        }
        index_of(name)
    }

    /// Sees whether the kernel makes the links that pods hang on.
    pub async fn try_veth(&self, name: &str) -> io::Result<()> {
        // Left by a process that was killed in between.
        self.remove(name).await?;
        let pair = LinkVeth::new(name, &format!("{name}2")).build();
        self.handle.link().add(pair).execute().await.map_err(fault)?;
        self.remove(name).await
    }

    /// Brings a link up.
    pub async fn raise(&self, link: u32) -> io::Result<()> {
        let up = LinkUnspec::new_with_index(link).up().build();
        self.handle.link().set(up).execute().await.map_err(fault)
    }

    /// Gives a link an address of its own, with no range around it.
    pub async fn add_address(&self, link: u32, address: Ipv4Addr) -> io::Result<()> {
        self.handle.address().add(link, IpAddr::V4(address), 32).replace().execute().await.map_err(fault)
    }

    /// Routes a range to a link. Packets of the host itself then have the address `source`.
    pub async fn route(&self, range: Ipv4Net, link: u32, source: Ipv4Addr) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix())
            .output_interface(link)
            .scope(RouteScope::Link)
            .pref_source(source)
            .build();
        self.handle.route().add(route).replace().execute().await.map_err(fault)
    }

    /// Makes a veth pair: the end `name` here, the other inside the network namespace of `pid`, where
    /// it is born with its final name. Neither is up: the other can only be brought up there, once both
    /// ends exist.
    pub async fn make_veth(&self, name: &str, pid: u32, hardware_address: [u8; 6]) -> io::Result<u32> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(POD_INTERFACE.into()));
        peer.attributes.push(LinkAttribute::Address(hardware_address.to_vec()));
        peer.attributes.push(LinkAttribute::NetNsPid(pid));
        let pair =
            LinkVeth::new(name, POD_INTERFACE).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        self.handle.link().add(pair).execute().await.map_err(fault)?;
        index_of(name)
    }

    /// Removes a link and with it its peer, addresses and routes. Not an error if there is none.
    pub async fn remove(&self, name: &str) -> io::Result<()> {
        let Ok(index) = index_of(name) else { return Ok(()) };
        match self.handle.link().del(index).execute().await.map_err(fault) {
            Err(e) if e.raw_os_error() != Some(libc::ENODEV) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Sets up the inside of a pod: loopback, address and routes. Blocking; takes part of a millisecond.
///
/// A namespace belongs to a thread, so this runs on a thread of its own that ends with it and is never
/// given back to a pool.
pub fn configure_pod(pid: i32, address: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
    in_namespace(pid, async move {
        let links = Links::connect()?;
        let link = index_of(POD_INTERFACE)?;
        links.raise(LOOPBACK).await?;
        links.raise(link).await?;
        links.add_address(link, address).await?;
        // Nothing is on the pod's link but the gateway; everything else lies behind it.
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(link)
            .scope(RouteScope::Link)
            .build();
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link).build();
        for route in [to_gateway, default] {
            links.handle.route().add(route).execute().await.map_err(fault)?;
        }
        Ok(())
    })
}

/// Makes the kernel act now on a link that has just got its other end.
///
/// The end of a veth pair that was brought up first starts to send only when the kernel's link watch
/// comes round to it, up to a second later, and drops packets until then. Asking whether there is a
/// link (ETHTOOL_GLINK, linux/ethtool.h) makes the link watch look at once.
pub fn settle(name: &str) -> io::Result<()> {
    const ETHTOOL_GLINK: u32 = 0x0a;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero and ends the name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request and the value it points to live across the call and have the layout it expects.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the pod's own interface has `address`: whether an earlier `configure_pod` got this far.
pub fn pod_has_address(pid: i32, address: Ipv4Addr) -> io::Result<bool> {
    in_namespace(pid, async move {
        let links = Links::connect()?;
        let Ok(link) = index_of(POD_INTERFACE) else { return Ok(false) };
        Ok(links.addresses().await?.contains(&(link, address)))
    })
}

/// Runs `work` to its end on a new thread inside the network namespace of `pid`.
fn in_namespace<T, F>(pid: i32, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    let thread = std::thread::Builder::new().name("pod-net".into()).spawn(move || {
        nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(work)
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the pod's namespace panicked")))
}

/// The index of a link in the current thread's network namespace.
fn index_of(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

fn named(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    Some(Link { index: message.header.index, name })
}

/// The kernel's own reason, where there is one.
fn fault(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
