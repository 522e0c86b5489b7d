//! The addresses and node ports of Services.
//!
//! What is taken is what the stored Services have. It is decided when a Service is committed, on what
//! is stored then, so that none is given twice, and none is kept for a Service that was never stored.
//! <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::built_in::service::{FIELD_HOLDS, has_node_ports, node_ports, wanted_address};
use proa_kinds::{Kind, Part};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::store::{Live, Settle};
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// The API server's own address: only `default/kubernetes` gets it.
const OFFSET_API_SERVER: u32 = 1;
/// The address of the cluster's DNS, which no Service without a claim to it gets.
const OFFSET_DNS: u32 = 10;
const HEADLESS: &str = "None";
const TRIES: usize = 16;

/// A range of IPv4 addresses: `10.43.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: u32,
    prefix: u32,
}

/// A text that is no range of addresses.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a range of IPv4 addresses such as 10.43.0.0/16")]
pub struct RangeError(String);

impl AddressRange {
    /// Holds addresses from `base` on that share its first `prefix` bits; at least 16 of them.
    pub fn new(base: Ipv4Addr, prefix: u32) -> Option<AddressRange> {
        if !(8..=28).contains(&prefix) {
            return None;
        }
        let base = u32::from(base) & (u32::MAX << (32 - prefix));
        Some(AddressRange { base, prefix })
    }

    /// The address this far from the first; the first itself and the last are never given out.
    pub fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + offset)
    }

    /// The address of the API server's Service.
    pub fn api_server(&self) -> Ipv4Addr {
        self.at(OFFSET_API_SERVER)
    }

    /// The address of the cluster's DNS.
    pub fn dns(&self) -> Ipv4Addr {
        self.at(OFFSET_DNS)
    }

    /// True if the address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        u32::from(ip).checked_sub(self.base).is_some_and(|offset| offset < self.size())
    }

    fn size(&self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// True for addresses that Services may have: all but the first and the last.
    fn gives_out(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).checked_sub(self.base);
        offset.is_some_and(|offset| offset > 0 && offset < self.size() - 1)
    }
}

impl Default for AddressRange {
    fn default() -> Self {
        AddressRange { base: u32::from(Ipv4Addr::new(10, 43, 0, 0)), prefix: 16 }
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            AddressRange::new(base.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| RangeError(text.to_owned()))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// The ports that node ports are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        PortRange { first: 30_000, last: 32_767 }
    }
}

/// Gives Services their addresses and node ports.
#[derive(Clone, Copy)]
pub struct ServiceAddresses {
    range: AddressRange,
    ports: PortRange,
}

impl Stage for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "Service")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        if let (Operation::Update(Part::Main), Some(old)) = (&attempt.operation, attempt.old) {
            carry_over(old, new);
        }
        Verdict::PASSED
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        match &attempt.operation {
            Operation::Create | Operation::Update(Part::Main) => check_families(new).into(),
            _ => Verdict::PASSED,
        }
    }

    fn settle(&self, attempt: &Attempt<'_>, new: Option<&Value>) -> Option<Settle> {
        new.filter(|new| attempt.old.is_none_or(|old| old["spec"] != new["spec"]))?;
        let (stage, chance) = (*self, attempt.chance);
        Some(Box::new(move |live, draft| {
            let Some(draft) = draft else { return Ok(Vec::new()) };
            let mut service = draft.value();
            let taken = Taken::of(live, text(&service, "uid"));
            let mut rng = StdRng::seed_from_u64(chance as u64);
            stage.allocate(&taken, &mut service, &mut rng)?;
            *draft = live.encode(draft.key().clone(), &service);
            Ok(Vec::new())
        }))
    }
}

/// What other Services have.
#[derive(Default)]
struct Taken {
    addresses: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<u16>,
}

impl Taken {
    /// What the stored Services but this one have.
    fn of(live: &Live<'_>, uid: &str) -> Taken {
        let mut taken = Taken::default();
        live.visit("services", None, &mut |object| {
            if *object.uid != *uid {
                taken.note(object.field(FIELD_HOLDS).unwrap_or_default());
            }
        });
        taken
    }

