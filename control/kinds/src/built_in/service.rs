//! Service: one stable name and address for a set of pods.
//!
//! The address is allocated by the registry's admission; here stands what one may look like.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::FieldErrors;
use serde_json::Value;

use super::service_validation;
use crate::columns::{age, column, items, join, name, number, or_none, pairs, text, wide};
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};
use crate::{Kind, PROXY_VERBS, SelectableField, Subresource};

/// How long `ClientIP` affinity lasts unless told: three hours.
const AFFINITY_TIMEOUT_SECONDS: i32 = 10_800;

/// The rules of Services.
pub struct Services;

/// The row of Services.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        columns: vec![
            name(),
            column("Type", "string", "How the Service is exposed.", |o, _| text(o, "/spec/type").into()),
            column("Cluster-IP", "string", "The address of the Service inside the cluster.", |o, _| {
                cluster_ip(o).into()
            }),
            column("External-IP", "string", "Addresses of the Service outside the cluster.", |o, _| {
                external_ip(o).into()
            }),
            column("Port(s)", "string", "The ports that the Service exposes.", |o, _| ports(o).into()),
            age(),
            wide("Selector", "Labels of the pods that traffic goes to.", |o, _| {
                pairs(o.pointer("/spec/selector")).into()
            }),
        ],
        selectable_fields: vec![
            SelectableField::at("spec.clusterIP", "/spec/clusterIP"),
            SelectableField::at("spec.type", "/spec/type"),
        ],
        indexed_fields: vec![SelectableField::new(FIELD_HOLDS, holds)],
        ..row::<Services>()
    }
    .with([Subresource::action("proxy", Some(("", "v1", "ServiceProxyOptions")), PROXY_VERBS)])
}

/// The indexed field with what a Service has of the cluster's addresses and node ports: `10.43.0.7 30080`.
pub const FIELD_HOLDS: &str = "holds";

/// The value of [`FIELD_HOLDS`].
pub fn holds(service: &Value) -> String {
    let address = wanted_address(service).filter(|text| text.parse::<std::net::Ipv4Addr>().is_ok());
    let ports = node_ports(service).into_iter().map(|port| port.to_string());
    address.map(str::to_owned).into_iter().chain(ports).collect::<Vec<_>>().join(" ")
}

/// The address that a Service asks for, empty if any will do; `None` if it has none by its type.
pub fn wanted_address(service: &Value) -> Option<&str> {
    let spec = service.get("spec").filter(|spec| spec.is_object())?;
    if spec["type"] == "ExternalName" {
        return None;
    }
    let single = spec["clusterIP"].as_str().unwrap_or_default();
    let first = spec.pointer("/clusterIPs/0").and_then(Value::as_str).unwrap_or_default();
    Some(if single.is_empty() { first } else { single })
}

/// True if its type has node ports.
pub fn has_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// The node ports that it has, the one for health checks among them.
pub fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let numbers = ports.filter_map(|port| port["nodePort"].as_u64()).filter_map(|n| u16::try_from(n).ok());
    let health = service["spec"]["healthCheckNodePort"].as_u64().and_then(|n| u16::try_from(n).ok());
    numbers.chain(health).filter(|port| *port != 0).collect()
}

fn cluster_ip(service: &Value) -> &str {
    let first = items(service, "/spec/clusterIPs").next().and_then(Value::as_str);
    or_none(first.unwrap_or_else(|| text(service, "/spec/clusterIP")))
}

fn external_ip(service: &Value) -> String {
    let external = join(items(service, "/spec/externalIPs").filter_map(Value::as_str));
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let balancers = join(items(service, "/status/loadBalancer/ingress").map(|ingress| {
                match text(ingress, "/ip") {
                    "" => text(ingress, "/hostname"),
                    ip => ip,
                }
            }));
            match (balancers.as_str(), external.as_str()) {
                ("", "") => "<pending>".to_owned(),
                (one, "") | ("", one) => one.to_owned(),
                (balancers, external) => format!("{balancers},{external}"),
            }
        }
        _ => or_none(&external).to_owned(),
    }
}

fn ports(service: &Value) -> String {
    let ports: Vec<String> = items(service, "/spec/ports")
        .map(|port| {
            let (own, node) = (number(port, "/port"), number(port, "/nodePort"));
            let protocol = text(port, "/protocol");
            if node > 0 { format!("{own}:{node}/{protocol}") } else { format!("{own}/{protocol}") }
        })
        .collect();
    or_none(&ports.join(",")).to_owned()
}

impl TypedRules for Services {
    type Object = Service;
    const NAME: NameFormat = NameFormat::Label1035;
    const HAS_STATUS: bool = true;

    fn default(service: &mut Service) {
        service.status.get_or_insert_default().load_balancer.get_or_insert_default();
        default_spec(service.spec.get_or_insert_default());
    }

    fn prepare_update(old: &Service, new: &mut Service) {
        if let (Some(old), Some(new)) = (&old.spec, &mut new.spec) {
            keep_allocated(old, new);
        }
    }

    fn validate(service: &Service, errors: &mut FieldErrors) {
        if let Some(spec) = &service.spec {
            service_validation::spec(spec, errors);
        }
    }

