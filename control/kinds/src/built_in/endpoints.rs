//! Endpoints: the addresses behind a Service, in the older form that some clients still read.

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints as Object};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use crate::Kind;
use crate::columns::{age, column, items, name, number, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, report};

/// How many addresses a table shows.
const SHOWN: usize = 3;

/// The rules of Endpoints.
pub struct Endpoints;

/// The row of Endpoints.
pub fn kind() -> Kind {
    Kind {
        singular: "endpoints".to_owned(),
        short_names: vec!["ep".into()],
        columns: vec![
            name(),
            column("Endpoints", "string", "The set of all endpoints is the union of all subsets.", |o, _| {
                addresses(o).into()
            }),
            age(),
        ],
        ..row::<Endpoints>()
    }
}

fn addresses(endpoints: &Value) -> String {
    let mut shown = Vec::new();
    let mut all = 0;
    let mut show = |address: String| {
        all += 1;
        if shown.len() < SHOWN {
            shown.push(address);
        }
    };
    for subset in items(endpoints, "/subsets") {
        let ips = || items(subset, "/addresses").map(|a| text(a, "/ip"));
        if items(subset, "/ports").next().is_none() {
            ips().for_each(|ip| show(ip.to_owned()));
        }
        for port in items(subset, "/ports").map(|p| number(p, "/port")) {
            for ip in ips() {
                show(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            }
        }
    }
    match all {
        0 => "<none>".to_owned(),
        _ if all > SHOWN => format!("{} + {} more...", shown.join(","), all - SHOWN),
        _ => shown.join(","),
    }
}

impl TypedRules for Endpoints {
    type Object = Object;

    fn default(endpoints: &mut Object) {
        for subset in endpoints.subsets.iter_mut().flatten() {
            for port in subset.ports.iter_mut().flatten() {
                port.protocol.get_or_insert_with(|| "TCP".to_owned());
            }
        }
    }

    fn validate(endpoints: &Object, errors: &mut FieldErrors) {
        let path = Path::root("subsets");
        for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &path.index(i), errors);
        }
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path<'_>, errors: &mut FieldErrors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        let path = path.field(field);
        for (i, address) in list.iter().enumerate() {
            validate_address(address, &path.index(i), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let path = path.field("ports");
    for (i, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.index(i), errors);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path<'_>, errors: &mut FieldErrors) {
    endpoint_ip(&address.ip, &path.field("ip"), errors);
    if let Some(hostname) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
        report(syntax::label(hostname), &path.field("hostname"), hostname, errors);
    }
    if let Some(node) = address.node_name.as_deref() {
        report(syntax::subdomain(node), &path.field("nodeName"), node, errors);
    }
}

/// An address that an endpoint may have: one that other machines can reach.
pub fn endpoint_ip(ip: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Ok(address) = ip.parse::<std::net::IpAddr>() else {
        report(syntax::ip(ip), path, ip, errors);
        return;
    };
    let (link_local, local_multicast) = match address {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    if address.is_unspecified() {
        errors.invalid(path, ip, format!("may not be unspecified ({ip})"));
    }
    if address.is_loopback() {
        errors.invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if local_multicast {
        errors.invalid(path, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn validate_port(port: &EndpointPort, named: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = port.name.as_deref().unwrap_or_default();
    if named && name.is_empty() {
        errors.required(&path.field("name"), "");
    } else if !name.is_empty() {
        report(syntax::label(name), &path.field("name"), name, errors);
    }
    for fault in syntax::port_number(port.port.into()) {
        errors.invalid(&path.field("port"), port.port, fault);
    }
    protocol(port.protocol.as_deref().unwrap_or_default(), &path.field("protocol"), errors);
    if let Some(app) = port.app_protocol.as_deref() {
        report(syntax::qualified_name(app), &path.field("appProtocol"), app, errors);
    }
}

/// The protocol of a port.
pub fn protocol(protocol: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match protocol {
        "" => errors.required(path, ""),
        "TCP" | "UDP" | "SCTP" => {}
        other => errors.not_supported(path, other, &["SCTP", "TCP", "UDP"]),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use crate::check::{created, refusals};

    const BASE: &str =
        "{apiVersion: v1, kind: Endpoints, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: Endpoints
            metadata:
              name: x
              namespace: default
            subsets:
            - addresses:
              - ip: 10.0.0.1
              ports:
              - port: 80
                protocol: TCP
        "#]],
        );
        refusals(
            BASE,
            &[
                "{subsets: [{addresses: []}]}",
                "{subsets: [{addresses: [{ip: 127.0.0.1}, {ip: x}, {ip: 169.254.1.1, hostname: A, nodeName: N}, {ip: 0.0.0.0}]}]}",
                "{subsets: [{ports: [{port: 0, protocol: ICMP}, {port: 1, name: A}]}]}",
            ],
            expect![[r#"
                subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`
                subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
                subsets[0].addresses[1].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
                subsets[0].addresses[2].ip: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)
                subsets[0].addresses[2].hostname: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                subsets[0].addresses[2].nodeName: Invalid value: "N": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                subsets[0].addresses[3].ip: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)
                subsets[0].ports[0].name: Required value
                subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
                subsets[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
                subsets[0].ports[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            "#]],
        );
    }

    #[test]
    fn columns() {
        let addresses =
            |n: usize| -> Vec<_> { (1..=n).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect() };
        let shown = |n: usize| {
            super::addresses(&json!({"subsets": [{"addresses": addresses(n), "ports": [{"port": 80}]}]}))
        };
        assert_eq!(shown(0), "<none>");
        assert_eq!(shown(2), "10.0.0.1:80,10.0.0.2:80");
        assert_eq!(shown(5), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
    }
}
