//! What a node can reach and what addresses Services may have on it.
//!
//! Pure. Filled by `proxy` from the node's configuration and the Nodes of the cluster; read by `index`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::cidr::Ipv4Net;

/// What the rules must know about the node and its cluster.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The node's name, for sentences.
    pub node_name: String,
    /// The addresses of the node's own pods, for traffic policies of `Local`.
    pub node: Ipv4Net,
    /// The addresses of all pods. Those of other nodes cannot be reached from this one.
    pub cluster: Ipv4Net,
    /// The addresses of all Services.
    pub services: Ipv4Net,
    /// The address of the DNS server, which answers there itself: no rule may lead elsewhere.
    pub dns_address: Ipv4Addr,
    /// The addresses of all nodes; `None` while they are not known.
    pub nodes: Option<BTreeSet<Ipv4Addr>>,
}

impl Scope {
    /// Whether a packet from this node gets to an endpoint: any but a pod of another node.
    pub fn reaches(&self, endpoint: Ipv4Addr) -> bool {
        !self.cluster.contains(endpoint) || self.node.contains(endpoint)
    }

    /// Why a Service cannot have this address beside its own: the address is somebody else's, and
    /// packets to it would be taken from them.
    pub fn refusal(&self, address: Ipv4Addr) -> Option<String> {
        let is_node = self.nodes.as_ref().is_some_and(|nodes| nodes.contains(&address));
        let why = match address {
            a if self.cluster.contains(a) => format!("it is one of the pods' addresses {}", self.cluster),
            a if self.services.contains(a) => {
                format!("it is one of the Services' addresses {}", self.services)
            }
            _ if is_node => "it is the address of a node".to_owned(),
            a if a.is_unspecified() => "it is no host's address".to_owned(),
            a if a.is_loopback() => "it is a loopback address".to_owned(),
            a if a.is_link_local() => "it is a link-local address".to_owned(),
            a if a.is_multicast() => "it is a multicast address".to_owned(),
            a if a.is_broadcast() => "it is the broadcast address".to_owned(),
            _ => return None,
        };
        Some(why)
    }
}

#[cfg(test)]
impl Scope {
    /// The first node of a cluster with the usual ranges.
    pub fn for_tests() -> Self {
        Scope {
            node_name: "n1".to_owned(),
            node: "10.42.0.0/24".parse().unwrap(),
            cluster: "10.42.0.0/16".parse().unwrap(),
            services: "10.43.0.0/16".parse().unwrap(),
            dns_address: Ipv4Addr::new(10, 43, 0, 10),
            nodes: Some(BTreeSet::from([Ipv4Addr::new(192, 168, 7, 1)])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_somebody_elses() {
        let scope = Scope::for_tests();
        for (address, why) in [
            ("10.42.3.4", "it is one of the pods' addresses 10.42.0.0/16"),
            ("10.42.0.1", "it is one of the pods' addresses 10.42.0.0/16"),
            ("10.43.0.1", "it is one of the Services' addresses 10.43.0.0/16"),
            ("10.43.0.10", "it is one of the Services' addresses 10.43.0.0/16"),
            ("192.168.7.1", "it is the address of a node"),
            ("0.0.0.0", "it is no host's address"),
            ("127.0.0.1", "it is a loopback address"),
            ("169.254.169.254", "it is a link-local address"),
            ("224.0.0.1", "it is a multicast address"),
            ("255.255.255.255", "it is the broadcast address"),
        ] {
            assert_eq!(scope.refusal(address.parse().unwrap()).as_deref(), Some(why), "{address}");
        }
        for address in ["192.0.2.1", "192.168.7.2", "10.44.0.1"] {
            assert_eq!(scope.refusal(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn pods_of_other_nodes_are_out_of_reach() {
        let scope = Scope::for_tests();
        for (address, reached) in [("10.42.0.9", true), ("10.42.1.9", false), ("192.168.7.1", true)] {
            assert_eq!(scope.reaches(address.parse().unwrap()), reached, "{address}");
        }
    }
}