    /// Notes what one has, as its kind keeps it: `10.43.0.7 30080 30443`.
    fn note(&mut self, holds: &str) {
        for held in holds.split(' ') {
            match held.parse() {
                Ok(port) => drop(self.ports.insert(port)),
                Err(_) => self.addresses.extend(held.parse::<Ipv4Addr>()),
            }
        }
    }
}

impl ServiceAddresses {
    /// Gives out addresses and ports of these ranges.
    pub fn new(range: AddressRange, ports: PortRange) -> ServiceAddresses {
        ServiceAddresses { range, ports }
    }

    /// Gives a Service the address and node ports that it asks for or needs, and writes them in.
    ///
    /// # Errors
    /// 422 if what it asks for is taken or out of range, or if nothing is left.
    fn allocate(&self, taken: &Taken, service: &mut Value, rng: &mut StdRng) -> Result<(), Refusal> {
        let mut errors = FieldErrors::new();
        self.allocate_address(taken, service, rng, &mut errors);
        self.allocate_ports(taken, service, rng, &mut errors);
        self.allocate_health_port(taken, service, rng, &mut errors);
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Refusal::invalid("", "Service", text(service, "name"), &errors)),
        }
    }

    fn allocate_address(
        &self,
        taken: &Taken,
        service: &mut Value,
        rng: &mut StdRng,
        errors: &mut FieldErrors,
    ) {
        let Some(wanted) = wanted_address(service) else { return };
        if wanted == HEADLESS {
            service["spec"]["clusterIPs"] = json!([HEADLESS]);
            set_families(service);
            return;
        }
        let spec = Path::root("spec");
        let path = spec.field("clusterIPs");
        let address = if wanted.is_empty() {
            self.free_address(taken, rng)
                .ok_or_else(|| "failed to allocate a serviceIP: range is full".to_owned())
        } else {
            let address = wanted.parse().ok().filter(|address| self.range.gives_out(*address));
            let reserved = address == Some(self.range.api_server()) && !is_api_server(service);
            match address {
                None => Err(format!(
                    "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. \
                     The range of valid IPs is {}",
                    self.range
                )),
                Some(address) if reserved || taken.addresses.contains(&address) => {
                    Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"))
                }
                Some(address) => Ok(address),
            }
        };
        match address {
            Err(why) if wanted.is_empty() => errors.invalid(&path, json!([]), why),
            Err(why) => errors.invalid(&path, json!([wanted]), why),
            Ok(address) => {
                let address = address.to_string();
                service["spec"]["clusterIP"] = address.as_str().into();
                service["spec"]["clusterIPs"] = json!([address]);
                set_families(service);
            }
        }
    }

    /// A free address from the upper part of the range: the lower is left to those who ask for
    /// an address themselves.
    fn free_address(&self, taken: &Taken, rng: &mut StdRng) -> Option<Ipv4Addr> {
        let last = self.range.size() - 2;
        let lower = (self.range.size() / 16).clamp(16, 256).min(last);
        let free = |offset: &u32| {
            *offset != OFFSET_API_SERVER
                && *offset != OFFSET_DNS
                && !taken.addresses.contains(&self.range.at(*offset))
        };
        let mut tried = (0..TRIES).map(|_| rng.random_range(lower..=last));
        let tried = if lower < last { tried.find(free) } else { None };
        tried.or_else(|| (lower..=last).chain(1..lower).find(free)).map(|offset| self.range.at(offset))
    }

    fn allocate_ports(&self, taken: &Taken, service: &mut Value, rng: &mut StdRng, errors: &mut FieldErrors) {
        if !has_node_ports(service) {
            return;
        }
        let skips = service["spec"]["type"] == "LoadBalancer"
            && service["spec"]["allocateLoadBalancerNodePorts"] == false;
        let mut own: BTreeSet<u16> = node_ports(service).into_iter().collect();
        let Some(list) = service["spec"]["ports"].as_array_mut() else { return };
        let spec = Path::root("spec");
        let ports = spec.field("ports");
        // One port of the node serves the same port of two protocols.
        let mut shared: BTreeMap<u64, u16> = BTreeMap::new();
        // What is full is not searched again for each of many ports.
        let mut is_full = false;
        for (at, port) in list.iter_mut().enumerate() {
            let item = ports.index(at);
            let path = item.field("nodePort");
            let number = port["port"].as_u64().unwrap_or(0);
            let wanted = port["nodePort"].as_u64().unwrap_or(0);
            if wanted == 0 && skips {
                continue;
            }
            let chosen = if wanted == 0 {
                let known = shared.get(&number).copied();
                let free = known.or_else(|| if is_full { None } else { self.free_port(taken, &own, rng) });
                is_full |= free.is_none();
                free.ok_or("failed to allocate a nodePort: range is full")
            } else {
                let wanted = u16::try_from(wanted).unwrap_or(0);
                if taken.ports.contains(&wanted) {
                    Err("provided port is already allocated")
                } else if wanted < self.ports.first || wanted > self.ports.last {
                    Err("provided port is not in the valid range")
                } else {
                    Ok(wanted)
                }
            };
            match chosen {
                Err(why @ "provided port is not in the valid range") => {
                    let PortRange { first, last } = self.ports;
                    errors.invalid(
                        &path,
                        wanted,
                        format!("{why}. The range of valid ports is {first}-{last}"),
                    );
                }
                Err(why) => errors.invalid(&path, wanted, why),
                Ok(chosen) => {
                    own.insert(chosen);
                    shared.insert(number, chosen);
                    port["nodePort"] = chosen.into();
                }
            }
        }
    }

    /// A load balancer that goes to each node's own endpoints asks the nodes by this port whether they
    /// have any.
    fn allocate_health_port(
        &self,
        taken: &Taken,
        service: &mut Value,
        rng: &mut StdRng,
        errors: &mut FieldErrors,
    ) {
        let spec = &service["spec"];
        if spec["type"] != "LoadBalancer" || spec["externalTrafficPolicy"] != "Local" {
            return;
        }
        let path = Path::root("spec");
        let path = path.field("healthCheckNodePort");
        let wanted = spec["healthCheckNodePort"].as_u64().unwrap_or(0);
        if wanted != 0 {
            if u16::try_from(wanted).is_ok_and(|port| taken.ports.contains(&port)) {
                errors.invalid(&path, wanted, "provided port is already allocated");
            }
            return;
        }
        let own = node_ports(service).into_iter().collect();
        match self.free_port(taken, &own, rng) {
            Some(port) => service["spec"]["healthCheckNodePort"] = port.into(),
            None => errors.invalid(&path, 0, "failed to allocate a nodePort: range is full"),
        }
    }

    fn free_port(&self, taken: &Taken, own: &BTreeSet<u16>, rng: &mut StdRng) -> Option<u16> {
        let PortRange { first, last } = self.ports;
        let free = |port: &u16| !taken.ports.contains(port) && !own.contains(port);
        let tried = (0..TRIES).map(|_| rng.random_range(first..=last)).find(free);
        tried.or_else(|| (first..=last).find(free))
    }
}

