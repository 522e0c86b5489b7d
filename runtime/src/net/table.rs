//! The layout of the node's one nftables table, and the messages for each change of its content.
//!
//! Pure. Packets to a service are looked up in the verdict map `frontends`, which sends them to a
//! chain that chooses one of as many endpoints as the service has (`choose-3`); that chain finds the
//! endpoint in the map `endpoints` and rewrites the destination. There is no chain per service, so a
//! change touches map elements only. A chain that sticks to a client's endpoint (`stick-3-for-10800`)
//! remembers it in the map `affinity`, and believes that only while the endpoint is in `members`.
//!
//! Packets to one of the host's own addresses never come to `frontends`: they are looked up in
//! `host-frontends`, where node and host ports are, unless the cluster itself listens there
//! (`reserved`). So no Service takes over an address that this host has, whatever it asks for. Those
//! ports answer on 127.0.0.1 too, to this host alone: the pods' links may carry packets from loopback
//! (`route_localnet`), and what comes in from any link to or from a loopback address is dropped first.
//!
//! Packets to a pod or service address that belongs to nobody are routed to the node's own device,
//! because only live pods have routes of their own; the chains `forward` and `output` refuse what
//! goes there. A TCP reset rather than ICMP, because a connect that is still being set up drops ICMP
//! errors and would try again a second later.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::cidr::Ipv4Net;
use super::nft::{Batch, Data, Expr, Field, Hook, Meta, Refuse, Register, SetSpec, Type, Verdict};
use super::rules::{Chooser, Endpoint, Frontend, Pick, Protocol, RuleChange};

const FRONTENDS: &str = "frontends";
const HOST_FRONTENDS: &str = "host-frontends";
const RESERVED: &str = "reserved";
const AFFINITY: &str = "affinity";
const MEMBERS: &str = "members";
const ENDPOINTS: &str = "endpoints";
const HAIRPIN: &str = "hairpin";
/// Priorities of NAT and of filtering as other programs use them (linux/netfilter_ipv4.h).
const PRIORITY_BEFORE_CONNTRACK: i32 = -300;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
/// `RTN_LOCAL`: the destination is one of this host's addresses.
const LOCAL: u32 = 2;
/// `IPS_DST_NAT`: the connection's destination was rewritten.
const DESTINATION_REWRITTEN: u32 = 1 << 5;
const IPPROTO_TCP: u8 = 6;
/// Clients that are remembered for their endpoints, of all Services together. Who comes later is given
/// an endpoint as if there were no affinity.
const AFFINITY_SIZE: u32 = 65_536;

const KEY: [Type; 3] = [Type::Address, Type::Protocol, Type::Port];
const INDEXED_KEY: [Type; 4] = [Type::Address, Type::Protocol, Type::Port, Type::Number];
const CLIENT_KEY: [Type; 4] = [Type::Address, Type::Address, Type::Protocol, Type::Port];
const MEMBER_KEY: [Type; 5] = [Type::Address, Type::Protocol, Type::Port, Type::Address, Type::Port];
const ENDPOINT: [Type; 2] = [Type::Address, Type::Port];
// Parts of a key and of an endpoint lie in consecutive registers.
const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R3: Register = Register(3);
const R4: Register = Register(4);
const R5: Register = Register(5);
const R6: Register = Register(6);

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
    /// Where the cluster itself listens on this host, over TCP: no node or host port leads elsewhere.
    /// 0.0.0.0 is every address.
    pub reserved: Vec<SocketAddrV4>,
}

