//! The address of this node where none is set: one that others reach.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use proa_runtime::net::Ipv4Net;

/// An address of documentation (RFC 5737), which packets would leave this machine for.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Finds it. `own` are the ranges of pods and services, whose addresses lead to this node only.
pub fn find(own: &[Ipv4Net]) -> IpAddr {
    let addresses = getifaddrs().into_iter().flatten().filter_map(|found| {
        let address = found.address?;
        Some(address.as_sockaddr_in()?.ip())
    });
    match choose(routed(), addresses, own) {
        Some(address) => address.into(),
        None => {
            tracing::warn!("this machine has no address but loopback: set --node-ip when it gets one");
            Ipv4Addr::LOCALHOST.into()
        }
    }
}

/// The address from which packets leave this machine. Nothing is sent.
fn routed() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// That of the default route, or else the first.
fn choose(
    routed: Option<Ipv4Addr>,
    addresses: impl Iterator<Item = Ipv4Addr>,
    own: &[Ipv4Net],
) -> Option<Ipv4Addr> {
    let reachable = |address: &Ipv4Addr| {
        let special = address.is_loopback() || address.is_unspecified() || address.is_link_local();
        !special && !own.iter().any(|range| range.contains(*address))
    };
    routed.into_iter().chain(addresses).find(reachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_that_others_reach() {
        let own: Vec<Ipv4Net> = ["10.42.0.0/16", "10.43.0.0/16"].map(|r| r.parse().unwrap()).to_vec();
        let check = |routed: Option<&str>, addresses: &[&str], want: Option<&str>| {
            let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
            let all = addresses.iter().map(|text| address(text));
            assert_eq!(choose(routed.map(address), all, &own), want.map(address));
        };
        check(Some("192.168.1.5"), &["127.0.0.1", "10.0.0.1"], Some("192.168.1.5"));
        check(Some("10.42.0.1"), &["127.0.0.1", "10.42.0.1", "10.43.0.10", "10.0.0.1"], Some("10.0.0.1"));
        check(None, &["127.0.0.1", "169.254.3.4", "172.16.0.9"], Some("172.16.0.9"));
        check(None, &["127.0.0.1", "10.42.0.1"], None);
    }
}
