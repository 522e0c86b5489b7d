//! EndpointSlice: up to a thousand of the addresses behind a Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use super::endpoints::endpoint_ip;
use crate::Kind;
use crate::columns::{age, column, items, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;
const HINTS_MAX: usize = 8;

/// The rules of EndpointSlices.
pub struct EndpointSlices;

/// The row of EndpointSlices.
pub fn kind() -> Kind {
    Kind {
        has_generation: true,
        columns: vec![
            name(),
            column("AddressType", "string", "The type of address carried by this EndpointSlice.", |o, _| {
                text(o, "/addressType").into()
            }),
            column("Ports", "string", "The ports exposed by each endpoint in this slice.", |o, _| {
                unset_or(ports(o)).into()
            }),
            column("Endpoints", "string", "The unique endpoints in this slice.", |o, _| {
                unset_or(addresses(o)).into()
            }),
            age(),
        ],
        ..row::<EndpointSlices>()
    }
}

fn ports(slice: &Value) -> Vec<String> {
    items(slice, "/ports")
        .map(|port| match (port.get("port").and_then(Value::as_i64), text(port, "/name")) {
            (Some(number), _) => number.to_string(),
            (None, "") => "*".to_owned(),
            (None, name) => name.to_owned(),
        })
        .collect()
}

fn addresses(slice: &Value) -> Vec<String> {
    items(slice, "/endpoints")
        .flat_map(|endpoint| items(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn unset_or(list: Vec<String>) -> String {
    if list.is_empty() { "<unset>".to_owned() } else { crate::columns::first_three(&list) }
}

impl TypedRules for EndpointSlices {
    type Object = EndpointSlice;

    fn default(slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(slice: &EndpointSlice, errors: &mut FieldErrors) {
        let path = Path::root("addressType");
        match slice.address_type.as_str() {
            "" => errors.required(&path, ""),
            type_ if ADDRESS_TYPES.contains(&type_) => {}
            other => errors.not_supported(&path, other, &ADDRESS_TYPES),
        }
        let path = Path::root("endpoints");
        if slice.endpoints.len() > ENDPOINTS_MAX {
            errors.too_many(&path, slice.endpoints.len(), ENDPOINTS_MAX);
            return;
        }
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &slice.address_type, &path.index(i), errors);
        }
        validate_ports(slice.ports.as_deref().unwrap_or_default(), errors);
    }

    fn validate_update(old: &EndpointSlice, new: &EndpointSlice, errors: &mut FieldErrors) {
        if old.address_type != new.address_type {
            errors.invalid(&Path::root("addressType"), new.address_type.as_str(), IMMUTABLE);
        }
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let addresses = path.field("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(&addresses, "must contain at least 1 address");
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        errors.too_many(&addresses, endpoint.addresses.len(), ADDRESSES_MAX);
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        validate_address(address, address_type, &addresses.index(i), errors);
    }
    if let Some(node) = endpoint.node_name.as_deref() {
        report(syntax::subdomain(node), &path.field("nodeName"), node, errors);
    }
    for key in endpoint.deprecated_topology.iter().flat_map(|topology| topology.keys()) {
        report(syntax::qualified_name(key), &path.field("deprecatedTopology"), key, errors);
    }
    if let Some(hostname) = endpoint.hostname.as_deref() {
        report(syntax::label(hostname), &path.field("hostname"), hostname, errors);
    }
    let hints = path.field("hints");
    if let Some(zones) = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref()) {
        let path = hints.field("forZones");
        if zones.len() > HINTS_MAX {
            errors.too_many(&path, zones.len(), HINTS_MAX);
        }
        let mut seen = BTreeSet::new();
        for (i, zone) in zones.iter().enumerate() {
            if !seen.insert(&zone.name) {
                errors.duplicate(&path.index(i).field("name"), zone.name.as_str());
            }
        }
    }
}

fn validate_address(address: &str, address_type: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match (address_type, address.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => endpoint_ip(address, path, errors),
        ("IPv4", _) => errors.invalid(path, address, "must be a valid IPv4 address"),
        ("IPv6", _) => errors.invalid(path, address, "must be a valid IPv6 address"),
        ("FQDN", _) if !address.contains('.') => {
            let text = "should be a domain with at least two segments separated by dots";
            errors.invalid(path, address, text);
        }
        ("FQDN", _) => report(syntax::subdomain(address), path, address, errors),
        _ => {}
    }
}

fn validate_ports(ports: &[EndpointPort], errors: &mut FieldErrors) {
    let path = Path::root("ports");
    if ports.len() > PORTS_MAX {
        errors.too_many(&path, ports.len(), PORTS_MAX);
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            report(syntax::label(name), &at.field("name"), name, errors);
        }
        if !seen.insert(name) {
            errors.duplicate(&at.field("name"), name);
        }
        super::endpoints::protocol(
            port.protocol.as_deref().unwrap_or_default(),
            &at.field("protocol"),
            errors,
        );
        if let Some(number) = port.port {
            for fault in syntax::port_number(number.into()) {
                errors.invalid(&at.field("port"), number, fault);
            }
        }
        if let Some(app) = port.app_protocol.as_deref() {
            report(syntax::qualified_name(app), &at.field("appProtocol"), app, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: \
                        [{addresses: [10.0.0.1]}], ports: [{port: 80}]}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: discovery.k8s.io/v1
            kind: EndpointSlice
            addressType: IPv4
            endpoints:
            - addresses:
              - 10.0.0.1
            metadata:
              name: x
              namespace: default
            ports:
            - name: ''
              port: 80
              protocol: TCP
        "#]],
        );
        created(
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: []}",
            expect![[r#"
                apiVersion: discovery.k8s.io/v1
                kind: EndpointSlice
                addressType: IPv4
                endpoints: []
                metadata:
                  name: x
                  namespace: default
            "#]],
        );
        refusals(
            BASE,
            &[
                "{addressType: IPv5}",
                "{addressType: ''}",
                "{endpoints: [{addresses: []}]}",
                "{endpoints: [{addresses: ['::1', 127.0.0.1], hostname: A, nodeName: N}]}",
                "{endpoints: [{hints: {forZones: [{name: a}, {name: a}]}}]}",
                "{addressType: FQDN, endpoints: [{addresses: [a]}]}",
                "{ports: [{protocol: ICMP, port: 0}, {port: 1}, {name: A}]}",
            ],
            expect![[r#"
                addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"
                addressType: Required value
                endpoints[0].addresses: Required value: must contain at least 1 address
                endpoints[0].addresses[0]: Invalid value: "::1": must be a valid IPv4 address
                endpoints[0].addresses[1]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
                endpoints[0].nodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                endpoints[0].hostname: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                endpoints[0].hints.forZones[1].name: Duplicate value: "a"
                endpoints[0].addresses[0]: Invalid value: "a": should be a domain with at least two segments separated by dots
                ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
                ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
                ports[1].name: Duplicate value: ""
                ports[2].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            "#]],
        );
        update_refusals(
            BASE,
            &["{addressType: FQDN, endpoints: [{addresses: [a.b]}]}"],
            expect![[r#"
            addressType: Invalid value: "FQDN": field is immutable
        "#]],
        );
    }
}
