//! What is answered to a question about the cluster.
//!
//! Pure. Source: the Kubernetes DNS specification v1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>); section numbers below are
//! its. Negative answers follow RFC 2308.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use proa_api::slices::{Endpoint, Port};

use crate::zone::{Service, Zone};

/// Version of the schema that the records follow.
const SCHEMA_VERSION: &str = "1.1.0";
/// RFC 2782: all targets are alike.
const SRV_PRIORITY: u16 = 0;
/// What the records of one answer share.
const SRV_WEIGHT: u16 = 100;

/// Which names are the cluster's own.
#[derive(Clone, Debug)]
pub struct Own {
    /// The cluster domain.
    domain: Name,
    /// The ranges whose reverse names are the cluster's.
    ranges: Vec<(Ipv4Addr, u8)>,
    ttl_seconds: u32,
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Records {
    /// `NoError`, or `NXDomain` if the name does not exist with any type.
    pub code: ResponseCode,
    /// What was asked for; empty if the name has no records of that type.
    pub answers: Vec<Record>,
    /// What the client will ask for next.
    pub additionals: Vec<Record>,
    /// With an empty answer: who says so, and for how long.
    pub soa: Option<Record>,
    /// The name for which the answer must still be sought, and appended.
    pub follow: Option<Name>,
}

/// What a name stands for, before the type asked for is considered.
enum Found {
    /// There is no such name.
    Nothing,
    /// The name exists; all its records, and what belongs beside them.
    Data(Vec<RData>, Vec<Record>),
}

impl Own {
    /// `None` if `domain` is not a domain name.
    pub fn new(domain: &str, ranges: Vec<(Ipv4Addr, u8)>, ttl_seconds: u32) -> Option<Self> {
        let mut domain = Name::from_ascii(domain).ok()?.to_lowercase();
        domain.set_fqdn(true);
        (!domain.is_root()).then_some(Self { domain, ranges, ttl_seconds })
    }

    /// Answers one question of class IN; `None` if it is not about the cluster. `name` may be in any
    /// case, and the records repeat it as it is.
    pub fn answer(&self, zone: &Zone, name: &Name, asked: RecordType) -> Option<Records> {
        let lower = name.to_lowercase();
        let (apex, found) = if self.domain.zone_of(&lower) {
            (self.domain.clone(), self.find(zone, &lower))
        } else {
            self.find_reverse(zone, &lower)?
        };
        Some(self.records(name, asked, apex, found))
    }

    fn records(&self, name: &Name, asked: RecordType, apex: Name, found: Found) -> Records {
        let record = |data| Record::from_rdata(name.clone(), self.ttl_seconds, data);
        let (code, data, additionals) = match found {
            Found::Nothing => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
            Found::Data(data, additionals) => (ResponseCode::NoError, data, additionals),
        };
        let mut follow = None;
        let mut answers = Vec::new();
        for data in data {
            if let RData::CNAME(target) = &data {
                // An alias is the answer whatever is asked, and the question goes on behind it.
                follow = (asked != RecordType::CNAME && asked != RecordType::ANY).then(|| target.0.clone());
                answers.push(record(data));
            } else if asked == RecordType::ANY || data.record_type() == asked {
                answers.push(record(data));
            }
        }
        let soa = answers.is_empty().then(|| self.soa(apex));
        let additionals = if answers.is_empty() { Vec::new() } else { additionals };
        Records { code, answers, additionals, soa, follow }
    }

