//! What the node's service rules should be, and the steps from one state of them to another.
//!
//! Pure. Made by `index` from Services and EndpointSlices and by `Network` from host ports; `table`
//! turns the steps into nf_tables messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As the Kubernetes API spells it; absent means TCP.
    pub fn from_api(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// Where clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frontend {
    /// Whether it is a port of this host, a node or host port, rather than a Service's own address.
    /// Only packets to the host's own addresses are looked up among these, and no others among those.
    pub on_host: bool,
    /// A service's address, or one of the host's; 0.0.0.0 is every address of this host.
    pub address: Ipv4Addr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// Where a connection ends up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// Address, usually a pod's.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// How one of several endpoints is chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pick {
    /// Each connection anew.
    Random,
    /// The one that the client was given last, unless it has been away for longer than this or the
    /// endpoint is gone: `sessionAffinity: ClientIP`.
    Client {
        /// How long a client is remembered after its last connection.
        timeout_seconds: u32,
    },
}

/// The endpoints behind one frontend: at least one, sorted, each once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backends {
    /// How one is chosen.
    pub pick: Pick,
    /// The choices.
    pub endpoints: Vec<Endpoint>,
}

/// All service rules of a node. A frontend without endpoints is absent; packets to it are refused.
pub type Rules = BTreeMap<Frontend, Backends>;

/// A chain that chooses one of `count` endpoints. All frontends that choose alike share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Chooser {
    /// Whether it serves frontends with address 0.0.0.0, whose key differs from the packet's address.
    pub any_address: bool,
    /// How it chooses.
    pub pick: Pick,
    /// Out of how many.
    pub count: u32,
}

impl Chooser {
    /// The chooser that `frontend` needs.
    pub fn of(frontend: &Frontend, backends: &Backends) -> Self {
        let count = u32::try_from(backends.endpoints.len()).unwrap_or(u32::MAX);
        Self { any_address: frontend.address.is_unspecified(), pick: backends.pick, count }
    }
}

/// One step. Steps are taken in order, all in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleChange {
    /// A chooser that a frontend will need.
    AddChooser(Chooser),
    /// The endpoint that a frontend's chooser finds at an index.
    AddEndpoint(Frontend, u32, Endpoint),
    /// Removes what was at an index.
    RemoveEndpoint(Frontend, u32, Endpoint),
    /// Sends packets for a frontend to a chooser.
    AddFrontend(Frontend, Chooser),
    /// Sends packets for a frontend nowhere.
    RemoveFrontend(Frontend, Chooser),
    /// An endpoint that a client of the frontend may be remembered for.
    AddMember(Frontend, Endpoint),
    /// Whoever is remembered for this endpoint is given another.
    RemoveMember(Frontend, Endpoint),
    /// An address whose connections to itself through a service need another source.
    AddHairpin(Ipv4Addr),
    /// An address that is no endpoint any more.
    RemoveHairpin(Ipv4Addr),
    /// A chooser that nothing needs any more.
    RemoveChooser(Chooser),
}

/// The steps from `current` to `wanted`. Empty if they are equal.
pub fn plan(current: &Rules, wanted: &Rules) -> Vec<RuleChange> {
    let mut steps = Vec::new();
    let (had, need) = (choosers(current), choosers(wanted));
    steps.extend(need.difference(&had).map(|chooser| RuleChange::AddChooser(*chooser)));
    for (frontend, backends) in current {
        if !wanted.contains_key(frontend) {
            plan_frontend(frontend, Some(backends), None, &mut steps);
        }
    }
    for (frontend, backends) in wanted {
        let before = current.get(frontend);
        if before != Some(backends) {
            plan_frontend(frontend, before, Some(backends), &mut steps);
        }
    }
    let (old, new) = (members(current), members(wanted));
    steps.extend(old.difference(&new).map(|(frontend, to)| RuleChange::RemoveMember(*frontend, *to)));
    steps.extend(new.difference(&old).map(|(frontend, to)| RuleChange::AddMember(*frontend, *to)));
    let (old, new) = (hairpins(current), hairpins(wanted));
    steps.extend(old.difference(&new).map(|address| RuleChange::RemoveHairpin(*address)));
    steps.extend(new.difference(&old).map(|address| RuleChange::AddHairpin(*address)));
    steps.extend(had.difference(&need).map(|chooser| RuleChange::RemoveChooser(*chooser)));
    steps
}

fn plan_frontend(
    frontend: &Frontend,
    before: Option<&Backends>,
    after: Option<&Backends>,
    steps: &mut Vec<RuleChange>,
) {
    let old = before.map_or(&[][..], |b| &b.endpoints);
    let new = after.map_or(&[][..], |b| &b.endpoints);
    for index in 0..old.len().max(new.len()) {
        let (had, want) = (old.get(index), new.get(index));
        if had == want {
            continue;
        }
        let place = u32::try_from(index).unwrap_or(u32::MAX);
        steps.extend(had.map(|endpoint| RuleChange::RemoveEndpoint(*frontend, place, *endpoint)));
        steps.extend(want.map(|endpoint| RuleChange::AddEndpoint(*frontend, place, *endpoint)));
    }
    let had = before.map(|backends| Chooser::of(frontend, backends));
    let want = after.map(|backends| Chooser::of(frontend, backends));
    if had != want {
        steps.extend(had.map(|chooser| RuleChange::RemoveFrontend(*frontend, chooser)));
        steps.extend(want.map(|chooser| RuleChange::AddFrontend(*frontend, chooser)));
    }
}

