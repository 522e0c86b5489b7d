//! What EndpointSlices say, as the node's service proxy, DNS and the ingress need it: the few fields
//! that lead to endpoints, not the objects.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::names::LABEL_SERVICE_NAME;
use crate::namespaced_name::{self, NamespacedName};

/// The slices of all Services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slices {
    /// By Service, then by the slice's own name.
    by_service: BTreeMap<NamespacedName, BTreeMap<String, Slice>>,
    /// The Service of each slice.
    services: BTreeMap<NamespacedName, String>,
}

/// Endpoints that share ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The ports that have a number.
    pub ports: Vec<Port>,
    /// One for each address that is one.
    pub endpoints: Vec<Endpoint>,
}

/// Where endpoints listen.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// As the Service names it; empty if it has no name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Never 0.
    pub number: u16,
}

/// One address behind a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub address: IpAddr,
    /// The pod's own name within the Service, where it has one.
    pub hostname: Option<String>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Shutting down but still answering; for when nobody is ready.
    pub draining: bool,
}

impl Slices {
    /// Learns a slice, whose Service may be another than before.
    pub fn apply(&mut self, slice: &EndpointSlice) {
        self.delete(&slice.metadata);
        let Some(service) = service_of(&slice.metadata) else { return };
        let (namespace, name) = namespaced_name::of(&slice.metadata);
        let of_service = self.by_service.entry((namespace.clone(), service.clone())).or_default();
        of_service.insert(name.clone(), Slice::read(slice));
        self.services.insert((namespace, name), service.clone());
    }

    /// Forgets a slice.
    pub fn delete(&mut self, slice: &ObjectMeta) {
        let key = namespaced_name::of(slice);
        let Some(service) = self.services.remove(&key) else { return };
        let (namespace, name) = key;
        let service = (namespace, service);
        if let Some(slices) = self.by_service.get_mut(&service) {
            slices.remove(&name);
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
        }
    }

    /// Forgets all slices but those with these keys.
    pub fn retain(&mut self, keep: &dyn Fn(&NamespacedName) -> bool) {
        let gone: Vec<NamespacedName> = self.services.keys().filter(|key| !keep(key)).cloned().collect();
        for (namespace, name) in gone {
            self.delete(&ObjectMeta {
                namespace: Some(namespace),
                name: Some(name),
                ..ObjectMeta::default()
            });
        }
    }

    /// The slices of a Service.
    pub fn of<'a>(&'a self, service: &NamespacedName) -> impl Iterator<Item = &'a Slice> + Clone + use<'a> {
        self.by_service.get(service).into_iter().flat_map(BTreeMap::values)
    }
}

impl Slice {
    fn read(slice: &EndpointSlice) -> Self {
        Slice {
            ports: slice.ports.iter().flatten().filter_map(Port::read).collect(),
            endpoints: slice.endpoints.iter().flat_map(Endpoint::read).collect(),
        }
    }
}

impl Port {
    fn read(port: &EndpointPort) -> Option<Self> {
        let number = port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?;
        let protocol = port.protocol.clone().filter(|protocol| !protocol.is_empty());
        let protocol = protocol.unwrap_or_else(|| "TCP".to_owned());
        Some(Port { name: port.name.clone().unwrap_or_default(), protocol, number })
    }
}

impl Endpoint {
    /// The addresses of one endpoint are alike. Names are no addresses: `addressType` FQDN has none.
    fn read(endpoint: &ApiEndpoint) -> impl Iterator<Item = Self> {
        let conditions = endpoint.conditions.as_ref();
        // Absent means yes for ready, and as ready for serving.
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let draining = serving && conditions.and_then(|c| c.terminating).unwrap_or(false);
        let hostname = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
        addresses.map(move |address| Endpoint { address, hostname: hostname.cloned(), ready, draining })
    }
}

fn service_of(meta: &ObjectMeta) -> Option<&String> {
    meta.labels.as_ref()?.get(LABEL_SERVICE_NAME).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, service: &str, rest: Value) -> EndpointSlice {
        let mut slice = json!({
            "metadata": { "namespace": "d", "name": name, "labels": { LABEL_SERVICE_NAME: service } },
            "addressType": "IPv4",
            "endpoints": [],
        });
        rest.as_object().unwrap().clone().into_iter().for_each(|(field, value)| slice[field] = value);
        serde_json::from_value(slice).unwrap()
    }

    #[test]
    fn a_slice_belongs_to_one_service() {
        let mut slices = Slices::default();
        let count = |slices: &Slices, service: &str| slices.of(&("d".to_owned(), service.to_owned())).count();
        slices.apply(&slice("one", "a", json!({})));
        slices.apply(&slice("two", "a", json!({})));
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (2, 0));
        slices.apply(&slice("two", "b", json!({})));
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (1, 1));
        slices.apply(&slice("two", "", json!({})));
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (1, 0));
        slices.delete(&slice("one", "told otherwise", json!({})).metadata);
        assert_eq!(slices, Slices::default());
        slices.apply(&slice("one", "a", json!({})));
        slices.apply(&slice("two", "b", json!({})));
        slices.retain(&|(_, name)| name == "two");
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (0, 1));
    }

    #[test]
    fn what_is_absent_has_its_meaning() {
        let read = Slice::read(&slice(
            "one",
            "a",
            json!({
                "ports": [{ "port": 80 }, { "name": "dns", "protocol": "UDP", "port": 53 }, { "port": 0 }, {}],
                "endpoints": [
                    { "addresses": ["10.0.0.1", "x.example"] },
                    { "addresses": ["10.0.0.2"], "hostname": "two", "conditions": { "ready": false } },
                    { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                    { "addresses": ["10.0.0.4"], "conditions": { "terminating": true } },
                ],
            }),
        ));
        let ports: Vec<_> = read.ports.iter().map(|p| (&*p.name, &*p.protocol, p.number)).collect();
        assert_eq!(ports, [("", "TCP", 80), ("dns", "UDP", 53)]);
        let endpoints: Vec<_> = read
            .endpoints
            .iter()
            .map(|e| (e.address.to_string(), e.hostname.as_deref(), e.ready, e.draining))
            .collect();
        let [one, two, three, four] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"].map(str::to_owned);
        assert_eq!(
            endpoints,
            [
                (one, None, true, false),
                (two, Some("two"), false, false),
                (three, None, false, true),
                (four, None, true, true),
            ]
        );
    }
}