/// Makes the table anew with no services, whatever was there.
pub fn create(layout: &Layout, batch: &mut Batch) {
    // Removing needs something to remove.
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    batch.add_set(FRONTENDS, &KEY, SetSpec::VerdictMap);
    batch.add_set(HOST_FRONTENDS, &KEY, SetSpec::VerdictMap);
    batch.add_set(ENDPOINTS, &INDEXED_KEY, SetSpec::Map(&ENDPOINT));
    batch.add_set(AFFINITY, &CLIENT_KEY, SetSpec::DynamicMap(&ENDPOINT, AFFINITY_SIZE));
    batch.add_set(MEMBERS, &MEMBER_KEY, SetSpec::Set);
    batch.add_set(HAIRPIN, &[Type::Address, Type::Address], SetSpec::Set);
    batch.add_set(RESERVED, &KEY, SetSpec::Set);
    let reserved = layout.reserved.iter().map(|at| (key(*at.ip(), Protocol::Tcp, at.port()), Data::None));
    batch.add_elements(RESERVED, &reserved.collect::<Vec<_>>());
    add_loopback(batch);
    add_services(layout, batch);
    add_postrouting(layout, batch);
    add_filters(layout, batch);
}

/// Makes a table with all that rules are made of and removes it again: the kernel refuses it if it
/// lacks anything.
pub fn attempt(layout: &Layout, batch: &mut Batch) {
    create(layout, batch);
    for pick in [Pick::Random, Pick::Client { timeout_seconds: 1 }] {
        add_chooser(Chooser { any_address: false, pick, count: 1 }, batch);
    }
    batch.delete_table();
}

/// Appends the messages for one step.
pub fn encode(change: &RuleChange, batch: &mut Batch) {
    match change {
        RuleChange::AddChooser(chooser) => add_chooser(*chooser, batch),
        RuleChange::RemoveChooser(chooser) => batch.delete_chain(&name(*chooser)),
        RuleChange::AddEndpoint(frontend, index, endpoint) => {
            batch.add_elements(ENDPOINTS, &[endpoint_element(frontend, *index, endpoint)]);
        }
        RuleChange::RemoveEndpoint(frontend, index, endpoint) => {
            batch.delete_elements(ENDPOINTS, &[endpoint_element(frontend, *index, endpoint)]);
        }
        RuleChange::AddFrontend(frontend, chooser) => {
            batch.add_elements(frontends(frontend), &[frontend_element(frontend, *chooser)]);
        }
        RuleChange::RemoveFrontend(frontend, chooser) => {
            batch.delete_elements(frontends(frontend), &[frontend_element(frontend, *chooser)]);
        }
        RuleChange::AddMember(frontend, to) => batch.add_elements(MEMBERS, &[member_element(frontend, to)]),
        RuleChange::RemoveMember(frontend, to) => {
            batch.delete_elements(MEMBERS, &[member_element(frontend, to)])
        }
        RuleChange::AddHairpin(address) => batch.add_elements(HAIRPIN, &[hairpin_element(*address)]),
        RuleChange::RemoveHairpin(address) => batch.delete_elements(HAIRPIN, &[hairpin_element(*address)]),
    }
}

/// Loopback addresses are this host's alone. Before connection tracking, so that answers to what the
/// host itself sent from loopback, which come to the gateway's address, are not among them.
fn add_loopback(batch: &mut Batch) {
    let chain = "loopback";
    batch.add_base_chain(chain, "filter", Hook::Prerouting, PRIORITY_BEFORE_CONNTRACK);
    for field in [Field::DestinationAddress, Field::SourceAddress] {
        batch.add_rule(
            chain,
            &[
                Expr::LoadMeta(Meta::InputName, R0),
                Expr::Differs(R0, interface("lo")),
                Expr::Load(field, R0),
                Expr::Equal(R0, vec![127]),
                Expr::Verdict(Verdict::Drop),
            ],
        );
    }
}

