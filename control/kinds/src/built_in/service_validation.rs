//! What is wrong with a Service: ports, addresses and what fits which type.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::field::{FieldErrors, Path};

use super::endpoints::endpoint_ip;
use crate::meta;
use crate::syntax::{self, report};

const AFFINITY_MAX_SECONDS: i32 = 86_400;
const HEADLESS: &str = "None";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
/// The text of what may be set once.
const FIXED: &str = "may not change once set";
const SPEC: Path<'static> = Path::root("spec");

/// What is wrong with a Service's spec.
pub fn spec(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let type_ = spec.type_.as_deref().unwrap_or_default();
    validate_type(spec, type_, errors);
    let headless = spec.cluster_ip.as_deref() == Some(HEADLESS);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let path = SPEC.field("ports");
    if ports.is_empty() && !headless && type_ != "ExternalName" {
        errors.required(&path, "");
    }
    for (i, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.index(i), errors);
    }
    validate_unique(ports, &path, errors);
    if let Some(selector) = &spec.selector {
        meta::labels(Some(selector), &SPEC.field("selector"), errors);
    }
    validate_affinity(spec, errors);
    validate_cluster_ip(spec, type_, errors);
    validate_external(spec, type_, errors);
    validate_policies(spec, type_, errors);
}

fn validate_type(spec: &ServiceSpec, type_: &str, errors: &mut FieldErrors) {
    match type_ {
        "" => errors.required(&SPEC.field("type"), ""),
        "LoadBalancer" => {
            let ports = SPEC.field("ports");
            for (i, port) in spec.ports.iter().flatten().enumerate() {
                if port.port == 10250 {
                    let text = "may not expose port 10250 externally since it is used by kubelet";
                    errors.invalid(&ports.index(i).field("port"), port.port, text);
                }
            }
            if spec.cluster_ip.as_deref() == Some(HEADLESS) {
                let text = "may not be set to 'None' for LoadBalancer services";
                errors.invalid(&SPEC.field("clusterIPs").index(0), HEADLESS, text);
            }
        }
        "NodePort" if spec.cluster_ip.as_deref() == Some(HEADLESS) => {
            let text = "may not be set to 'None' for NodePort services";
            errors.invalid(&SPEC.field("clusterIPs").index(0), HEADLESS, text);
        }
        "ExternalName" => {
            if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty())
                || spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty())
            {
                errors.forbidden(&SPEC.field("clusterIPs"), "may not be set for ExternalName services");
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            let host = name.strip_suffix('.').unwrap_or(name);
            if host.is_empty() {
                errors.required(&SPEC.field("externalName"), "");
            } else {
                report(syntax::subdomain(host), &SPEC.field("externalName"), name, errors);
            }
        }
        type_ if TYPES.contains(&type_) => {}
        other => errors.not_supported(&SPEC.field("type"), other, &TYPES),
    }
}

fn validate_port(port: &ServicePort, needs_name: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = port.name.as_deref().unwrap_or_default();
    if needs_name && name.is_empty() {
        errors.required(&path.field("name"), "");
    } else if !name.is_empty() {
        report(syntax::label(name), &path.field("name"), name, errors);
    }
    for fault in syntax::port_number(port.port.into()) {
        errors.invalid(&path.field("port"), port.port, fault);
    }
    super::endpoints::protocol(port.protocol.as_deref().unwrap_or_default(), &path.field("protocol"), errors);
    let target = path.field("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) => {
            for fault in syntax::port_number((*number).into()) {
                errors.invalid(&target, *number, fault);
            }
        }
        Some(IntOrString::String(name)) => report(syntax::port_name(name), &target, name, errors),
        None => {}
    }
    if let Some(app) = port.app_protocol.as_deref() {
        report(syntax::qualified_name(app), &path.field("appProtocol"), app, errors);
    }
}

fn validate_unique(ports: &[ServicePort], path: &Path<'_>, errors: &mut FieldErrors) {
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.field("name"), name);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !numbers.insert((port.port, protocol)) {
            errors.duplicate(&at, serde_json::json!({"protocol": protocol, "port": port.port}));
        }
        let node_port = port.node_port.unwrap_or_default();
        if node_port != 0 && !node_ports.insert((node_port, protocol)) {
            errors.duplicate(
                &at.field("nodePort"),
                serde_json::json!({"protocol": protocol, "nodePort": node_port}),
            );
        }
    }
}

fn validate_affinity(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let path = SPEC.field("sessionAffinity");
    let config = SPEC.field("sessionAffinityConfig");
    let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "" => errors.required(&path, ""),
        "ClientIP" => {
            if seconds.is_none_or(|s| s <= 0 || s > AFFINITY_MAX_SECONDS) {
                let text = format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}");
                let client_ip = config.field("clientIP");
                errors.invalid(&client_ip.field("timeoutSeconds"), seconds, text);
            }
        }
        "None" if spec.session_affinity_config.is_some() => {
            errors.forbidden(&config, "must not be set when session affinity is None");
        }
        "None" => {}
        other => errors.not_supported(&path, other, &["ClientIP", "None"]),
    }
}