    fn validate_update(old: &Service, new: &Service, errors: &mut FieldErrors) {
        if let (Some(old), Some(new)) = (&old.spec, &new.spec) {
            service_validation::update(old, new, errors);
        }
    }
}

fn default_spec(spec: &mut ServiceSpec) {
    let type_ = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
    spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get_or_insert_default();
            let client_ip = config.client_ip.get_or_insert_default();
            client_ip.timeout_seconds.get_or_insert(AFFINITY_TIMEOUT_SECONDS);
        }
        Some("None") => spec.session_affinity_config = None,
        _ => {}
    }
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        match &port.target_port {
            None | Some(IntOrString::Int(0)) => port.target_port = Some(IntOrString::Int(port.port)),
            Some(IntOrString::String(name)) if name.is_empty() => {
                port.target_port = Some(IntOrString::Int(port.port));
            }
            Some(_) => {}
        }
    }
    // The older field is the first of the newer.
    if let (Some(first), None) = (&spec.cluster_ip, &spec.cluster_ips) {
        spec.cluster_ips = Some(vec![first.clone()]);
    }
    let outside = matches!(type_.as_str(), "NodePort" | "LoadBalancer");
    if outside || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if type_ != "ExternalName" {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if type_ == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// What was allocated stays when a writer leaves it out, as `kubectl replace` does.
fn keep_allocated(old: &ServiceSpec, new: &mut ServiceSpec) {
    let type_of = |spec: &ServiceSpec| spec.type_.clone().unwrap_or_default();
    let absent = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    drop_type_dependent(old, new);
    if type_of(new) == "ExternalName" {
        if type_of(old) != "ExternalName" && new.cluster_ip == old.cluster_ip {
            // What the other types had is given back.
            new.cluster_ip = None;
            new.cluster_ips = None;
            new.ip_families = None;
            new.ip_family_policy = None;
            new.internal_traffic_policy = None;
        }
        return;
    }
    if type_of(old) == "ExternalName" {
        return;
    }
    if absent(&new.cluster_ip) && new.cluster_ips.as_deref().unwrap_or_default().is_empty() {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(&old.cluster_ips);
    } else if new.cluster_ips == old.cluster_ips && new.cluster_ip != old.cluster_ip {
        // Whoever writes only the older field means both.
        new.cluster_ips = new.cluster_ip.clone().map(|ip| vec![ip]);
    }
    if new.ip_families.is_none() {
        new.ip_families.clone_from(&old.ip_families);
    }
    if new.ip_family_policy.is_none() {
        new.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    if matches!(type_of(new).as_str(), "NodePort" | "LoadBalancer") {
        keep_node_ports(old, new);
    }
}

fn keep_node_ports(old: &ServiceSpec, new: &mut ServiceSpec) {
    // Of two that are the same, the first counts.
    let before: BTreeMap<(i32, Option<&str>), Option<i32>> =
        old.ports.iter().flatten().rev().map(|o| ((o.port, o.protocol.as_deref()), o.node_port)).collect();
    for port in new.ports.iter_mut().flatten() {
        if port.node_port.unwrap_or_default() == 0 {
            port.node_port = before.get(&(port.port, port.protocol.as_deref())).copied().flatten();
        }
    }
    if new.health_check_node_port.unwrap_or_default() == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// What only made sense with the type that a Service had goes with it, unless the writer changed it.
fn drop_type_dependent(old: &ServiceSpec, new: &mut ServiceSpec) {
    let type_of = |spec: &ServiceSpec| spec.type_.clone().unwrap_or_default();
    let on_nodes = |spec: &ServiceSpec| matches!(type_of(spec).as_str(), "NodePort" | "LoadBalancer");
    let balanced = |spec: &ServiceSpec| type_of(spec) == "LoadBalancer";
    let outside = |spec: &ServiceSpec| {
        let has_external = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        on_nodes(spec) || type_of(spec) == "ClusterIP" && has_external
    };
    let checked =
        |spec: &ServiceSpec| balanced(spec) && spec.external_traffic_policy.as_deref() == Some("Local");
    if on_nodes(old) && !on_nodes(new) {
        let before: BTreeSet<Option<i32>> = old.ports.iter().flatten().map(|o| o.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if before.contains(&port.node_port) {
                port.node_port = None;
            }
        }
    }
    if outside(old) && !outside(new) && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy = None;
    }
    if checked(old) && !checked(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
    if balanced(old) && !balanced(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: v1, kind: Service, spec: {ports: [{port: 80}]}}";

    #[test]
    fn defaults() {
        created(
            "{apiVersion: v1, kind: Service, spec: {selector: {a: ''}, ports: [{port: 80}]}}",
            expect![[r#"
            apiVersion: v1
            kind: Service
            metadata:
              name: x
              namespace: default
            spec:
              internalTrafficPolicy: Cluster
              ports:
              - port: 80
                protocol: TCP
                targetPort: 80
              selector:
                a: ''
              sessionAffinity: None
              type: ClusterIP
            status:
              loadBalancer: {}
        "#]],
        );
        created(
            "{apiVersion: v1, kind: Service, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, sessionAffinity: ClientIP, \
             ports: [{port: 80, targetPort: web, nodePort: 30000}]}}",
            expect![[r#"
                apiVersion: v1
                kind: Service
                metadata:
                  name: x
                  namespace: default
                spec:
                  allocateLoadBalancerNodePorts: true
                  clusterIP: 10.0.0.1
                  clusterIPs:
                  - 10.0.0.1
                  externalTrafficPolicy: Cluster
                  internalTrafficPolicy: Cluster
                  ports:
                  - nodePort: 30000
                    port: 80
                    protocol: TCP
                    targetPort: web
                  sessionAffinity: ClientIP
                  sessionAffinityConfig:
                    clientIP:
                      timeoutSeconds: 10800
                  type: LoadBalancer
                status:
                  loadBalancer: {}
            "#]],
        );
        created(
            "{apiVersion: v1, kind: Service, spec: {type: ExternalName, externalName: a.b.}}",
            expect![[r#"
            apiVersion: v1
            kind: Service
            metadata:
              name: x
              namespace: default
            spec:
              externalName: a.b.
              sessionAffinity: None
              type: ExternalName
            status:
              loadBalancer: {}
        "#]],
        );
    }

    #[test]
    fn what_is_wrong() {
        refusals(
            BASE,
            &[
                "{metadata: {name: 1a}}",
                "{spec: {ports: []}}",
                "{spec: {ports: [], clusterIP: None}}",
                "{spec: {type: Other}}",
                "{spec: {type: ExternalName, clusterIP: 10.0.0.1}}",
                "{spec: {type: ExternalName, externalName: A_b}}",
                "{spec: {ports: [{port: 0, targetPort: 70000, protocol: ICMP}]}}",
                "{spec: {ports: [{name: a}, {port: 81, name: a}, {port: 80}]}}",
                "{spec: {ports: [{name: A, appProtocol: 'a b', targetPort: Web}]}}",
                "{spec: {ports: [{nodePort: 30000}]}}",
                "{spec: {type: NodePort, ports: [{name: a, nodePort: 30000}, {name: b, port: 81, nodePort: 30000}]}}",
                "{spec: {clusterIP: x}}",
                "{spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2, 10.0.0.3]}}",
                "{spec: {sessionAffinity: Sticky}}",
                "{spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}}",
                "{spec: {externalTrafficPolicy: Local}}",
                "{spec: {type: NodePort, externalTrafficPolicy: Near}}",
                "{spec: {internalTrafficPolicy: Near, trafficDistribution: Far}}",
                "{spec: {externalIPs: [127.0.0.1, x]}}",
                "{spec: {loadBalancerClass: a/b, loadBalancerSourceRanges: [10.0.0.0/8], allocateLoadBalancerNodePorts: true}}",
                "{spec: {ipFamilies: [IPv5], ipFamilyPolicy: Any}}",
                "{spec: {selector: {'a b': c}}}",
            ],
            expect![[r#"
                metadata.name: Invalid value: "1a": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
                spec.ports: Required value
                accepted: {"spec":{"ports":[],"clusterIP":"None"}}
                spec.type: Unsupported value: "Other": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
                spec.clusterIPs: Forbidden: may not be set for ExternalName services
                spec.externalName: Required value
                spec.externalName: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
                spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
                spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive
                spec.ports[2].name: Required value
                spec.ports[1].name: Duplicate value: "a"
                spec.ports[2]: Duplicate value: {"protocol":"TCP","port":80}
                spec.ports[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
                spec.ports[0].targetPort: Invalid value: "Web": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
                spec.ports[0].appProtocol: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
                spec.ports[1].nodePort: Duplicate value: {"protocol":"TCP","nodePort":30000}
                spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
                spec.clusterIPs[0]: Invalid value: "10.0.0.2": must match `clusterIP`
                spec.clusterIPs: Invalid value: ["10.0.0.2","10.0.0.3"]: may specify no more than one IP for each IP family
                spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"
                spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400
                spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services
                spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"
                spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"
                spec.trafficDistribution: Unsupported value: "Far": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"
                spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
                spec.externalIPs[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
                spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'
                spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'
                spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'
                spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"
                spec.ipFamilyPolicy: Unsupported value: "Any": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"
                spec.selector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            "#]],
        );
    }

    #[test]
    fn what_may_change() {
        update_refusals(
            "{apiVersion: v1, kind: Service, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}",
            &[
                "{spec: {clusterIP: 10.0.0.2}}",
                "{spec: {clusterIP: '', clusterIPs: []}}",
                "{spec: {type: ExternalName, externalName: a}}",
                "{spec: {type: NodePort, ports: [{nodePort: 30000}]}}",
            ],
            expect![[r#"
                spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set
                accepted: {"spec":{"clusterIP":"","clusterIPs":[]}}
                accepted: {"spec":{"type":"ExternalName","externalName":"a"}}
                accepted: {"spec":{"type":"NodePort","ports":[{"nodePort":30000}]}}
            "#]],
        );
    }
}