/// Keeps the address and node ports of a changed Service that does not say them again, as
/// clients that send only what they know leave them out.
fn carry_over(old: &Value, new: &mut Value) {
    if wanted_address(new).is_some_and(str::is_empty) && wanted_address(old).is_some() {
        for member in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(member) {
                new["spec"][member] = value.clone();
            }
        }
    }
    let had_ports = has_node_ports(old);
    if !has_node_ports(new) {
        // A Service that gives up its node ports need not say so for each of them.
        if had_ports && new["spec"]["ports"] == old["spec"]["ports"] {
            for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
        return;
    }
    let said: BTreeSet<u64> = node_ports(new).into_iter().map(u64::from).collect();
    let same = |port: &Value| (port["port"].as_u64(), port["protocol"].as_str().unwrap_or("TCP").to_owned());
    let before = old["spec"]["ports"].as_array().into_iter().flatten();
    // Of two that are the same, the first counts.
    let before: BTreeMap<(Option<u64>, String), &Value> = before
        .filter(|port| port["nodePort"].as_u64().is_some_and(|n| !said.contains(&n)))
        .rev()
        .map(|port| (same(port), &port["nodePort"]))
        .collect();
    for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if !port.is_object() || port["nodePort"].as_u64().is_some_and(|number| number != 0) {
            continue;
        }
        if let Some(node_port) = before.get(&same(port)) {
            port["nodePort"] = (*node_port).clone();
        }
    }
}