    /// A name under the cluster domain, lower case.
    fn find(&self, zone: &Zone, name: &Name) -> Found {
        let count = usize::from(name.num_labels() - self.domain.num_labels());
        let mut labels = Vec::with_capacity(count);
        for label in name.iter().take(count) {
            match std::str::from_utf8(label) {
                Ok(label) => labels.push(label),
                Err(_) => return Found::Nothing,
            }
        }
        labels.reverse();
        match labels[..] {
            [] => Found::Data(vec![self.soa(self.domain.clone()).data, RData::NS(NS(self.server()))], vec![]),
            // 2.2
            ["dns-version"] => Found::Data(vec![RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))], vec![]),
            // The server's own name, which the records of the apex mention.
            ["dns"] | ["dns", "ns"] | ["svc"] | ["pod"] => Found::Data(vec![], vec![]),
            ["svc", namespace] if zone.has_namespace(namespace) => Found::Data(vec![], vec![]),
            ["svc", namespace, service, ref rest @ ..] => self.find_service(zone, namespace, service, rest),
            ["pod", _] => Found::Data(vec![], vec![]),
            // 2.6
            ["pod", _, address] => match dashed(address) {
                Some(address) => Found::Data(vec![RData::A(A(address))], vec![]),
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    /// A name at or below a Service. `rest` is what is below, nearest first.
    fn find_service(&self, zone: &Zone, namespace: &str, name: &str, rest: &[&str]) -> Found {
        let Some(service) = zone.service(namespace, name) else { return Found::Nothing };
        let own = || self.name(&[name, namespace, "svc"]);
        match (service, rest) {
            // 2.3.1
            (Service::Addresses { addresses, .. }, []) => {
                Found::Data(addresses.iter().map(|address| data(*address)).collect(), vec![])
            }
            // 2.3.2
            (Service::Addresses { addresses, ports }, [protocol, port]) => {
                let of = |p: &&crate::zone::Port| {
                    Some(p.name.as_str()) == port.strip_prefix('_')
                        && Some(p.protocol.as_str()) == protocol.strip_prefix('_')
                };
                let (Some(target), Some(port)) = (own(), ports.iter().find(of)) else {
                    return Found::Nothing;
                };
                let beside = addresses.iter().map(|address| self.record(&target, data(*address))).collect();
                Found::Data(shared(vec![(port.number, target)]).collect(), beside)
            }
            // The name between a Service and its ports exists, without records of its own.
            (Service::Addresses { ports, .. }, [protocol]) => {
                let has = ports.iter().any(|p| Some(p.protocol.as_str()) == protocol.strip_prefix('_'));
                if has { Found::Data(vec![], vec![]) } else { Found::Nothing }
            }
            (Service::Headless { publish_not_ready }, rest) => {
                self.find_headless(zone, namespace, name, *publish_not_ready, rest)
            }
            // 2.5
            (Service::ExternalName(target), []) => match Name::from_ascii(target) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    Found::Data(vec![RData::CNAME(CNAME(target))], vec![])
                }
                Err(_) => Found::Data(vec![], vec![]),
            },
            _ => Found::Nothing,
        }
    }

    /// 2.4: a Service that stands for its endpoints.
    fn find_headless(&self, zone: &Zone, namespace: &str, name: &str, all: bool, rest: &[&str]) -> Found {
        let counts = |endpoint: &&Endpoint| all || endpoint.ready;
        let slices = || zone.slices(namespace, name);
        let endpoints = || slices().flat_map(|slice| &slice.endpoints).filter(counts);
        let (mut found, mut beside) = (Vec::new(), Vec::new());
        match rest {
            [] => found.extend(endpoints().map(|endpoint| data(endpoint.address))),
            [protocol, port] if protocol.starts_with('_') => {
                let mut targets = Vec::new();
                for slice in slices() {
                    let of = |p: &&Port| is_label(&p.name, port) && is_label(&p.protocol, protocol);
                    let ports = slice.ports.iter().filter(of);
                    for port in ports {
                        for endpoint in slice.endpoints.iter().filter(counts) {
                            let labels = [&*hostname(endpoint), name, namespace, "svc"];
                            let Some(target) = self.name(&labels) else { continue };
                            beside.push(self.record(&target, data(endpoint.address)));
                            targets.push((port.number, target));
                        }
                    }
                }
                found.extend(shared(targets));
            }
            [protocol] if protocol.starts_with('_') => {
                let has = slices()
                    .flat_map(|slice| &slice.ports)
                    .any(|p| !p.name.is_empty() && is_label(&p.protocol, protocol));
                return if has { Found::Data(vec![], vec![]) } else { Found::Nothing };
            }
            [label] => {
                found.extend(endpoints().filter(|e| hostname(e) == *label).map(|e| data(e.address)));
            }
            _ => {}
        }
        found.dedup();
        beside.dedup();
        if found.is_empty() { Found::Nothing } else { Found::Data(found, beside) }
    }