fn validate_cluster_ip(spec: &ServiceSpec, type_: &str, errors: &mut FieldErrors) {
    if type_ == "ExternalName" {
        return;
    }
    let path = SPEC.field("clusterIPs");
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    match all.first() {
        Some(ip) if ip != first => errors.invalid(&path.index(0), ip.as_str(), "must match `clusterIP`"),
        Some(_) => {}
        None if !first.is_empty() && first != HEADLESS => {
            report(syntax::ip(first), &path.index(0), first, errors);
        }
        None => {}
    }
    if all.len() > 2 {
        errors.invalid(&path, all.to_vec(), "may only hold up to 2 values");
    }
    // This shows all of them, so one time is enough.
    if let Some(i) = all.iter().position(|ip| ip == HEADLESS).filter(|_| all.len() > 1) {
        errors.invalid(&path.index(i), all.to_vec(), "'None' must be the first and only value");
    }
    for (i, ip) in all.iter().enumerate().filter(|(_, ip)| *ip != HEADLESS) {
        report(syntax::ip(ip), &path.index(i), ip, errors);
    }
    if let [a, b] = all
        && let (Ok(a), Ok(b)) = (a.parse::<IpAddr>(), b.parse::<IpAddr>())
        && a.is_ipv4() == b.is_ipv4()
    {
        errors.invalid(&path, all.to_vec(), "may specify no more than one IP for each IP family");
    }
    for (i, family) in spec.ip_families.iter().flatten().enumerate() {
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            errors.not_supported(&SPEC.field("ipFamilies").index(i), family.as_str(), &["IPv4", "IPv6"]);
        }
    }
    const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|p| !FAMILY_POLICIES.contains(p)) {
        errors.not_supported(&SPEC.field("ipFamilyPolicy"), policy, &FAMILY_POLICIES);
    }
}

fn validate_external(spec: &ServiceSpec, type_: &str, errors: &mut FieldErrors) {
    let path = SPEC.field("externalIPs");
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        endpoint_ip(ip, &path.index(i), errors);
    }
    let node_ports = SPEC.field("ports");
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        if type_ == "ClusterIP" && port.node_port.unwrap_or_default() != 0 {
            errors.forbidden(
                &node_ports.index(i).field("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            );
        }
    }
    let balancer = type_ == "LoadBalancer";
    let ranges = SPEC.field("LoadBalancerSourceRanges");
    for (i, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        if !balancer {
            errors.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
            break;
        }
        report(syntax::cidr(range.trim()), &ranges.index(i), range, errors);
    }
    let only_balancer = "may only be used when `type` is 'LoadBalancer'";
    if spec.allocate_load_balancer_node_ports.is_some() && !balancer {
        errors.forbidden(&SPEC.field("allocateLoadBalancerNodePorts"), only_balancer);
    }
    if spec.allocate_load_balancer_node_ports.is_none() && balancer {
        errors.required(&SPEC.field("allocateLoadBalancerNodePorts"), "");
    }
    if let Some(class) = spec.load_balancer_class.as_deref() {
        let path = SPEC.field("loadBalancerClass");
        if balancer {
            report(syntax::qualified_name(class), &path, class, errors);
        } else {
            errors.forbidden(&path, only_balancer);
        }
    }
}

fn validate_policies(spec: &ServiceSpec, type_: &str, errors: &mut FieldErrors) {
    let outside = matches!(type_, "NodePort" | "LoadBalancer")
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let external = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let path = SPEC.field("externalTrafficPolicy");
    match (outside, external) {
        (false, "") => {}
        (false, external) => {
            errors.invalid(&path, external, "may only be set for externally-accessible services")
        }
        (true, "") => errors.required(&path, ""),
        (true, policy) if POLICIES.contains(&policy) => {}
        (true, other) => errors.not_supported(&path, other, &POLICIES),
    }
    let health = spec.health_check_node_port.unwrap_or_default();
    let needs_health = type_ == "LoadBalancer" && external == "Local";
    if health != 0 && !needs_health {
        errors.invalid(
            &SPEC.field("healthCheckNodePort"),
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    if type_ != "ExternalName" {
        let path = SPEC.field("internalTrafficPolicy");
        match spec.internal_traffic_policy.as_deref().unwrap_or_default() {
            "" => errors.required(&path, ""),
            policy if POLICIES.contains(&policy) => {}
            other => errors.not_supported(&path, other, &POLICIES),
        }
    }
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if let Some(distribution) = spec.traffic_distribution.as_deref().filter(|d| !DISTRIBUTIONS.contains(d)) {
        errors.not_supported(&SPEC.field("trafficDistribution"), distribution, &DISTRIBUTIONS);
    }
}

/// What is wrong with a change of a Service's spec.
pub fn update(old: &ServiceSpec, new: &ServiceSpec, errors: &mut FieldErrors) {
    let external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    let first = |spec: &ServiceSpec| spec.cluster_ip.clone().unwrap_or_default();
    if external(old) || external(new) || first(old).is_empty() {
        return;
    }
    if first(old) != first(new) {
        let path = SPEC.field("clusterIPs");
        errors.invalid(&path.index(0), new.cluster_ips.clone().unwrap_or_default(), FIXED);
    }
    let class = |spec: &ServiceSpec| spec.load_balancer_class.clone();
    let balancer = |spec: &ServiceSpec| spec.type_.as_deref() == Some("LoadBalancer");
    if balancer(old) && balancer(new) && class(old) != class(new) {
        let value = class(new).unwrap_or_default();
        errors.invalid(&SPEC.field("loadBalancerClass"), value, FIXED);
    }
}
