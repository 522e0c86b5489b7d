//! Endpoints that are names elsewhere: Services of type ExternalName.
//!
//! A name is looked up as this host looks names up, once for all who ask for it, and what it leads to is
//! looked at: whoever may make a Service must not reach through the ingress what listens on this host
//! alone, the machine's metadata service, a node, or other namespaces' pods. The addresses that were
//! looked at are those that are connected to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use proa_api::shares;
use proa_resolve::HostResolver;
use tokio::sync::watch;

use crate::own_addresses::OwnAddresses;
use crate::turns::{Asker, Turns};

/// What a name leads to is believed this long.
const TTL: Duration = Duration::from_secs(30);
/// And that it leads nowhere.
const FAILED_TTL: Duration = Duration::from_secs(10);
/// A lookup may take this long.
const LOOKUP: Duration = Duration::from_secs(4);
/// And a request waits for one no longer, its turn among others included.
const PATIENCE: Duration = Duration::from_secs(5);
/// A lookup waits for its turn no longer: what is left is for itself.
const TURN: Duration = PATIENCE.saturating_sub(LOOKUP);
/// Lookups at the same time, in all and for the names of one namespace.
const AT_ONCE: (usize, usize) = (64, 8);
/// Names that are remembered of one namespace, and namespaces of which any are.
const REMEMBERED: usize = 128;
const NAMESPACES: usize = 1024;
/// Addresses of one name that are used.
const ADDRESSES: usize = 16;
/// Where clouds answer for the machine's metadata beside the link-local addresses.
const METADATA: [&str; 3] = ["fd00:ec2::254", "100.100.100.200", "168.63.129.16"];
const UNRESOLVED: &str = "the name cannot be resolved";
const BUSY: &str = "too many names of its namespace are being looked up";

/// A name elsewhere, and where a Service leads to it.
#[derive(Debug)]
pub struct External {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

type Found = Result<Arc<[IpAddr]>, &'static str>;

/// What is known of a name: nothing while it is being looked up, then what it leads to and how long that
/// is believed.
type Known = watch::Receiver<Option<(Instant, Found)>>;

/// What names have led to.
pub struct Names {
    resolver: Box<dyn Fn() -> Option<TokioResolver> + Send + Sync>,
    turns: Arc<Turns>,
    /// By namespace: what others ask for makes none of them forget.
    known: Mutex<HashMap<String, HashMap<String, Known>>>,
}

impl Names {
    /// Looked up as this host does.
    pub fn new() -> Self {
        let host = HostResolver::default();
        Names::of(move || host.get())
    }

    fn of(resolver: impl Fn() -> Option<TokioResolver> + Send + Sync + 'static) -> Self {
        let turns = Turns::new(AT_ONCE.0, AT_ONCE.1);
        Names { resolver: Box::new(resolver), turns, known: Mutex::default() }
    }

    /// The endpoints behind a name that may be connected to, for a client.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn endpoints(
        &self,
        external: &External,
        client: IpAddr,
        own: &OwnAddresses,
    ) -> Result<Vec<SocketAddr>, &'static str> {
        let addresses = self.addresses(external, client).await?;
        if addresses.iter().any(|address| is_refused(*address, own)) {
            return Err("the name leads to an address that is not served through a name");
        }
        Ok(addresses.iter().map(|address| SocketAddr::new(*address, external.port)).collect())
    }

    async fn addresses(&self, external: &External, client: IpAddr) -> Found {
        if let Ok(address) = external.name.parse() {
            return Ok(Arc::new([address]));
        }
        let mut known = self.known(external, client);
        let found = tokio::time::timeout(PATIENCE, known.wait_for(Option::is_some)).await;
        let found = found.map_err(|_| UNRESOLVED)?.map_err(|_| UNRESOLVED)?;
        found.as_ref().map_or(Err(UNRESOLVED), |(_, found)| found.clone())
    }

    /// What is known of the name. Where that is nothing it is looked up, once for all who ask.
    fn known(&self, external: &External, client: IpAddr) -> Known {
        let now = Instant::now();
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&external.namespace) && all.len() >= NAMESPACES {
            all.clear();
        }
        let names = all.entry(external.namespace.clone()).or_default();
        if let Some(known) = names.get(&external.name).filter(|known| is_current(known, now)) {
            return known.clone();
        }
        if names.len() >= REMEMBERED {
            names.retain(|_, known| is_current(known, now));
        }
        if names.len() >= REMEMBERED {
            names.clear();
        }
        let (sender, known) = watch::channel(None);
        names.insert(external.name.clone(), known.clone());
        drop(all);
        let asker = Asker { namespace: external.namespace.clone(), client: shares::client(client) };
        let (turns, resolver, name) = (Arc::clone(&self.turns), (self.resolver)(), external.name.clone());
        // Beside the request: its turn ends with the work, not with a client that leaves.
        tokio::spawn(async move {
            let known = match turns.take(asker, TURN).await {
                Some(_turn) => {
                    let found = look_up(resolver, &name).await;
                    (Instant::now() + if found.is_ok() { TTL } else { FAILED_TTL }, found)
                }
                // That says nothing of the name.
                None => (Instant::now(), Err(BUSY)),
            };
            sender.send_replace(Some(known));
        });
        known
    }
}