    /// 2.3.3 and 2.4.3: a name under `in-addr.arpa` or `ip6.arpa`, lower case. `None` if the address is
    /// nobody's here and outside the cluster's ranges.
    fn find_reverse(&self, zone: &Zone, name: &Name) -> Option<(Name, Found)> {
        let asked = name.parse_arpa_name().ok()?;
        let whole = asked.prefix_len() == asked.max_prefix_len();
        let found = if whole { self.names_of(zone, asked.addr()) } else { Vec::new() };
        let range = self.ranges.iter().find(|(network, prefix)| match asked.addr() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                asked.prefix_len() >= *prefix && address.to_bits() & mask == network.to_bits() & mask
            }
            IpAddr::V6(_) => false,
        });
        // The zone that says no is cut at the whole octets that the range has in common.
        let labels = range
            .map_or(usize::from(name.num_labels()), |(_, prefix)| usize::from(prefix.div_ceil(8)).max(1) + 2);
        let apex = name.trim_to(labels);
        match (found.is_empty(), range) {
            (true, None) => None,
            (true, Some(_)) if whole => Some((apex, Found::Nothing)),
            _ => Some((apex, Found::Data(found, vec![]))),
        }
    }

    fn names_of(&self, zone: &Zone, address: IpAddr) -> Vec<RData> {
        let mut found = Vec::new();
        for ((namespace, name), service) in zone.services() {
            match service {
                Service::Addresses { addresses, .. } if addresses.contains(&address) => {
                    found.extend(self.name(&[name, namespace, "svc"]));
                }
                Service::Headless { publish_not_ready } => {
                    let endpoints = zone.slices(namespace, name).flat_map(|slice| &slice.endpoints);
                    for endpoint in
                        endpoints.filter(|e| e.address == address && (*publish_not_ready || e.ready))
                    {
                        found.extend(self.name(&[&hostname(endpoint), name, namespace, "svc"]));
                    }
                }
                _ => {}
            }
        }
        found.dedup();
        found.into_iter().map(|name| RData::PTR(PTR(name))).collect()
    }

    /// A name in the cluster domain, from its labels; `None` if it would be too long.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        name.append_domain(&self.domain).ok()
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_seconds, data)
    }

    /// The name by which this server calls itself.
    fn server(&self) -> Name {
        self.name(&["ns", "dns"]).unwrap_or_else(|| self.domain.clone())
    }

    fn soa(&self, apex: Name) -> Record {
        const REFRESH_SECONDS: i32 = 7200;
        const RETRY_SECONDS: i32 = 1800;
        const EXPIRE_SECONDS: i32 = 86_400;
        let contact = self.name(&["hostmaster"]).unwrap_or_else(|| self.domain.clone());
        // Nobody transfers this zone, so its serial number never matters.
        let soa = SOA::new(
            self.server(),
            contact,
            1,
            REFRESH_SECONDS,
            RETRY_SECONDS,
            EXPIRE_SECONDS,
            self.ttl_seconds,
        );
        Record::from_rdata(apex, self.ttl_seconds, RData::SOA(soa))
    }
}

/// Whether a label stands for this name of a port or a protocol. Ports without a name have no records.
fn is_label(name: &str, label: &str) -> bool {
    !name.is_empty() && label.strip_prefix('_').is_some_and(|label| label.eq_ignore_ascii_case(name))
}

/// The name that tells an endpoint from the Service's others, lower case: its own, or its address with
/// dashes.
fn hostname(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(name) => name.to_lowercase(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// One record for each port and target; none is without weight (RFC 2782: one of zero is hardly chosen).
fn shared(targets: Vec<(u16, Name)>) -> impl Iterator<Item = RData> {
    let count = u16::try_from(targets.len()).unwrap_or(u16::MAX).max(1);
    let weight = (SRV_WEIGHT / count).max(1);
    let record = move |(port, target)| RData::SRV(SRV::new(SRV_PRIORITY, weight, port, target));
    targets.into_iter().map(record)
}

/// An IPv4 address written with dashes, `10-42-0-7`.
fn dashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

#[cfg(test)]
mod tests;
