//! The addresses and node ports of Services.
//!
//! What is taken is known from the live Services; nothing is stored beside them. An allocation is
//! a [`Reservation`] until its Service is written.
//! <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard};

use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use rand::Rng;
use serde_json::{Value, json};

/// Who holds an address or a port: the uid of a Service.
type Holder = String;

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

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(self.base)?;
        (offset > 0 && offset < self.size() - 1).then_some(offset)
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

/// What all Services have been given.
pub struct Services {
    range: AddressRange,
    ports: PortRange,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: BTreeMap<u32, Holder>,
    ports: BTreeMap<u16, Holder>,
}

/// What a Service was given, until it is written.
#[must_use = "what is reserved is free again when this is dropped"]
pub struct Reservation<'s> {
    services: Option<&'s Services>,
    addresses: Vec<u32>,
    ports: Vec<u16>,
    /// What the Service has no more, once it is written.
    leaves: (Holder, Vec<u32>, Vec<u16>),
}

impl Services {
    /// Nothing is taken yet.
    pub fn new(range: AddressRange, ports: PortRange) -> Services {
        Services { range, ports, taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("nothing panics under this lock")
    }

    /// Marks what a stored Service holds.
    pub fn take(&self, service: &Value) {
        let holder = holder(service);
        let mut taken = self.taken();
        for offset in addresses(service).into_iter().filter_map(|address| self.range.offset(address)) {
            taken.addresses.insert(offset, holder.clone());
        }
        for port in node_ports(service) {
            taken.ports.insert(port, holder.clone());
        }
    }

    /// Frees what a Service holds.
    pub fn release(&self, uid: &str) {
        let mut taken = self.taken();
        taken.addresses.retain(|_, holder| holder != uid);
        taken.ports.retain(|_, holder| holder != uid);
    }

    /// Gives a Service the address and node ports that it asks for or needs, and writes them in.
    ///
    /// # Errors
    /// 422 if what it asks for is taken or out of range, or if nothing is left.
    pub fn allocate(&self, old: Option<&Value>, service: &mut Value) -> Result<Reservation<'_>, Refusal> {
        let mut reservation = Reservation {
            services: Some(self),
            addresses: Vec::new(),
            ports: Vec::new(),
            leaves: (holder(service), Vec::new(), Vec::new()),
        };
        let mut errors = FieldErrors::new();
        {
            let mut taken = self.taken();
            self.allocate_address(&mut taken, service, &mut reservation, &mut errors);
            self.allocate_ports(&mut taken, service, &mut reservation, &mut errors);
        }
        if !errors.is_empty() {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Refusal::invalid("", "Service", name, &errors));
        }
        if let Some(old) = old {
            let kept_addresses = addresses(service);
            let kept_ports: BTreeSet<u16> = node_ports(service).into_iter().collect();
            reservation.leaves.1 = addresses(old)
                .into_iter()
                .filter(|address| !kept_addresses.contains(address))
                .filter_map(|address| self.range.offset(address))
                .collect();
            reservation.leaves.2 =
                node_ports(old).into_iter().filter(|port| !kept_ports.contains(port)).collect();
        }
        Ok(reservation)
    }

    fn allocate_address(
        &self,
        taken: &mut Taken,
        service: &mut Value,
        reservation: &mut Reservation<'_>,
        errors: &mut FieldErrors,
    ) {
        let Some(wanted) = wanted_address(service) else { return };
        if wanted == HEADLESS {
            service["spec"]["clusterIPs"] = json!([HEADLESS]);
            set_families(service);
            return;
        }
        let holder = holder(service);
        let spec = Path::root("spec");
        let path = spec.field("clusterIPs");
        let offset = if wanted.is_empty() {
            self.free_address(taken).ok_or_else(|| "failed to allocate a serviceIP: range is full".to_owned())
        } else {
            let offset = wanted.parse().ok().and_then(|address| self.range.offset(address));
            let known = offset.and_then(|offset| taken.addresses.get(&offset));
            let reserved = offset == Some(OFFSET_API_SERVER) && !is_api_server(service);
            match offset {
                None => Err(format!(
                    "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. \
                     The range of valid IPs is {}",
                    self.range
                )),
                Some(_) if reserved || known.is_some_and(|known| *known != holder) => {
                    Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"))
                }
                Some(offset) => Ok(offset),
            }
        };
        match offset {
            Err(why) if wanted.is_empty() => errors.invalid(&path, json!([]), why),
            Err(why) => errors.invalid(&path, json!([wanted]), why),
            Ok(offset) => {
                let address = self.range.at(offset).to_string();
                if taken.addresses.insert(offset, holder).is_none() {
                    reservation.addresses.push(offset);
                }
                service["spec"]["clusterIP"] = address.as_str().into();
                service["spec"]["clusterIPs"] = json!([address]);
                set_families(service);
            }
        }
    }

    /// A free address from the upper part of the range: the lower is left to those who ask for
    /// an address themselves.
    fn free_address(&self, taken: &Taken) -> Option<u32> {
        let last = self.range.size() - 2;
        let lower = (self.range.size() / 16).clamp(16, 256).min(last);
        let free = |offset: u32| {
            offset != OFFSET_API_SERVER && offset != OFFSET_DNS && !taken.addresses.contains_key(&offset)
        };
        if lower < last {
            let mut rng = rand::rng();
            let tried = (0..TRIES).map(|_| rng.random_range(lower..=last)).find(|offset| free(*offset));
            if tried.is_some() {
                return tried;
            }
        }
        (lower..=last).chain(1..lower).find(|offset| free(*offset))
    }

    fn allocate_ports(
        &self,
        taken: &mut Taken,
        service: &mut Value,
        reservation: &mut Reservation<'_>,
        errors: &mut FieldErrors,
    ) {
        if !has_node_ports(service) {
            return;
        }
        let holder = holder(service);
        let skips = service["spec"]["type"] == "LoadBalancer"
            && service["spec"]["allocateLoadBalancerNodePorts"] == false;
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
                let free = known.or_else(|| if is_full { None } else { self.free_port(taken) });
                is_full |= free.is_none();
                free.ok_or("failed to allocate a nodePort: range is full")
            } else {
                let wanted = u16::try_from(wanted).unwrap_or(0);
                match taken.ports.get(&wanted) {
                    Some(known) if *known != holder => Err("provided port is already allocated"),
                    _ if wanted < self.ports.first || wanted > self.ports.last => {
                        Err("provided port is not in the valid range")
                    }
                    _ => Ok(wanted),
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
                    if taken.ports.insert(chosen, holder.clone()).is_none() {
                        reservation.ports.push(chosen);
                    }
                    shared.insert(number, chosen);
                    port["nodePort"] = chosen.into();
                }
            }
        }
    }

    fn free_port(&self, taken: &Taken) -> Option<u16> {
        let PortRange { first, last } = self.ports;
        let mut rng = rand::rng();
        let mut tried = (0..TRIES).map(|_| rng.random_range(first..=last));
        tried
            .find(|port| !taken.ports.contains_key(port))
            .or_else(|| (first..=last).find(|port| !taken.ports.contains_key(port)))
    }
}

