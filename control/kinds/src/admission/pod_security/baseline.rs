//! What no pod at the level `baseline` may ask for.

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe, SELinuxOptions, WindowsSecurityContextOptions};

use super::subject::{One, Subject, Violation};
use super::words::{containers, plural, quoted, setters, sorted};

/// The capabilities that container runtimes give by default, but for raw sockets.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that concern nobody but the pod, and since which minor version.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

/// The types of SELinux that containers have, and since which minor version.
const SE_LINUX_TYPES: [(&str, u32); 5] = [
    ("", 0),
    ("container_t", 0),
    ("container_init_t", 0),
    ("container_kvm_t", 0),
    ("container_engine_t", 31),
];

/// What annotations with AppArmor profiles begin with.
pub const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// The annotation with a pod's seccomp profile.
pub const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// What annotations with a container's begin with.
pub const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

/// True for the profiles that confine; both seccomp and AppArmor call them so.
pub fn confines(type_: &str) -> bool {
    type_ == "RuntimeDefault" || type_ == "Localhost"
}

pub fn app_armor_profile(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.context().and_then(|c| c.app_armor_profile.as_ref()).map(|p| p.type_.as_str());
    let pod = pod.filter(|type_| !confines(type_));
    let bad = |one: &One<'_>| {
        let type_ = one.context.and_then(|c| c.app_armor_profile.as_ref()).map(|p| p.type_.clone());
        type_.filter(|type_| !confines(type_))
    };
    let names = subject.names(|one| bad(one).is_some());
    let of_containers: Vec<String> = subject.containers.iter().filter_map(bad).collect();
    let mut values: Vec<String> = sorted(pod.into_iter().chain(of_containers.iter().map(String::as_str)))
        .into_iter()
        .map(str::to_owned)
        .collect();
    let fine =
        |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotations = subject.pod.metadata.annotations.iter().flatten();
    let annotations =
        annotations.filter(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && !fine(value));
    let annotations: Vec<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
    let mut who = setters(pod.is_some(), &names);
    if !annotations.is_empty() {
        let joint = if who.is_empty() { "" } else { " and " };
        who.push_str(&format!("{joint}{}", plural(annotations.len(), "annotation", "annotations")));
    }
    values.extend(annotations);
    if values.is_empty() {
        return None;
    }
    let reason = plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    violation(reason, format!("{who} must not set AppArmor profile type to {}", quoted(&values)))
}

/// The capabilities that a container adds beyond the allowed ones.
pub fn added<'a>(one: &One<'a>, allowed: &[&str]) -> Vec<&'a str> {
    let added = one.context.and_then(|c| c.capabilities.as_ref()?.add.as_ref());
    let added = added.into_iter().flatten().map(String::as_str);
    added.filter(|capability| !allowed.contains(capability)).collect()
}

/// Who adds which capabilities; `None` if nobody does.
pub fn adding(subject: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let names = subject.names(|one| !added(one, allowed).is_empty());
    let all = sorted(subject.containers.iter().flat_map(|one| added(one, allowed)));
    let text = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quoted(all)
    );
    (!names.is_empty()).then_some(text)
}

pub fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    violation("non-default capabilities", adding(subject, &CAPABILITIES)?)
}

pub fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let spec = subject.spec;
    let shared = [
        ("hostNetwork=true", spec.host_network),
        ("hostPID=true", spec.host_pid),
        ("hostIPC=true", spec.host_ipc),
    ];
    let shared: Vec<&str> =
        shared.iter().filter(|(_, set)| *set == Some(true)).map(|(name, _)| *name).collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

pub fn host_path_volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(names)))
}

pub fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let ports = |one: &One<'_>| -> Vec<String> {
        let ports = one.whole.and_then(|c| c.ports.as_ref()).into_iter().flatten();
        ports
            .filter_map(|port| port.host_port)
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect()
    };
    let names = subject.names(|one| !ports(one).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: Vec<String> = subject.containers.iter().flat_map(ports).collect();
    let all = sorted(all.iter().map(String::as_str));
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural(names.len(), "uses", "use"),
        plural(all.len(), "hostPort", "hostPorts"),
        all.join(", ")
    );
    violation("hostPort", detail)
}

/// The hosts that a container's probes and hooks would have the node speak to.
fn hosts<'a>(one: &One<'a>) -> Vec<&'a str> {
    let Some(container) = one.whole else { return Vec::new() };
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let probes = probes.into_iter().flatten().flat_map(|probe: &Probe| {
        [
            probe.http_get.as_ref().and_then(|h| h.host.as_ref()),
            probe.tcp_socket.as_ref().and_then(|t| t.host.as_ref()),
        ]
    });
    let lifecycle = container.lifecycle.as_ref();
    let hooks = lifecycle.map(|l| [&l.post_start, &l.pre_stop]).into_iter().flatten().flatten();
    let hooks = hooks.flat_map(|hook: &LifecycleHandler| {
        [
            hook.http_get.as_ref().and_then(|h| h.host.as_ref()),
            hook.tcp_socket.as_ref().and_then(|t| t.host.as_ref()),
        ]
    });
    probes.chain(hooks).flatten().map(String::as_str).filter(|host| !host.is_empty()).collect()
}