/// Whether what is known, or about to be, still counts.
fn is_current(known: &Known, now: Instant) -> bool {
    match &*known.borrow() {
        Some((until, _)) => *until > now,
        None => known.has_changed().is_ok(),
    }
}

async fn look_up(resolver: Option<TokioResolver>, name: &str) -> Found {
    let resolver = resolver.ok_or(UNRESOLVED)?;
    let found = match tokio::time::timeout(LOOKUP, resolver.lookup_ip(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "name not resolved");
            return Err(UNRESOLVED);
        }
        Err(_) => {
            tracing::debug!(name, "name not resolved in time");
            return Err(UNRESOLVED);
        }
    };
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES);
    Ok(addresses.into())
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
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
    use proa_resolve::bounded;

    use super::*;
    use crate::index::{Index, Ranges};
    use crate::pattern::Patterns;
    use crate::route::Table;

    /// How often a server was asked for an A record of each name.
    type Asked = Arc<Mutex<HashMap<String, usize>>>;

    /// Names looked up by a server that answers nothing.
    async fn silent() -> (Names, Asked) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::new(ProtocolConfig::Udp);
        connection.port = socket.local_addr().unwrap().port();
        let asked = Asked::default();
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut message = [0; 512];
            while let Ok(length) = socket.recv(&mut message).await {
                if let (name, [0, 1, ..]) = question(&message[..length]) {
                    *count.lock().unwrap().entry(name).or_default() += 1;
                }
            }
        });
        let server = NameServerConfig::new([127, 0, 0, 1].into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let resolver = bounded(config, Default::default()).unwrap();
        (Names::of(move || Some(resolver.clone())), asked)
    }

    /// The name that a message asks for, and its type with what follows (RFC 1035, section 4.1.2).
    fn question(message: &[u8]) -> (String, &[u8]) {
        let (mut name, mut rest) = (String::new(), &message[12..]);
        while rest[0] > 0 {
            let (label, after) = rest[1..].split_at(rest[0].into());
            name += &format!("{}.", String::from_utf8_lossy(label));
            rest = after;
        }
        (name, &rest[1..])
    }

    fn external(namespace: &str, name: &str) -> External {
        External { namespace: namespace.to_owned(), name: name.to_owned(), port: 80 }
    }

    #[tokio::test]
    async fn a_slow_name_is_looked_up_once_and_keeps_no_other_namespace_waiting() {
        let (names, asked) = silent().await;
        let (client, own) = ([192, 0, 2, 1].into(), OwnAddresses::default());
        let slow: Vec<External> = (0..100).map(|n| external("aaa", &format!("slow-{n}.example."))).collect();
        let all = slow.iter().flat_map(|name| [name; 20]).map(|name| names.endpoints(name, client, &own));
        let all = futures::future::join_all(all);
        let others = async {
            while asked.lock().unwrap().len() < AT_ONCE.1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let other = external("bbb", "other.example.");
            let other = tokio::time::timeout(Duration::from_secs(1), names.endpoints(&other, client, &own));
            assert!(other.await.is_err(), "the server is silent");
            {
                let asked = asked.lock().unwrap();
                assert!(asked.contains_key("other.example."), "another namespace's name is asked for");
                assert_eq!(asked.len(), AT_ONCE.1 + 1, "names of one namespace, and the other's");
            }
            let address = external("aaa", "192.0.2.9");
            assert!(names.endpoints(&address, client, &own).await.is_ok(), "an address is no name");
        };
        let (failed, ()) = tokio::join!(all, others);
        let failed_with = |why| failed.iter().filter(|found| **found == Err(why)).count();
        assert_eq!((failed_with(UNRESOLVED), failed_with(BUSY)), (20 * AT_ONCE.1, 20 * (100 - AT_ONCE.1)));
        {
            let asked = asked.lock().unwrap();
            let (most, one) = (asked.values().max().unwrap(), asked["other.example."]);
            assert!(*most <= 2 * one, "{most} questions for a name, and {one} where one has asked for it");
        }
        // Failures are remembered.
        let before = Instant::now();
        let looked_up = slow.iter().find(|name| {
            let known = names.known.lock().unwrap();
            matches!(&*known["aaa"][&name.name].borrow(), Some((_, Err(UNRESOLVED))))
        });
        assert!(names.endpoints(looked_up.unwrap(), client, &own).await.is_err());
        assert!(before.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn one_namespace_makes_no_other_forget() {
        let (names, _) = silent().await;
        let (client, own) = ([192, 0, 2, 1].into(), OwnAddresses::default());
        for (namespace, count) in [("bbb", 1), ("aaa", 3 * REMEMBERED)] {
            for n in 0..count {
                let name = external(namespace, &format!("name-{n}.invalid."));
                assert!(names.endpoints(&name, client, &own).await.is_err());
            }
        }
        let known = names.known.lock().unwrap();
        assert!(known["aaa"].len() <= REMEMBERED && known["bbb"].len() == 1);
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
