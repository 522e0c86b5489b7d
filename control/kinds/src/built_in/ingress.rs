//! Ingress: which hosts and paths from outside lead to which Services.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use crate::Kind;
use crate::columns::{age, column, first_three, items, join, name, text, text_or_none};
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};
use crate::syntax::{self, report};

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const SPEC: Path<'static> = Path::root("spec");

/// The rules of Ingresses.
pub struct Ingresses;

/// The row of Ingresses.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["ing".into()],
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

impl TypedRules for Ingresses {
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
                errors.invalid(&SPEC, Value::Null, detail);
            }
            None => {}
        }
        let path = SPEC.field("rules");
        for (i, rule) in rules.iter().enumerate() {
            validate_rule(rule, &path.index(i), errors);
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
        if let Some(class) = spec.ingress_class_name.as_deref() {
            report(syntax::subdomain(class), &SPEC.field("ingressClassName"), class, errors);
        }
    }

    fn validate_create(ingress: &Ingress, errors: &mut FieldErrors) {
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let annotated = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        if let (Some(class), Some(annotated)) = (class, annotated)
            && class != annotated
        {
            let text = "must match `ingressClassName` when both are specified";
            errors.invalid(&Path::root("annotations").field(CLASS_ANNOTATION), annotated.as_str(), text);
        }
    }

    fn validate_status_update(_old: &Ingress, new: &Ingress, errors: &mut FieldErrors) {
        let balancer = new.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let path = Path::root("status");
        let path = path.field("loadBalancer");
        let path = path.field("ingress");
        for (i, entry) in balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate() {
            let at = path.index(i);
            if let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) {
                report(syntax::ip(ip), &at.field("ip"), ip, errors);
            }
            if let Some(host) = entry.hostname.as_deref().filter(|host| !host.is_empty()) {
                report(syntax::subdomain(host), &at.field("hostname"), host, errors);
                if host.parse::<std::net::IpAddr>().is_ok() {
                    errors.invalid(&at.field("hostname"), host, "must be a DNS name, not an IP address");
                }
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
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
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
        (None, Some(service)) => validate_service(service, path, errors),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn validate_service(service: &IngressServiceBackend, backend: &Path<'_>, errors: &mut FieldErrors) {
    let path = backend.field("service");
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
        ("", 0) => errors.required(backend, "port name or number is required"),
        ("", number) => {
            for fault in syntax::port_number(number.into()) {
                errors.invalid(&port.field("number"), number, fault);
            }
        }
        (name, 0) => report(syntax::port_name(name), &port.field("name"), name, errors),
        _ => errors.invalid(backend, "", "cannot set both port name & port number"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals};

    const BASE: &str = "{apiVersion: networking.k8s.io/v1, kind: Ingress, spec: {rules: [{host: a.b, http: {paths: \
                        [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: networking.k8s.io/v1
            kind: Ingress
            metadata:
              name: x
              namespace: default
            spec:
              rules:
              - host: a.b
                http:
                  paths:
                  - backend:
                      service:
                        name: s
                        port:
                          number: 80
                    path: /
                    pathType: Prefix
            status:
              loadBalancer: {}
        "#]],
        );
        let path = |path: &str| format!("{{spec: {{rules: [{{http: {{paths: [{{{path}}}]}}}}]}}}}");
        let changes = [
            "{spec: {rules: []}}".to_owned(),
            "{spec: {rules: [{host: 1.2.3.4}, {host: 'a.*.b'}, {host: '*.b'}, {host: A}, {http: {paths: []}}]}}".to_owned(),
            "{spec: {tls: [{hosts: ['*', a.b, A], secretName: S}], ingressClassName: C}}".to_owned(),
            "{metadata: {annotations: {kubernetes.io/ingress.class: x}}, spec: {ingressClassName: y}}".to_owned(),
            "{spec: {defaultBackend: {resource: {kind: K, name: a/b}}}}".to_owned(),
            path("path: a"),
            path("path: ''"),
            path("path: /a//b/../c/."),
            path("pathType: null"),
            path("pathType: Regex"),
            path("pathType: ImplementationSpecific, path: ''"),
            path("backend: null"),
            path("backend: {resource: {kind: K, name: n}}"),
            path("backend: {service: {name: '', port: {number: 0}}}"),
            path("backend: {service: {name: 1a, port: {number: 70000}}}"),
            path("backend: {service: {port: {name: web}}}"),
            path("backend: {service: {port: {name: WEB, number: 0}}}"),
        ];
        refusals(
            BASE,
            &changes.each_ref().map(String::as_str),
            expect![[r#"
            spec: Invalid value: null: either `defaultBackend` or `rules` must be specified
            spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
            spec.rules[1].host: Invalid value: "a.*.b": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.rules[3].host: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.rules[4].http.paths: Required value
            spec.tls[0].hosts[0]: Invalid value: "*": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.tls[0].hosts[2]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.tls[0].secretName: Invalid value: "S": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.ingressClassName: Invalid value: "C": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            annotations.kubernetes.io/ingress.class: Invalid value: "x": must match `ingressClassName` when both are specified
            spec.defaultBackend.resource.name: Invalid value: "a/b": may not contain '/'
            spec.rules[0].http.paths[0].path: Invalid value: "a": must be an absolute path
            spec.rules[0].http.paths[0].path: Invalid value: "": must be an absolute path
            spec.rules[0].http.paths[0].path: Invalid value: "/a//b/../c/.": must not contain '//'
            spec.rules[0].http.paths[0].path: Invalid value: "/a//b/../c/.": must not contain '/../'
            spec.rules[0].http.paths[0].path: Invalid value: "/a//b/../c/.": cannot end with '/.'
            spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified
            spec.rules[0].http.paths[0].pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"
            accepted: {"spec":{"rules":[{"http":{"paths":[{"pathType":"ImplementationSpecific","path":""}]}}]}}
            spec.rules[0].http.paths[0].backend: Invalid value: "": resource or service backend is required
            spec.rules[0].http.paths[0].backend: Invalid value: "": cannot set both resource and service backends
            spec.rules[0].http.paths[0].backend.service.name: Required value
            spec.rules[0].http.paths[0].backend: Required value: port name or number is required
            spec.rules[0].http.paths[0].backend.service.name: Invalid value: "1a": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.rules[0].http.paths[0].backend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.rules[0].http.paths[0].backend: Invalid value: "": cannot set both port name & port number
            spec.rules[0].http.paths[0].backend.service.port.name: Invalid value: "WEB": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.rules[0].http.paths[0].backend.service.port.name: Invalid value: "WEB": must contain at least one letter (a-z)
        "#]],
        );
    }
}
