//! Ingress: which hosts and paths from outside lead to which Services.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use super::Kind;
use super::columns::{age, column, first_three, items, join, name, text, text_or_none};
use super::meta::NameFormat;
use super::rules::{Rules, row};
use super::syntax::{self, report};

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const SPEC: Path<'static> = Path::root("spec");

/// The rules of Ingresses.
pub struct Ingresses;

/// The row of Ingresses.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["ing"],
        has_generation: true,
        columns: vec![
            name(),
            column("Class", "string", "The name of the IngressClass that serves this.", |o, _| {
                text_or_none(o, "/spec/ingressClassName").into()
            }),
            column("Hosts", "string", "Hosts that incoming requests are matched against", |o, _| {
                hosts(o).into()
            }),
            column("Address", "string", "Where the load balancer answers", |o, _| {
                join(items(o, "/status/loadBalancer/ingress").map(|i| match text(i, "/ip") {
                    "" => text(i, "/hostname"),
                    ip => ip,
                }))
                .into()
            }),
            column("Ports", "string", "Ports of TLS configurations that open", |o, _| {
                if items(o, "/spec/tls").next().is_some() { "80, 443".into() } else { "80".into() }
            }),
            age(),
        ],
        ..row::<Ingresses>()
    }
}

fn hosts(ingress: &Value) -> String {
    let hosts: Vec<String> = items(ingress, "/spec/rules")
        .map(|rule| text(rule, "/host"))
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    if hosts.is_empty() { "*".to_owned() } else { first_three(&hosts) }
}

impl Rules for Ingresses {
    type Object = Ingress;
    const HAS_STATUS: bool = true;

    fn default(ingress: &mut Ingress) {
        ingress.spec.get_or_insert_default();
        ingress.status.get_or_insert_default().load_balancer.get_or_insert_default();
    }

    fn validate(ingress: &Ingress, errors: &mut FieldErrors) {
        let Some(spec) = &ingress.spec else { return };
        let rules = spec.rules.as_deref().unwrap_or_default();
        match &spec.default_backend {
            Some(backend) => validate_backend(backend, &SPEC.field("defaultBackend"), errors),
            None if rules.is_empty() => {
                let detail = "either `defaultBackend` or `rules` must be specified";
                errors.invalid(&SPEC, Vec::<Value>::new(), detail);
            }
            None => {}
        }
        let tls = SPEC.field("tls");
        for (i, entry) in spec.tls.iter().flatten().enumerate() {
            let at = tls.index(i);
            let hosts = at.field("hosts");
            for (j, host) in entry.hosts.iter().flatten().enumerate() {
                report(host_faults(host), &hosts.index(j), host, errors);
            }
            if let Some(secret) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) {
                report(syntax::subdomain(secret), &at.field("secretName"), secret, errors);
            }
        }
        let path = SPEC.field("rules");
        for (i, rule) in rules.iter().enumerate() {
            validate_rule(rule, &path.index(i), errors);
        }
        if let Some(class) = spec.ingress_class_name.as_deref() {
            report(syntax::subdomain(class), &SPEC.field("ingressClassName"), class, errors);
            let annotations = ingress.metadata.annotations.as_ref();
            let annotated = annotations.is_some_and(|a| a.contains_key(CLASS_ANNOTATION));
            // A change of the other fields may not fail on what older clients left behind.
            if annotated && ingress.metadata.uid.is_none() {
                let metadata = Path::root("metadata");
                let at = metadata.field("annotations");
                errors.invalid(
                    &at.key(CLASS_ANNOTATION),
                    class,
                    "can not be set when the class field is also set",
                );
            }
        }
    }
}

fn host_faults(host: &str) -> syntax::Faults {
    if host.contains('*') { syntax::wildcard_subdomain(host) } else { syntax::subdomain(host) }
}

fn validate_rule(rule: &IngressRule, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(host) = rule.host.as_deref().filter(|host| !host.is_empty()) {
        let at = path.field("host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&at, host, "must be a DNS name, not an IP address");
        }
        report(host_faults(host), &at, host, errors);
    }
    let Some(http) = &rule.http else { return };
    let http_path = path.field("http");
    let paths = http_path.field("paths");
    if http.paths.is_empty() {
        errors.required(&paths, "");
    }
    for (i, entry) in http.paths.iter().enumerate() {
        validate_path(entry, &paths.index(i), errors);
    }
}

fn validate_path(entry: &HTTPIngressPath, path: &Path<'_>, errors: &mut FieldErrors) {
    let value = entry.path.as_deref().unwrap_or_default();
    let at = path.field("path");
    match entry.path_type.as_str() {
        "" => errors.required(&path.field("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.invalid(&at, value, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| value.contains(**bad)) {
                errors.invalid(&at, value, format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].iter().filter(|bad| value.ends_with(**bad)) {
                errors.invalid(&at, value, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.invalid(&at, value, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.field("pathType"), other, &PATH_TYPES),
    }
    validate_backend(&entry.backend, &path.field("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path<'_>, errors: &mut FieldErrors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            let value = serde_json::to_value(backend).unwrap_or_default();
            errors.invalid(path, value, "cannot set both resource and service backends");
        }
        (Some(resource), None) => {
            let path = path.field("resource");
            for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                if value.is_empty() {
                    errors.required(&path.field(field), "");
                } else {
                    report(NameFormat::PathSegment.faults(value, false), &path.field(field), value, errors);
                }
            }
        }
        (None, Some(service)) => validate_service(service, &path.field("service"), errors),
        (None, None) => errors.required(path, "port name or number is required"),
    }
}

fn validate_service(service: &IngressServiceBackend, path: &Path<'_>, errors: &mut FieldErrors) {
    if service.name.is_empty() {
        errors.required(&path.field("name"), "");
    } else {
        report(syntax::label_1035(&service.name), &path.field("name"), &service.name, errors);
    }
    let (name, number) = match &service.port {
        Some(port) => (port.name.as_deref().unwrap_or_default(), port.number.unwrap_or_default()),
        None => ("", 0),
    };
    let port = path.field("port");
    match (name, number) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => {
            for fault in syntax::port_number(number.into()) {
                errors.invalid(&port.field("number"), number, fault);
            }
        }
        (name, 0) => report(syntax::port_name(name), &port.field("name"), name, errors),
        _ => {
            let value = serde_json::to_value(service).unwrap_or_default();
            errors.invalid(path, value, "cannot set both port name & port number");
        }
    }
}