fn add_services(layout: &Layout, batch: &mut Batch) {
    let (chain, on_host) = ("services", "host-ports");
    batch.add_chain(on_host);
    add_host_ports(on_host, layout, batch);
    batch.add_chain(chain);
    batch.add_rule(
        chain,
        &[
            Expr::LoadDestinationKind(R0),
            Expr::Equal(R0, LOCAL.to_ne_bytes().to_vec()),
            Expr::Verdict(Verdict::Goto(on_host.into())),
        ],
    );
    let mut rule = load_key(Expr::Load(Field::DestinationAddress, R0)).to_vec();
    rule.push(Expr::VerdictMap(FRONTENDS, R0));
    batch.add_rule(chain, &rule);
    for (base, hook) in [("nat-prerouting", Hook::Prerouting), ("nat-output", Hook::Output)] {
        batch.add_base_chain(base, "nat", hook, PRIORITY_DESTINATION_NAT);
        batch.add_rule(base, &[Expr::Verdict(Verdict::Jump(chain.into()))]);
    }
}

/// Node and host ports, for packets to one of the host's own addresses.
fn add_host_ports(chain: &str, layout: &Layout, batch: &mut Batch) {
    let here = || load_key(Expr::Load(Field::DestinationAddress, R0)).to_vec();
    let anywhere = || load_key(Expr::Constant(Ipv4Addr::UNSPECIFIED.octets().to_vec(), R0)).to_vec();
    // Of the services' addresses the host has the DNS server's.
    let mut rule = within(Field::DestinationAddress, &layout.services).to_vec();
    rule.push(Expr::Verdict(Verdict::Return));
    batch.add_rule(chain, &rule);
    for mut rule in [here(), anywhere()] {
        rule.extend([Expr::In(RESERVED, R0), Expr::Verdict(Verdict::Return)]);
        batch.add_rule(chain, &rule);
    }
    let mut rule = here();
    rule.push(Expr::VerdictMap(HOST_FRONTENDS, R0));
    batch.add_rule(chain, &rule);
    // Other loopback addresses are used by the host's own services, resolvers among them.
    batch.add_rule(
        chain,
        &[
            Expr::Load(Field::DestinationAddress, R0),
            Expr::Differs(R0, Ipv4Addr::LOCALHOST.octets().to_vec()),
            Expr::Equal(R0, vec![127]),
            Expr::Verdict(Verdict::Return),
        ],
    );
    let mut rule = anywhere();
    rule.push(Expr::VerdictMap(HOST_FRONTENDS, R0));
    batch.add_rule(chain, &rule);
}

/// The key of `frontends` from R0 on.
fn load_key(address: Expr) -> [Expr; 3] {
    [address, Expr::LoadMeta(Meta::Protocol, R1), Expr::Load(Field::DestinationPort, R2)]
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
    // A pod could not answer the host's loopback address.
    let mut rule = vec![Expr::Load(Field::SourceAddress, R0), Expr::Equal(R0, vec![127])];
    rule.extend(within(Field::DestinationAddress, &layout.cluster));
    rule.extend([Expr::Constant(layout.gateway.octets().to_vec(), R0), Expr::SourceNat(R0)]);
    batch.add_rule(chain, &rule);
    let mut rule = Vec::new();
    rule.extend(within(Field::SourceAddress, &layout.cluster));
    rule.extend(outside(Field::DestinationAddress, &layout.cluster));
    rule.push(Expr::Masquerade);
    batch.add_rule(chain, &rule);
    // What came from outside to a service and goes on to another machine must come back this way. Other
    // programs of this host rewrite destinations too: only those that services lead to are meant.
    let mut rule = rewritten(true);
    rule.extend(outside(Field::SourceAddress, &layout.cluster));
    rule.extend(outside(Field::DestinationAddress, &layout.node));
    rule.extend([
        Expr::Load(Field::DestinationAddress, R0),
        Expr::Load(Field::DestinationAddress, R1),
        Expr::In(HAIRPIN, R0),
        Expr::Masquerade,
    ]);
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
    let rules = match chooser.pick {
        Pick::Random => vec![random(chooser)],
        Pick::Client { timeout_seconds } => sticky(chooser, timeout_seconds),
    };
    rules.iter().for_each(|rule| batch.add_rule(&chain, rule));
}