fn choosers(rules: &Rules) -> BTreeSet<Chooser> {
    rules.iter().map(|(frontend, backends)| Chooser::of(frontend, backends)).collect()
}

/// The endpoints of frontends that remember their clients.
fn members(rules: &Rules) -> BTreeSet<(Frontend, Endpoint)> {
    let sticky = rules.iter().filter(|(_, backends)| backends.pick != Pick::Random);
    sticky.flat_map(|(frontend, b)| b.endpoints.iter().map(|to| (*frontend, *to))).collect()
}

fn hairpins(rules: &Rules) -> BTreeSet<Ipv4Addr> {
    rules.values().flat_map(|backends| &backends.endpoints).map(|endpoint| endpoint.address).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel holds after some steps. It refuses what the kernel would refuse.
    #[derive(Default, PartialEq, Debug)]
    struct Installed {
        choosers: BTreeSet<Chooser>,
        frontends: BTreeMap<Frontend, Chooser>,
        endpoints: BTreeMap<(Frontend, u32), Endpoint>,
        members: BTreeSet<(Frontend, Endpoint)>,
        hairpins: BTreeSet<Ipv4Addr>,
    }

    impl Installed {
        fn apply(&mut self, change: RuleChange) {
            match change {
                RuleChange::AddChooser(chooser) => assert!(self.choosers.insert(chooser)),
                RuleChange::RemoveChooser(chooser) => {
                    assert!(!self.frontends.values().any(|c| *c == chooser), "chain in use");
                    assert!(self.choosers.remove(&chooser));
                }
                RuleChange::AddEndpoint(frontend, index, endpoint) => {
                    assert_eq!(self.endpoints.insert((frontend, index), endpoint), None);
                }
                RuleChange::RemoveEndpoint(frontend, index, endpoint) => {
                    assert_eq!(self.endpoints.remove(&(frontend, index)), Some(endpoint));
                }
                RuleChange::AddFrontend(frontend, chooser) => {
                    assert!(self.choosers.contains(&chooser), "no such chain");
                    assert_eq!(self.frontends.insert(frontend, chooser), None);
                }
                RuleChange::RemoveFrontend(frontend, chooser) => {
                    assert_eq!(self.frontends.remove(&frontend), Some(chooser));
                }
                RuleChange::AddMember(frontend, to) => assert!(self.members.insert((frontend, to))),
                RuleChange::RemoveMember(frontend, to) => assert!(self.members.remove(&(frontend, to))),
                RuleChange::AddHairpin(address) => assert!(self.hairpins.insert(address)),
                RuleChange::RemoveHairpin(address) => assert!(self.hairpins.remove(&address)),
            }
        }

        fn of(rules: &Rules) -> Self {
            let mut installed = Self::default();
            for (frontend, backends) in rules {
                let chooser = Chooser::of(frontend, backends);
                installed.choosers.insert(chooser);
                installed.frontends.insert(*frontend, chooser);
                for (index, endpoint) in (0..).zip(&backends.endpoints) {
                    installed.endpoints.insert((*frontend, index), *endpoint);
                    installed.hairpins.insert(endpoint.address);
                    if backends.pick != Pick::Random {
                        installed.members.insert((*frontend, *endpoint));
                    }
                }
            }
            installed
        }
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let frontend = (0..3u8, prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)], 80..83u16).prop_map(
            |(host, protocol, port)| {
                let address = if host == 0 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::new(10, 43, 0, host) };
                Frontend { on_host: host == 0, address, protocol, port }
            },
        );
        let endpoint = (2..6u8, 8080..8082u16)
            .prop_map(|(host, port)| Endpoint { address: Ipv4Addr::new(10, 42, 0, host), port });
        let backends =
            (any::<bool>(), prop::collection::btree_set(endpoint, 1..5)).prop_map(|(client, set)| {
                let pick = if client { Pick::Client { timeout_seconds: 60 } } else { Pick::Random };
                Backends { pick, endpoints: set.into_iter().collect() }
            });
        prop::collection::btree_map(frontend, backends, 0..8)
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_current_to_wanted(current in rules(), wanted in rules()) {
            let mut installed = Installed::of(&current);
            for change in plan(&current, &wanted) {
                installed.apply(change);
            }
            prop_assert_eq!(installed, Installed::of(&wanted));
        }

        #[test]
        fn nothing_to_do_for_what_is_there(rules in rules()) {
            prop_assert_eq!(plan(&rules, &rules), vec![]);
        }
    }

    #[test]
    fn one_more_endpoint_is_a_few_elements() {
        let frontend = Frontend {
            on_host: false,
            address: Ipv4Addr::new(10, 43, 0, 1),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let endpoint = |host| Endpoint { address: Ipv4Addr::new(10, 42, 0, host), port: 8080 };
        let rules = |hosts: &[u8]| {
            let endpoints = hosts.iter().map(|host| endpoint(*host)).collect();
            Rules::from([(frontend, Backends { pick: Pick::Random, endpoints })])
        };
        let chooser = |count| Chooser { any_address: false, pick: Pick::Random, count };
        assert_eq!(
            plan(&rules(&[2, 3]), &rules(&[2, 3, 4])),
            [
                RuleChange::AddChooser(chooser(3)),
                RuleChange::AddEndpoint(frontend, 2, endpoint(4)),
                RuleChange::RemoveFrontend(frontend, chooser(2)),
                RuleChange::AddFrontend(frontend, chooser(3)),
                RuleChange::AddHairpin(endpoint(4).address),
                RuleChange::RemoveChooser(chooser(2)),
            ]
        );
    }
}
