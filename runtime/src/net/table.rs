//! The layout of the one nftables table, `proa`, and the messages for each change of its content.
//!
//! Pure. Packets to a service are looked up in the verdict map `frontends`, which sends them to a
//! chain that chooses one of as many endpoints as the service has (`choose-3`); that chain finds the
//! endpoint in the map `endpoints` and rewrites the destination. There is no chain per service, so a
//! change touches map elements only.
//!
//! Packets to a pod or service address that belongs to nobody are routed to the node's own device,
//! because only live pods have routes of their own; the chains `forward` and `output` refuse what
//! goes there. A TCP reset rather than ICMP, because a connect that is still being set up drops ICMP
//! errors and would try again a second later.

use std::net::Ipv4Addr;

use super::cidr::Ipv4Net;
use super::nft::{Batch, Data, Expr, Field, Hook, Meta, Refuse, Register, SetSpec, Type, Verdict};
use super::rules::{Change, Chooser, Endpoint, Frontend, Pick};

/// Name of the table.
pub const TABLE: &str = "proa";

const FRONTENDS: &str = "frontends";
const ENDPOINTS: &str = "endpoints";
const HAIRPIN: &str = "hairpin";
/// Priorities of NAT and of filtering as other programs use them (linux/netfilter_ipv4.h).
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// `RTN_LOCAL`: the destination is one of this host's addresses.
const LOCAL: u32 = 2;
/// `IPS_DST_NAT`: the connection's destination was rewritten.
const DESTINATION_REWRITTEN: u32 = 1 << 5;
const IPPROTO_TCP: u8 = 6;

const KEY: [Type; 3] = [Type::Address, Type::Protocol, Type::Port];
const INDEXED_KEY: [Type; 4] = [Type::Address, Type::Protocol, Type::Port, Type::Number];
// A key lies in consecutive registers from R0, an endpoint in R4 and R5.
const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R3: Register = Register(3);
const R4: Register = Register(4);
const R5: Register = Register(5);

/// What the rules must know about the node.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The device that addresses without a pod are routed to.
    pub device: String,
    /// All pods' addresses.
    pub cluster: Ipv4Net,
    /// The addresses of this node's pods.
    pub node: Ipv4Net,
    /// The services' addresses.
    pub services: Ipv4Net,
    /// The node's address in its pod range.
    pub gateway: Ipv4Addr,
}

/// Makes the table anew with no services, whatever was there.
pub fn create(layout: &Layout, batch: &mut Batch) {
    // Removing needs something to remove.
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    batch.add_set(FRONTENDS, &KEY, SetSpec::VerdictMap);
    batch.add_set(ENDPOINTS, &INDEXED_KEY, SetSpec::Map(&[Type::Address, Type::Port]));
    batch.add_set(HAIRPIN, &[Type::Address, Type::Address], SetSpec::Set);
    add_services(batch);
    add_postrouting(layout, batch);
    add_filters(layout, batch);
}

/// Appends the messages for one step.
pub fn encode(change: &Change, batch: &mut Batch) {
    match change {
        Change::AddChooser(chooser) => add_chooser(*chooser, batch),
        Change::RemoveChooser(chooser) => batch.delete_chain(&name(*chooser)),
        Change::AddEndpoint(frontend, index, endpoint) => {
            batch.add_elements(ENDPOINTS, &[endpoint_element(frontend, *index, endpoint)]);
        }
        Change::RemoveEndpoint(frontend, index, endpoint) => {
            batch.delete_elements(ENDPOINTS, &[endpoint_element(frontend, *index, endpoint)]);
        }
        Change::AddFrontend(frontend, chooser) => {
            batch.add_elements(FRONTENDS, &[frontend_element(frontend, *chooser)]);
        }
        Change::RemoveFrontend(frontend, chooser) => {
            batch.delete_elements(FRONTENDS, &[frontend_element(frontend, *chooser)]);
        }
        Change::AddHairpin(address) => batch.add_elements(HAIRPIN, &[hairpin_element(*address)]),
        Change::RemoveHairpin(address) => batch.delete_elements(HAIRPIN, &[hairpin_element(*address)]),
    }
}