/// The address of the frontend that a chooser serves.
fn load_frontend(chooser: Chooser, into: Register) -> Expr {
    match chooser.any_address {
        true => Expr::Constant(Ipv4Addr::UNSPECIFIED.octets().to_vec(), into),
        false => Expr::Load(Field::DestinationAddress, into),
    }
}

fn random(chooser: Chooser) -> Vec<Expr> {
    let mut rule = load_key(load_frontend(chooser, R0)).to_vec();
    rule.extend([
        Expr::Random(chooser.count, R3),
        Expr::Map(ENDPOINTS, R0, R4),
        Expr::DestinationNat { address: R4, port: R5 },
    ]);
    rule
}

/// The client in R0 and the frontend from R1 on are the key of `affinity`.
fn sticky(chooser: Chooser, timeout_seconds: u32) -> Vec<Vec<Expr>> {
    let key = [
        Expr::Load(Field::SourceAddress, R0),
        load_frontend(chooser, R1),
        Expr::LoadMeta(Meta::Protocol, R2),
        Expr::Load(Field::DestinationPort, R3),
    ];
    let mut again = key.to_vec();
    again.extend([
        Expr::Map(AFFINITY, R0, R4),
        // The frontend and the endpoint that is remembered, from R1 on.
        Expr::In(MEMBERS, R1),
        Expr::Remember { map: AFFINITY, key: R0, data: R4, timeout_seconds },
        Expr::DestinationNat { address: R4, port: R5 },
    ]);
    let mut anew = key.to_vec();
    anew.extend([
        Expr::Random(chooser.count, R4),
        Expr::Map(ENDPOINTS, R1, R5),
        // What is remembered of an endpoint that is gone would stay.
        Expr::Forget { map: AFFINITY, key: R0, data: R5 },
        Expr::Remember { map: AFFINITY, key: R0, data: R5, timeout_seconds },
        Expr::DestinationNat { address: R5, port: R6 },
    ]);
    // For clients that no room is left for.
    vec![again, anew, random(chooser)]
}

fn name(chooser: Chooser) -> String {
    let prefix = if chooser.any_address { "node-" } else { "" };
    match chooser.pick {
        Pick::Random => format!("{prefix}choose-{}", chooser.count),
        Pick::Client { timeout_seconds } => format!("{prefix}stick-{}-for-{timeout_seconds}", chooser.count),
    }
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

/// The map that a frontend is in.
fn frontends(frontend: &Frontend) -> &'static str {
    if frontend.on_host { HOST_FRONTENDS } else { FRONTENDS }
}

/// Each part of a key fills four bytes: the value first, then zeros.
fn key(address: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = address.octets().to_vec();
    key.extend_from_slice(&[protocol.number(), 0, 0, 0]);
    key.extend_from_slice(&port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    key
}

fn key_of(frontend: &Frontend) -> Vec<u8> {
    key(frontend.address, frontend.protocol, frontend.port)
}

fn bytes_of(endpoint: &Endpoint) -> Vec<u8> {
    let mut value = endpoint.address.octets().to_vec();
    value.extend_from_slice(&endpoint.port.to_be_bytes());
    value.extend_from_slice(&[0, 0]);
    value
}

fn frontend_element(frontend: &Frontend, chooser: Chooser) -> (Vec<u8>, Data) {
    (key_of(frontend), Data::Verdict(Verdict::Goto(name(chooser))))
}

fn endpoint_element(frontend: &Frontend, index: u32, endpoint: &Endpoint) -> (Vec<u8>, Data) {
    ([key_of(frontend), index.to_ne_bytes().to_vec()].concat(), Data::Value(bytes_of(endpoint)))
}

fn member_element(frontend: &Frontend, endpoint: &Endpoint) -> (Vec<u8>, Data) {
    ([key_of(frontend), bytes_of(endpoint)].concat(), Data::None)
}

fn hairpin_element(address: Ipv4Addr) -> (Vec<u8>, Data) {
    ([address.octets(), address.octets()].concat(), Data::None)
}