pub fn probe_hosts(subject: &Subject<'_>) -> Option<Violation> {
    let names = sorted(subject.names(|one| !hosts(one).is_empty()));
    if names.is_empty() {
        return None;
    }
    let all = sorted(subject.containers.iter().flat_map(hosts));
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural(names.len(), "uses", "use"),
        plural(all.len(), "probe or lifecycle host", "probe or lifecycle hosts"),
        quoted(all)
    );
    violation("probe or lifecycle host", detail)
}

pub fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.names(|one| one.context.and_then(|c| c.privileged) == Some(true));
    if names.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

pub fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let mount =
        |one: &One<'_>| one.context.and_then(|c| c.proc_mount.clone()).filter(|mount| mount != "Default");
    let names = subject.names(|one| mount(one).is_some());
    if names.is_empty() {
        return None;
    }
    let all: Vec<String> = subject.containers.iter().filter_map(mount).collect();
    let all = quoted(sorted(all.iter().map(String::as_str)));
    violation("procMount", format!("{} must not set securityContext.procMount to {all}", containers(&names)))
}

pub fn se_linux_options(subject: &Subject<'_>) -> Option<Violation> {
    let fine = |type_: &str| {
        SE_LINUX_TYPES.iter().any(|(allowed, since)| *allowed == type_ && subject.minor >= *since)
    };
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let type_of = |options: &SELinuxOptions| options.type_.clone().unwrap_or_default();
    let is_bad = |options: &&SELinuxOptions| {
        !fine(&type_of(options)) || is_set(&options.user) || is_set(&options.role)
    };
    let pod = subject.context().and_then(|c| c.se_linux_options.as_ref()).filter(is_bad);
    let of = |one: &One<'_>| one.context.and_then(|c| c.se_linux_options.clone()).filter(|o| is_bad(&o));
    let names = subject.names(|one| of(one).is_some());
    if pod.is_none() && names.is_empty() {
        return None;
    }
    let all: Vec<SELinuxOptions> =
        pod.cloned().into_iter().chain(subject.containers.iter().filter_map(of)).collect();
    let types: Vec<String> = all.iter().map(type_of).filter(|type_| !fine(type_)).collect();
    let types = sorted(types.iter().map(String::as_str));
    let mut wrong = Vec::new();
    if !types.is_empty() {
        wrong.push(format!("{} {}", plural(types.len(), "type", "types"), quoted(types)));
    }
    if all.iter().any(|options| is_set(&options.user)) {
        wrong.push("user may not be set".to_owned());
    }
    if all.iter().any(|options| is_set(&options.role)) {
        wrong.push("role may not be set".to_owned());
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        setters(pod.is_some(), &names),
        wrong.join("; ")
    );
    violation("seLinuxOptions", detail)
}

pub fn seccomp_annotations(subject: &Subject<'_>) -> Option<Violation> {
    let fine = |value: &str| {
        value == "runtime/default" || value == "docker/default" || value.starts_with("localhost/")
    };
    let of_containers =
        subject.containers.iter().map(|one| format!("{SECCOMP_CONTAINER_ANNOTATION}{}", one.name));
    let keys = std::iter::once(SECCOMP_POD_ANNOTATION.to_owned()).chain(of_containers);
    let annotations = subject.pod.metadata.annotations.as_ref();
    let bad = keys.filter_map(|key| {
        let value = annotations?.get(&key).filter(|value| !fine(value))?;
        Some(format!("{key}={value:?}"))
    });
    let bad: Vec<String> = bad.collect();
    let bad = sorted(bad.iter().map(String::as_str));
    if bad.is_empty() {
        return None;
    }
    let word = plural(bad.len(), "annotation", "annotations");
    violation("seccompProfile", format!("forbidden {word} {}", bad.join(", ")))
}

pub fn seccomp_profile(subject: &Subject<'_>) -> Option<Violation> {
    let pod = subject.context().and_then(|c| c.seccomp_profile.as_ref()).map(|p| p.type_.clone());
    let pod = pod.filter(|type_| !confines(type_));
    let bad = |one: &One<'_>| {
        let type_ = one.context.and_then(|c| c.seccomp_profile.as_ref()).map(|p| p.type_.clone());
        type_.filter(|type_| !confines(type_))
    };
    let names = subject.names(|one| bad(one).is_some());
    if pod.is_none() && names.is_empty() {
        return None;
    }
    let who = setters(pod.is_some(), &names);
    let all: Vec<String> = pod.into_iter().chain(subject.containers.iter().filter_map(bad)).collect();
    let all = quoted(sorted(all.iter().map(String::as_str)));
    violation("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {all}"))
}

pub fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    let fine =
        |name: &str| SYSCTLS.iter().any(|(allowed, since)| *allowed == name && subject.minor >= *since);
    let all = subject.context().and_then(|c| c.sysctls.as_ref()).into_iter().flatten();
    let bad: Vec<&str> = all.map(|sysctl| sysctl.name.as_str()).filter(|name| !fine(name)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

pub fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    let is_set = |options: Option<&WindowsSecurityContextOptions>| {
        options.and_then(|options| options.host_process) == Some(true)
    };
    let pod = is_set(subject.context().and_then(|c| c.windows_options.as_ref()));
    let names = subject.names(|one| is_set(one.context.and_then(|c| c.windows_options.as_ref())));
    if !pod && names.is_empty() {
        return None;
    }
    let who = setters(pod, &names);
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