fn add_services(batch: &mut Batch) {
    let chain = "services";
    batch.add_chain(chain);
    batch.add_rule(
        chain,
        &[
            Expr::Load(Field::DestinationAddress, R0),
            Expr::LoadMeta(Meta::Protocol, R1),
            Expr::Load(Field::DestinationPort, R2),
            Expr::VerdictMap(FRONTENDS, R0),
        ],
    );
    // Node and host ports: any address of this host but loopback, whose answers the kernel would not
    // route back.
    batch.add_rule(
        chain,
        &[
            Expr::LoadDestinationKind(R0),
            Expr::Equal(R0, LOCAL.to_ne_bytes().to_vec()),
            Expr::Load(Field::DestinationAddress, R0),
            Expr::Differs(R0, vec![127]),
            Expr::Constant(Ipv4Addr::UNSPECIFIED.octets().to_vec(), R0),
            Expr::LoadMeta(Meta::Protocol, R1),
            Expr::Load(Field::DestinationPort, R2),
            Expr::VerdictMap(FRONTENDS, R0),
        ],
    );
    for (base, hook) in [("nat-prerouting", Hook::Prerouting), ("nat-output", Hook::Output)] {
        batch.add_base_chain(base, "nat", hook, PRIORITY_DESTINATION_NAT);
        batch.add_rule(base, &[Expr::Verdict(Verdict::Jump(chain.into()))]);
    }
}

fn add_postrouting(layout: &Layout, batch: &mut Batch) {
    let chain = "nat-postrouting";
    batch.add_base_chain(chain, "nat", Hook::Postrouting, PRIORITY_SOURCE_NAT);
    // A pod that reached itself through a service would discard packets from its own address.
    batch.add_rule(
        chain,
        &[
            Expr::Load(Field::SourceAddress, R0),
            Expr::Load(Field::DestinationAddress, R1),
            Expr::In(HAIRPIN, R0),
            Expr::Constant(layout.gateway.octets().to_vec(), R0),
            Expr::SourceNat(R0),
        ],
    );
    let mut rule = Vec::new();
    rule.extend(within(Field::SourceAddress, &layout.cluster));
    rule.extend(outside(Field::DestinationAddress, &layout.cluster));
    rule.push(Expr::Masquerade);
    batch.add_rule(chain, &rule);
    // What came from outside to a service and goes on to another machine must come back this way.
    let mut rule = rewritten(true);
    rule.extend(outside(Field::SourceAddress, &layout.cluster));
    rule.extend(outside(Field::DestinationAddress, &layout.node));
    rule.push(Expr::Masquerade);
    batch.add_rule(chain, &rule);
}

fn add_filters(layout: &Layout, batch: &mut Batch) {
    let refuse = "refuse";
    batch.add_chain(refuse);
    batch.add_rule(
        refuse,
        &[
            Expr::LoadMeta(Meta::Protocol, R0),
            Expr::Equal(R0, vec![IPPROTO_TCP]),
            Expr::Reject(Refuse::TcpReset),
        ],
    );
    batch.add_rule(refuse, &[Expr::Reject(Refuse::PortUnreachable)]);

    let to_device = [Expr::LoadMeta(Meta::OutputName, R0), Expr::Equal(R0, interface(&layout.device))];
    let goto = Expr::Verdict(Verdict::Goto(refuse.into()));
    batch.add_base_chain("forward", "filter", Hook::Forward, PRIORITY_FILTER);
    batch.add_rule("forward", &[&to_device[..], std::slice::from_ref(&goto)].concat());

    // In this hook the output device is still the one from before the destination was rewritten, so
    // connections to a service are told apart by their status.
    batch.add_base_chain("output", "filter", Hook::Output, PRIORITY_FILTER);
    for range in [layout.services, layout.cluster] {
        let mut rule = to_device.to_vec();
        rule.extend(within(Field::DestinationAddress, &range));
        if range == layout.cluster {
            rule.extend(rewritten(false));
        }
        rule.push(goto.clone());
        batch.add_rule("output", &rule);
    }
}