impl Reservation<'_> {
    /// Of an object that needs nothing.
    pub fn nothing() -> Self {
        Reservation {
            services: None,
            addresses: Vec::new(),
            ports: Vec::new(),
            leaves: (String::new(), Vec::new(), Vec::new()),
        }
    }

    /// The Service is written: it keeps what it was given, and what it has left is free.
    pub fn keep(mut self) {
        let Some(services) = self.services.take() else { return };
        let (holder, addresses, ports) = &self.leaves;
        let mut taken = services.taken();
        for offset in addresses {
            if taken.addresses.get(offset) == Some(holder) {
                taken.addresses.remove(offset);
            }
        }
        for port in ports {
            if taken.ports.get(port) == Some(holder) {
                taken.ports.remove(port);
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let Some(services) = self.services else { return };
        let mut taken = services.taken();
        for offset in &self.addresses {
            taken.addresses.remove(offset);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

/// Keeps the address and node ports of a changed Service that does not say them again, as
/// clients that send only what they know leave them out.
pub fn carry_over(old: &Value, new: &mut Value) {
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

fn holder(service: &Value) -> Holder {
    service["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn is_api_server(service: &Value) -> bool {
    service["metadata"]["namespace"] == "default" && service["metadata"]["name"] == "kubernetes"
}

/// The address that a Service asks for, empty if any will do; `None` if it has none by its type.
fn wanted_address(service: &Value) -> Option<&str> {
    let spec = service.get("spec").filter(|spec| spec.is_object())?;
    if spec["type"] == "ExternalName" {
        return None;
    }
    let single = spec["clusterIP"].as_str().unwrap_or_default();
    let first = spec.pointer("/clusterIPs/0").and_then(Value::as_str).unwrap_or_default();
    Some(if single.is_empty() { first } else { single })
}

fn addresses(service: &Value) -> Vec<Ipv4Addr> {
    wanted_address(service).and_then(|text| text.parse().ok()).into_iter().collect()
}

fn has_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let numbers = ports.filter_map(|port| port["nodePort"].as_u64()).filter_map(|n| u16::try_from(n).ok());
    let health = service["spec"]["healthCheckNodePort"].as_u64().and_then(|n| u16::try_from(n).ok());
    numbers.chain(health).filter(|port| *port != 0).collect()
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
    use super::*;

    fn services() -> Services {
        Services::new(AddressRange::default(), PortRange { first: 30_000, last: 30_002 })
    }

    fn service(uid: &str, spec: Value) -> Value {
        json!({"metadata": {"name": uid, "namespace": "x", "uid": uid}, "spec": spec})
    }

    fn check(services: &Services, uid: &str, spec: Value) -> Result<Value, String> {
        let mut service = service(uid, spec);
        match services.allocate(None, &mut service) {
            Ok(reservation) => {
                reservation.keep();
                Ok(service["spec"].take())
            }
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    #[test]
    fn addresses_are_given_once() {
        let services = services();
        let one = check(&services, "a", json!({"type": "ClusterIP"})).unwrap();
        let ip = one["clusterIP"].as_str().unwrap().to_owned();
        assert_eq!(one["clusterIPs"], json!([ip]));
        assert_eq!(one["ipFamilies"], json!(["IPv4"]));
        assert_eq!(
            check(&services, "b", json!({"clusterIP": ip})).unwrap_err(),
            format!(
                "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: \
                 failed to allocate IP {ip}: provided IP is already allocated"
            )
        );
        services.release("a");
        check(&services, "b", json!({"clusterIP": ip})).unwrap();
        check(&services, "dns", json!({"clusterIP": "10.43.0.10"})).unwrap();
        for outside in ["10.44.0.1", "10.43.0.0", "10.43.255.255", "10.43.0.1"] {
            check(&services, "c", json!({"clusterIP": outside})).unwrap_err();
        }
        assert_eq!(
            check(&services, "h", json!({"clusterIP": "None"})).unwrap()["clusterIPs"],
            json!(["None"])
        );
        let external = check(&services, "e", json!({"type": "ExternalName", "externalName": "x"})).unwrap();
        assert!(external.get("clusterIP").is_none());
    }

    #[test]
    fn a_reservation_that_is_dropped_is_free_again() {
        let services = services();
        let mut one = service(
            "a",
            json!({"clusterIP": "10.43.7.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}),
        );
        drop(services.allocate(None, &mut one).unwrap());
        check(&services, "b", json!({"clusterIP": "10.43.7.7"})).unwrap();
        check(&services, "c", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}))
            .unwrap();
    }

    #[test]
    fn node_ports_run_out_and_are_shared_by_protocols() {
        let services = services();
        let spec = json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]});
        let dns = check(&services, "dns", spec).unwrap();
        assert_eq!(dns["ports"][0]["nodePort"], dns["ports"][1]["nodePort"]);
        for uid in ["a", "b"] {
            check(&services, uid, json!({"type": "LoadBalancer", "ports": [{"port": 80}]})).unwrap();
        }
        assert!(check(&services, "c", json!({"type": "NodePort", "ports": [{"port": 80}]})).is_err());
        assert_eq!(
            check(&services, "c", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}))
                .unwrap_err(),
            "Service \"c\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the \
             valid range. The range of valid ports is 30000-30002"
        );
    }

    #[test]
    fn a_change_keeps_what_it_does_not_say_and_frees_what_it_leaves() {
        let services = services();
        let mut old = service("a", json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        services.allocate(None, &mut old).unwrap().keep();
        let mut new = service("a", json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
        carry_over(&old, &mut new);
        services.allocate(Some(&old), &mut new).unwrap().keep();
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(new["spec"]["ports"][0]["nodePort"], old["spec"]["ports"][0]["nodePort"]);
        assert!(new["spec"]["ports"][1]["nodePort"].is_u64());
        let mut last = new.clone();
        last["spec"]["type"] = "ClusterIP".into();
        carry_over(&new, &mut last);
        services.allocate(Some(&new), &mut last).unwrap().keep();
        assert!(last["spec"]["ports"][0].get("nodePort").is_none());
        assert!(services.taken().ports.is_empty());
        assert_eq!(services.taken().addresses.len(), 1);
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
