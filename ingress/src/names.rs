//! Endpoints that are names elsewhere: Services of type ExternalName.
//!
//! A name is looked up as this host looks names up, and what it leads to is looked at: whoever may make
//! a Service must not reach through the ingress what listens on this host alone, the machine's metadata
//! service, a node, or other namespaces' pods. The addresses that were looked at are those that are
//! connected to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;

use crate::route::OwnAddresses;

/// What a name leads to is believed this long.
const TTL: Duration = Duration::from_secs(30);
/// And looked up no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names that are remembered.
const REMEMBERED: usize = 1024;
/// Where clouds answer for the machine's metadata beside the link-local addresses.
const METADATA: [&str; 3] = ["fd00:ec2::254", "100.100.100.200", "168.63.129.16"];

/// What names have led to.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>);

impl Names {
    /// The endpoints behind a name that may be connected to.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn endpoints(
        &self,
        name: &str,
        port: u16,
        own: &OwnAddresses,
    ) -> Result<Vec<SocketAddr>, &'static str> {
        let addresses = self.look_up(name).await?;
        if addresses.iter().any(|address| is_refused(*address, own)) {
            return Err("the name leads to an address that is not served through a name");
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, &'static str> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, addresses)) = known().get(name).filter(|(at, _)| at.elapsed() < TTL) {
            return Ok(addresses.clone());
        }
        let unknown = "the name cannot be resolved";
        let resolver = resolver().map_err(|_| unknown)?;
        let found = tokio::time::timeout(PATIENCE, resolver.lookup_ip(name)).await;
        let Ok(Ok(found)) = found else { return Err(unknown) };
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut known = known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(name.to_owned(), (Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

/// Not the C library's, which takes a thread for as long as nameservers take, also when nobody waits any
/// more. Made anew each time, as the machine's network may have changed since.
fn resolver() -> Result<TokioResolver, NetError> {
    // Without nameservers there are still the names in the hosts file.
    let (config, mut options) =
        read_system_conf().unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

fn is_refused(address: IpAddr, own: &OwnAddresses) -> bool {
    let address = address.to_canonical();
    let is_special = match address {
        IpAddr::V4(a) => {
            // 0/8 is this host; 240/4 is nobody's.
            a.is_link_local() || a.is_multicast() || a.octets()[0] == 0 || a.octets()[0] >= 240
        }
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_multicast() || a.is_unspecified(),
    };
    let is_metadata = METADATA.iter().any(|text| text.parse() == Ok(address));
    is_special || address.is_loopback() || is_metadata || own.has(address) || is_local(address)
}

/// Whether this host has the address: only then can a socket be bound to it.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Index, Ranges};
    use crate::pattern::Patterns;
    use crate::route::Table;

    #[test]
    fn names_are_looked_up_without_a_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv());
            let found = Names::default().look_up("localhost").await.unwrap();
            assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
            drop(release);
            let _ = busy.await;
        });
    }

    #[test]
    fn what_a_name_must_not_lead_to() {
        let net = |text: &str| text.parse().unwrap();
        let ranges =
            Ranges { pods: net("10.42.0.0/16"), node: net("10.42.0.0/24"), services: net("10.43.0.0/16") };
        let mut index = Index { ranges: Some(ranges), ..Index::default() };
        index.nodes.insert("n2".to_owned(), vec!["192.0.2.7".parse().unwrap()]);
        let table = Table::compile(&index, &mut Patterns::default());
        for (address, refused) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("100.100.100.200", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("10.42.3.4", true),
            ("10.43.0.1", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_refused(address.parse().unwrap(), table.own_addresses()), refused, "{address}");
        }
    }
}