fn add_chooser(chooser: Chooser, batch: &mut Batch) {
    let chain = name(chooser);
    batch.add_chain(&chain);
    let address = if chooser.any_address {
        Expr::Constant(Ipv4Addr::UNSPECIFIED.octets().to_vec(), R0)
    } else {
        Expr::Load(Field::DestinationAddress, R0)
    };
    let mut rule = vec![address, Expr::LoadMeta(Meta::Protocol, R1), Expr::Load(Field::DestinationPort, R2)];
    match chooser.pick {
        Pick::Random => rule.push(Expr::Random(chooser.count, R3)),
        Pick::Client => {
            rule.push(Expr::Load(Field::SourceAddress, R4));
            rule.push(Expr::Hash { of: R4, modulus: chooser.count, into: R3 });
        }
    }
    rule.push(Expr::Map(ENDPOINTS, R0, R4));
    rule.push(Expr::DestinationNat { address: R4, port: R5 });
    batch.add_rule(&chain, &rule);
}

fn name(chooser: Chooser) -> String {
    let prefix = if chooser.any_address { "node-" } else { "" };
    let pick = match chooser.pick {
        Pick::Random => "choose",
        Pick::Client => "stick",
    };
    format!("{prefix}{pick}-{}", chooser.count)
}

/// An interface's name as the kernel compares it: all 16 bytes.
fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn within(field: Field, range: &Ipv4Net) -> [Expr; 3] {
    let mask = Expr::Mask(R0, range.mask().octets().to_vec());
    [Expr::Load(field, R0), mask, Expr::Equal(R0, range.network().octets().to_vec())]
}

fn outside(field: Field, range: &Ipv4Net) -> [Expr; 3] {
    let mask = Expr::Mask(R0, range.mask().octets().to_vec());
    [Expr::Load(field, R0), mask, Expr::Differs(R0, range.network().octets().to_vec())]
}

/// Matches connections whose destination was, or was not, rewritten.
fn rewritten(yes: bool) -> Vec<Expr> {
    let zero = vec![0; 4];
    let compare = if yes { Expr::Differs(R0, zero) } else { Expr::Equal(R0, zero) };
    let mask = Expr::Mask(R0, DESTINATION_REWRITTEN.to_ne_bytes().to_vec());
    vec![Expr::LoadConnectionStatus(R0), mask, compare]
}

/// Each part of a key fills four bytes: the value first, then zeros.
fn key(frontend: &Frontend) -> Vec<u8> {
    let mut key = frontend.address.octets().to_vec();
    key.extend_from_slice(&[frontend.protocol.number(), 0, 0, 0]);
    key.extend_from_slice(&frontend.port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    key
}

fn frontend_element(frontend: &Frontend, chooser: Chooser) -> (Vec<u8>, Data) {
    (key(frontend), Data::Verdict(Verdict::Goto(name(chooser))))
}

fn endpoint_element(frontend: &Frontend, index: u32, endpoint: &Endpoint) -> (Vec<u8>, Data) {
    let mut key = key(frontend);
    key.extend_from_slice(&index.to_ne_bytes());
    let mut value = endpoint.address.octets().to_vec();
    value.extend_from_slice(&endpoint.port.to_be_bytes());
    value.extend_from_slice(&[0, 0]);
    (key, Data::Value(value))
}

fn hairpin_element(address: Ipv4Addr) -> (Vec<u8>, Data) {
    ([address.octets(), address.octets()].concat(), Data::None)
}