/// Refuses families of addresses that this cluster does not have, in the words of a stock one of a
/// single stack.
/// <https://kubernetes.io/docs/concepts/services-networking/dual-stack/>
fn check_families(service: &Value) -> Result<(), Refusal> {
    let mut errors = FieldErrors::new();
    let (root, spec) = (Path::root("spec"), &service["spec"]);
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid(&root.field("ipFamilyPolicy"), "RequireDualStack", why);
    }
    let families = root.field("ipFamilies");
    for (at, family) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
        if family != "IPv4" && spec["type"] != "ExternalName" {
            errors.invalid(&families.index(at), family.clone(), "not configured on this cluster");
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Refusal::invalid("", "Service", text(service, "name"), &errors)),
    }
}

fn text<'a>(service: &'a Value, member: &str) -> &'a str {
    service["metadata"][member].as_str().unwrap_or_default()
}

fn is_api_server(service: &Value) -> bool {
    service["metadata"]["namespace"] == "default" && service["metadata"]["name"] == "kubernetes"
}

fn set_families(service: &mut Value) {
    let spec = &mut service["spec"];
    if !spec["ipFamilies"].is_array() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if !spec["ipFamilyPolicy"].is_string() {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
}

#[cfg(test)]
mod tests {
    use proa_kinds::built_in::service::holds;

    use super::*;

    const STAGE: ServiceAddresses = ServiceAddresses {
        range: AddressRange { base: 0x0a2b_0000, prefix: 16 },
        ports: PortRange { first: 30_000, last: 30_002 },
    };

    fn service(uid: &str, spec: Value) -> Value {
        json!({"metadata": {"name": uid, "namespace": "x", "uid": uid}, "spec": spec})
    }

    fn allocate(taken: &Taken, mut service: Value) -> Result<Value, String> {
        let mut rng = StdRng::seed_from_u64(7);
        let allocated = STAGE.allocate(taken, &mut service, &mut rng);
        allocated.map(|()| service).map_err(|refusal| refusal.to_string())
    }

    /// Allocates for one and keeps what it has got.
    fn check(taken: &mut Taken, uid: &str, spec: Value) -> Result<Value, String> {
        let service = allocate(taken, service(uid, spec))?;
        taken.note(&holds(&service));
        Ok(service["spec"].clone())
    }

    #[test]
    fn addresses_are_given_once() {
        let mut taken = Taken::default();
        let one = check(&mut taken, "a", json!({"type": "ClusterIP"})).unwrap();
        let ip = one["clusterIP"].as_str().unwrap().to_owned();
        assert_eq!(one["clusterIPs"], json!([ip]));
        assert_eq!(one["ipFamilies"], json!(["IPv4"]));
        assert_eq!(
            check(&mut taken, "b", json!({"clusterIP": ip})).unwrap_err(),
            format!(
                "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: \
                 failed to allocate IP {ip}: provided IP is already allocated"
            )
        );
        check(&mut taken, "dns", json!({"clusterIP": "10.43.0.10"})).unwrap();
        for outside in ["10.44.0.1", "10.43.0.0", "10.43.255.255", "10.43.0.1"] {
            check(&mut taken, "c", json!({"clusterIP": outside})).unwrap_err();
        }
        assert_eq!(
            check(&mut taken, "h", json!({"clusterIP": "None"})).unwrap()["clusterIPs"],
            json!(["None"])
        );
        let external = check(&mut taken, "e", json!({"type": "ExternalName", "externalName": "x"})).unwrap();
        assert!(external.get("clusterIP").is_none());
    }

    #[test]
    fn node_ports_run_out_and_are_shared_by_protocols() {
        let mut taken = Taken::default();
        let spec = json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]});
        let dns = check(&mut taken, "dns", spec).unwrap();
        assert_eq!(dns["ports"][0]["nodePort"], dns["ports"][1]["nodePort"]);
        for uid in ["a", "b"] {
            check(&mut taken, uid, json!({"type": "LoadBalancer", "ports": [{"port": 80}]})).unwrap();
        }
        assert!(check(&mut taken, "c", json!({"type": "NodePort", "ports": [{"port": 80}]})).is_err());
        assert_eq!(
            check(&mut taken, "c", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}))
                .unwrap_err(),
            "Service \"c\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the \
             valid range. The range of valid ports is 30000-30002"
        );
    }

    #[test]
    fn what_is_chosen_is_none_of_those_that_are_asked_for() {
        let ports = json!([{"port": 80}, {"port": 81}, {"port": 82, "nodePort": 30_000}]);
        let spec = json!({"type": "NodePort", "ports": ports});
        let made = allocate(&Taken::default(), service("a", spec)).unwrap();
        assert_eq!(node_ports(&made).into_iter().collect::<BTreeSet<_>>().len(), 3, "{made}");
    }

    #[test]
    fn a_change_keeps_what_it_does_not_say_and_frees_what_it_leaves() {
        let none = Taken::default();
        let old = service("a", json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        let old = allocate(&none, old).unwrap();
        let mut new = service("a", json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
        carry_over(&old, &mut new);
        let new = allocate(&none, new).unwrap();
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(new["spec"]["ports"][0]["nodePort"], old["spec"]["ports"][0]["nodePort"]);
        assert!(new["spec"]["ports"][1]["nodePort"].is_u64());
        let mut last = new.clone();
        last["spec"]["type"] = "ClusterIP".into();
        carry_over(&new, &mut last);
        let last = allocate(&none, last).unwrap();
        assert!(last["spec"]["ports"][0].get("nodePort").is_none());
        assert_eq!(holds(&last), last["spec"]["clusterIP"].as_str().unwrap());
    }

    #[test]
    fn a_port_for_health_checks_is_nobody_elses() {
        let mut taken = Taken::default();
        let balancer = |health: Option<u16>| {
            let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": []});
            spec["healthCheckNodePort"] = json!(health);
            spec
        };
        let one = check(&mut taken, "a", balancer(None)).unwrap();
        let port = u16::try_from(one["healthCheckNodePort"].as_u64().unwrap()).unwrap();
        let refused = check(&mut taken, "b", balancer(Some(port))).unwrap_err();
        assert!(refused.contains("provided port is already allocated"), "{refused}");
        let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
        check(&mut taken, "c", node_port).unwrap_err();
        assert_ne!(check(&mut taken, "d", balancer(None)).unwrap()["healthCheckNodePort"], port);
    }

    #[test]
    fn families_that_are_not_here_are_refused() {
        let check = |spec: Value| check_families(&service("s", spec)).map_err(|refusal| refusal.to_string());
        check(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]})).unwrap();
        assert_eq!(
            check(json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})).unwrap_err(),
            "Service \"s\" is invalid: [spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is \
             not configured for dual-stack services, spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on \
             this cluster]"
        );
    }

    #[test]
    fn ranges_are_read() {
        let range: AddressRange = "10.96.3.4/12".parse().unwrap();
        assert_eq!(range.to_string(), "10.96.0.0/12");
        assert_eq!(range.dns(), Ipv4Addr::new(10, 96, 0, 10));
        for text in ["", "10.0.0.0", "10.0.0.0/32", "::/64", "x/16"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text:?} was accepted");
        }
    }
}
