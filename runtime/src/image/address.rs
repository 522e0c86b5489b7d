//! Which addresses a registry may send its clients on to. Pure.
//!
//! A registry is a stranger: its redirects and the token servers that it names must not make the
//! node speak to what only the node reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// From everywhere.
    Public,
    /// From its own network: RFC 1918, RFC 6598, RFC 4193.
    Private,
    /// From its own link, and where clouds keep their metadata: RFC 3927, RFC 4291.
    LinkLocal,
    /// From this machine.
    Loopback,
}

impl Kind {
    pub(super) fn of(ip: IpAddr) -> Kind {
        match ip {
            IpAddr::V4(ip) => Kind::of_v4(ip),
            IpAddr::V6(ip) => embedded(ip).map_or_else(|| Kind::of_v6(ip), Kind::of_v4),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Kind {
        let [a, b, ..] = ip.octets();
        match (a, b) {
            // Connecting to 0.0.0.0 is connecting to this machine.
            (0 | 127, _) => Kind::Loopback,
            (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) => Kind::Private,
            (169, 254) | (224.., _) => Kind::LinkLocal,
            _ => Kind::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Kind {
        match ip.segments()[0] {
            _ if ip.is_loopback() || ip.is_unspecified() => Kind::Loopback,
            0xfc00..=0xfdff => Kind::Private,
            0xfe80.. => Kind::LinkLocal,
            _ => Kind::Public,
        }
    }

    /// True if a registry at an address of this kind may send on to another host at one of `to`.
    /// A registry in a private network may keep its blobs in a public store; nothing else crosses.
    pub(super) fn may_lead_to(self, to: Kind) -> bool {
        matches!((self, to), (Kind::Public | Kind::Private, Kind::Public) | (Kind::Private, Kind::Private))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Public => "public",
            Kind::Private => "private",
            Kind::LinkLocal => "link-local",
            Kind::Loopback => "loopback",
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291), or through NAT64 (RFC 6052).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let [.., a, b, c, d] = ip.octets();
    ip.to_ipv4_mapped().or_else(|| nat64.then(|| Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_kinds() {
        for (text, kind) in [
            ("127.0.0.1", Kind::Loopback),
            ("127.8.0.1", Kind::Loopback),
            ("0.0.0.0", Kind::Loopback),
            ("::1", Kind::Loopback),
            ("::", Kind::Loopback),
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("64:ff9b::7f00:1", Kind::Loopback),
            ("10.43.0.1", Kind::Private),
            ("172.16.0.1", Kind::Private),
            ("172.32.0.1", Kind::Public),
            ("192.168.1.1", Kind::Private),
            ("100.64.0.1", Kind::Private),
            ("fd00::1", Kind::Private),
            ("169.254.169.254", Kind::LinkLocal),
            ("::ffff:169.254.169.254", Kind::LinkLocal),
            ("fe80::1", Kind::LinkLocal),
            ("ff02::1", Kind::LinkLocal),
            ("255.255.255.255", Kind::LinkLocal),
            ("1.1.1.1", Kind::Public),
            ("2606:4700::1111", Kind::Public),
        ] {
            assert_eq!(Kind::of(text.parse().unwrap()), kind, "{text}");
        }
    }

    #[test]
    fn nothing_leads_inwards() {
        use Kind::{LinkLocal, Loopback, Private, Public};
        let all = [Public, Private, LinkLocal, Loopback];
        let led = |from: Kind| all.into_iter().filter(|to| from.may_lead_to(*to)).collect::<Vec<_>>();
        assert_eq!(led(Public), [Public]);
        assert_eq!(led(Private), [Public, Private]);
        assert_eq!(led(LinkLocal), []);
        assert_eq!(led(Loopback), []);
    }
}
