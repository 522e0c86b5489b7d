//! Forgets connections to endpoints that are gone.
//!
//! Only UDP: a UDP client that keeps its source port renews its entry with every packet, and would be
//! sent to an address that answers no more for ever. A TCP client notices by itself. A failure is
//! logged and otherwise ignored, because the entries also end by time.

use std::net::Ipv4Addr;

use super::nft::{self, attr};
use super::rules::{Endpoint, Frontend, Protocol, RuleChange};

/// Subsystem conntrack, message get.
const GET: u16 = (1 << 8) | 1;
/// Subsystem conntrack, message delete.
const DELETE: u16 = (1 << 8) | 2;
// Attributes, from linux/netfilter/nfnetlink_conntrack.h.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// Drops the entries of all UDP endpoints that `changes` took away and did not give back at another
/// place.
pub fn forget_removed(changes: &[RuleChange]) {
    let gone = removed(changes);
    if gone.is_empty() {
        return;
    }
    if let Err(error) = forget(&gone) {
        tracing::debug!(%error, "cannot drop connections to removed endpoints");
    }
}

fn removed(changes: &[RuleChange]) -> Vec<(Frontend, Endpoint)> {
    let kept = |frontend: &Frontend, endpoint: &Endpoint| {
        changes
            .iter()
            .any(|c| matches!(c, RuleChange::AddEndpoint(f, _, e) if f == frontend && e == endpoint))
    };
    let mut gone = Vec::new();
    for change in changes {
        if let RuleChange::RemoveEndpoint(frontend, _, endpoint) = change
            && frontend.protocol == Protocol::Udp
            && !kept(frontend, endpoint)
        {
            gone.push((*frontend, *endpoint));
        }
    }
    gone
}

fn forget(gone: &[(Frontend, Endpoint)]) -> std::io::Result<()> {
    let mut stale = Vec::new();
    nft::dump(GET, &mut |entry| {
        if matches(entry, gone) {
            stale
                .extend(attr::walk(entry).find(|(kind, _)| *kind == TUPLE_ORIGINAL).map(|(_, t)| t.to_vec()));
        }
    })?;
    for tuple in stale {
        let mut attributes = Vec::new();
        attr::Attributes::new(&mut attributes).nested(TUPLE_ORIGINAL, |t| t.raw(&tuple));
        match nft::command(DELETE, &attributes) {
            // It ended in the meantime.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether an entry goes from one of the frontends to its endpoint that is gone.
fn matches(entry: &[u8], gone: &[(Frontend, Endpoint)]) -> bool {
    let tuple =
        |wanted| attr::walk(entry).find(|(kind, _)| *kind == wanted).and_then(|(_, t)| Tuple::read(t));
    let (Some(original), Some(reply)) = (tuple(TUPLE_ORIGINAL), tuple(TUPLE_REPLY)) else { return false };
    gone.iter().any(|(frontend, endpoint)| {
        original.protocol == frontend.protocol.number()
            && (frontend.address.is_unspecified() || original.destination == frontend.address)
            && original.destination_port == frontend.port
            && reply.source == endpoint.address
            && reply.source_port == endpoint.port
    })
}

/// One direction of a connection.
struct Tuple {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Self> {
        let part =
            |bytes, wanted| attr::walk(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let (ip, protocol) = (part(bytes, TUPLE_IP)?, part(bytes, TUPLE_PROTOCOL)?);
        let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(part(ip, kind)?).ok()?));
        let port = |kind| Some(u16::from_be_bytes(part(protocol, kind)?.try_into().ok()?));
        Some(Self {
            source: address(IP_SOURCE)?,
            destination: address(IP_DESTINATION)?,
            protocol: *part(protocol, PROTOCOL_NUMBER)?.first()?,
            source_port: port(PROTOCOL_SOURCE_PORT)?,
            destination_port: port(PROTOCOL_DESTINATION_PORT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(host: u8) -> (Frontend, Endpoint) {
        (
            Frontend {
                on_host: false,
                address: Ipv4Addr::new(10, 43, 0, 7),
                protocol: Protocol::Udp,
                port: 53,
            },
            Endpoint { address: Ipv4Addr::new(10, 42, 0, host), port: 5353 },
        )
    }

    #[test]
    fn an_endpoint_that_only_moved_is_not_gone() {
        let (frontend, two) = udp(2);
        let (_, three) = udp(3);
        let changes = [
            RuleChange::RemoveEndpoint(frontend, 0, two),
            RuleChange::AddEndpoint(frontend, 0, three),
            RuleChange::RemoveEndpoint(frontend, 1, three),
        ];
        assert_eq!(removed(&changes), [(frontend, two)]);
        let tcp = Frontend { protocol: Protocol::Tcp, ..frontend };
        assert_eq!(removed(&[RuleChange::RemoveEndpoint(tcp, 0, two)]), []);
    }

    #[test]
    fn entries_are_told_by_both_directions() {
        let tuple = |a: &mut attr::Attributes, kind, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
            a.nested(kind, |t| {
                t.nested(TUPLE_IP, |ip| {
                    ip.bytes(IP_SOURCE, &from.0.octets()).bytes(IP_DESTINATION, &to.0.octets());
                });
                t.nested(TUPLE_PROTOCOL, |p| {
                    p.bytes(PROTOCOL_NUMBER, &[17]).bytes(PROTOCOL_SOURCE_PORT, &from.1.to_be_bytes());
                    p.bytes(PROTOCOL_DESTINATION_PORT, &to.1.to_be_bytes());
                });
            });
        };
        let (frontend, endpoint) = udp(2);
        let client = (Ipv4Addr::new(10, 42, 0, 9), 40000);
        let mut entry = Vec::new();
        let mut attributes = attr::Attributes::new(&mut entry);
        tuple(&mut attributes, TUPLE_ORIGINAL, client, (frontend.address, 53));
        tuple(&mut attributes, TUPLE_REPLY, (endpoint.address, 5353), client);
        assert!(matches(&entry, &[(frontend, endpoint)]));
        assert!(!matches(&entry, &[udp(3)]));
        assert!(!matches(&entry[..20], &[(frontend, endpoint)]));
    }
}
