//! What is wrong with a pod's spec: what holds for the pod as a whole.
//!
//! Containers, volumes and scheduling have files of their own. Order, paths and texts are those of
//! the stock server.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig, PodSpec, Volume};
use proa_api::field::{FieldErrors, Path};

use super::container::init;
use super::{container, scheduling, security, volume};
use crate::meta;
use crate::syntax::{self, not_between, one_of, report};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
/// Limits of the C library's resolver.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_MAX_BYTES: usize = 2048;

/// What is wrong with a pod's spec, in a pod or in a template.
pub fn spec(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let known = volume::volumes(volumes, &path.field("volumes"), errors);
    container::containers(spec, &known, path, errors);
    host_network(spec, path, errors);
    one_of(spec.restart_policy.as_deref(), &RESTART_POLICIES, &path.field("restartPolicy"), errors);
    one_of(spec.dns_policy.as_deref(), &DNS_POLICIES, &path.field("dnsPolicy"), errors);
    meta::labels(spec.node_selector.as_ref(), &path.field("nodeSelector"), errors);
    security::pod(spec, &path.field("securityContext"), errors);
    scheduling::affinity(spec.affinity.as_ref(), &path.field("affinity"), errors);
    dns_config(spec, &path.field("dnsConfig"), errors);
    gates(spec, path, errors);
    scheduling::topology_spread(
        spec.topology_spread_constraints.as_deref().unwrap_or_default(),
        &path.field("topologySpreadConstraints"),
        errors,
    );
    host_users(spec, path, errors);
    names(spec, path, errors);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(&path.field("activeDeadlineSeconds"), seconds, not_between(1, i32::MAX.into()));
    }
    scheduling::tolerations(
        spec.tolerations.as_deref().unwrap_or_default(),
        &path.field("tolerations"),
        errors,
    );
    host_aliases(spec.host_aliases.as_deref().unwrap_or_default(), &path.field("hostAliases"), errors);
    if let Some(policy) = spec.preemption_policy.as_deref() {
        one_of(Some(policy), &["PreemptLowerPriority", "Never"], &path.field("preemptionPolicy"), errors);
    }
    if let Some(os) = &spec.os {
        one_of(Some(&os.name), &["linux", "windows"], &path.field("os").field("name"), errors);
    }
}

/// What is wrong with a pod that is no template.
pub fn pod_only(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let anonymous = spec.service_account_name.as_deref().unwrap_or_default().is_empty();
    let volumes = path.field("volumes");
    for (i, volume) in spec.volumes.iter().flatten().enumerate().filter(|_| anonymous) {
        token_without_account(volume, &volumes.index(i), errors);
    }
    let lists = [("containers", spec.containers.as_slice()), ("initContainers", init(spec))];
    for (field, containers) in lists {
        let path = path.field(field);
        for (i, container) in containers.iter().enumerate() {
            let image = container.image.as_deref().unwrap_or_default();
            if image.trim() != image {
                let text = "must not have leading or trailing whitespace";
                errors.invalid(&path.index(i).field("image"), image, text);
            }
        }
    }
}

/// What is wrong with a pod that is created.
pub fn create(pod: &Pod, errors: &mut FieldErrors) {
    let Some(spec) = &pod.spec else { return };
    let path = Path::root("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        errors.forbidden(&path.field("ephemeralContainers"), "cannot be set on create");
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && spec.node_name.as_deref().is_some_and(|name| !name.is_empty()) {
        errors
            .forbidden(&path.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

fn token_without_account(volume: &Volume, path: &Path<'_>, errors: &mut FieldErrors) {
    let projected = path.field("projected");
    let sources = projected.field("sources");
    let all = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    for (i, _) in all.enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
        let at = sources.index(i);
        errors.forbidden(
            &at.field("serviceAccountToken"),
            "must not be specified when serviceAccountName is not set",
        );
    }
}

fn host_network(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.host_network != Some(true) {
        return;
    }
    let containers = path.field("containers");
    for (i, container) in spec.containers.iter().enumerate() {
        let container_path = containers.index(i);
        let ports = container_path.field("ports");
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or_default();
            if host_port != 0 && host_port != port.container_port {
                let text = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&ports.index(j).field("hostPort"), host_port, text);
            }
        }
    }
}

fn host_users(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.host_users != Some(false) {
        return;
    }
    let shared = [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
    for (field, _) in shared.iter().filter(|(_, on)| *on == Some(true)) {
        errors.forbidden(&path.field(field), "when `pod.Spec.HostUsers` is false");
    }
}

fn names(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    type Rule = fn(&str) -> syntax::Faults;
    let fields: [(&str, &Option<String>, Rule); 6] = [
        ("serviceAccountName", &spec.service_account_name, syntax::subdomain),
        ("nodeName", &spec.node_name, syntax::subdomain),
        ("hostname", &spec.hostname, syntax::label),
        ("subdomain", &spec.subdomain, syntax::label),
        ("priorityClassName", &spec.priority_class_name, syntax::subdomain),
        ("hostnameOverride", &spec.hostname_override, syntax::subdomain),
    ];
    for (field, value, rule) in fields {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            report(rule(value), &path.field(field), value, errors);
        }
    }
    if let Some(class) = spec.runtime_class_name.as_deref() {
        report(syntax::subdomain(class), &path.field("runtimeClassName"), class, errors);
    }
}

fn gates(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let readiness = path.field("readinessGates");
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = readiness.index(i);
        report(
            syntax::qualified_name(&gate.condition_type),
            &at.field("conditionType"),
            &gate.condition_type,
            errors,
        );
    }
    let scheduling = path.field("schedulingGates");
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (i, gate) in gates.iter().enumerate() {
        report(syntax::qualified_name(&gate.name), &scheduling.index(i), &gate.name, errors);
        if !seen.insert(&gate.name) {
            errors.duplicate(&scheduling.index(i), gate.name.as_str());
        }
    }
}

fn host_aliases(aliases: &[HostAlias], path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, alias) in aliases.iter().enumerate() {
        let at = path.index(i);
        report(syntax::ip(&alias.ip), &at.field("ip"), &alias.ip, errors);
        let hostnames = at.field("hostnames");
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            report(syntax::subdomain(name), &hostnames.index(j), name, errors);
        }
    }
}

fn dns_config(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let without_policy = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if without_policy {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    if without_policy && config.nameservers.as_ref().is_none_or(|servers| servers.is_empty()) {
        let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&path.field("nameservers"), text);
        return;
    }
    nameservers(config, &path.field("nameservers"), errors);
    searches(config, &path.field("searches"), errors);
    let options = path.field("options");
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&options.index(i), "must not be empty");
        }
    }
}

fn nameservers(config: &PodDNSConfig, path: &Path<'_>, errors: &mut FieldErrors) {
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if servers.len() > NAMESERVERS_MAX {
        let text = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(path, servers.to_vec(), text);
    }
    for (i, server) in servers.iter().enumerate() {
        report(syntax::ip(server), &path.index(i), server, errors);
    }
}

fn searches(config: &PodDNSConfig, path: &Path<'_>, errors: &mut FieldErrors) {
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > SEARCHES_MAX {
        let text = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(path, searches.to_vec(), text);
    }
    if searches.join(" ").len() > SEARCHES_MAX_BYTES {
        let text = format!(
            "must not have more than {SEARCHES_MAX_BYTES} characters (including spaces) in the search list"
        );
        errors.invalid(path, searches.to_vec(), text);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        // Underscores stand in names of real domains, though not in those of hosts.
        let plain = search.replace('_', "a");
        report(syntax::subdomain(&plain), &path.index(i), search, errors);
    }
}
