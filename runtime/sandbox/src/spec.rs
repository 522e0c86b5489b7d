//! A container as an OCI runtime configuration
//! (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>).
//!
//! The pod's network, IPC and UTS namespaces are not named in it: whoever creates the container
//! is in them already, and the container inherits them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::capabilities;
use crate::cgroup::Version;
use crate::devices;
use crate::executor::DEFAULT_PATH;
use crate::mounts::CGROUPS;
use crate::place::Place;
use crate::protocol::{Container, Mount, Resources, Security};
use crate::seccomp;

/// Hidden from containers: they tell about the whole node, or let it be changed.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Seen, but not writable.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The configuration of a container whose root file system is mounted at `root`, with what is mounted in
/// it; `taken` is where its pod has mounted something. `/proc` shows the container's own processes.
pub fn of(place: &Place<'_>, root: &Path, taken: &[PathBuf]) -> Value {
    let Place { container, security, hostname, .. } = *place;
    let capabilities = capabilities::of(security, &capabilities::available());
    json!({
        "ociVersion": "1.0.2",
        "process": process(&container.args, container, security, &capabilities, hostname),
        "root": {"path": root, "readonly": security.read_only_root},
        "mounts": [{
            "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"],
        }],
        "linux": linux(place, &capabilities, taken),
    })
}

/// A process of the container: its first one, or a command that is run in it later.
pub fn process(
    args: &[String],
    container: &Container,
    security: &Security,
    capabilities: &[String],
    hostname: &str,
) -> Value {
    // An empty list would leave the process in the groups of the sandbox.
    let mut groups = vec![security.gid];
    groups.extend(security.additional_gids.iter().filter(|gid| **gid != security.gid));
    let mut process = json!({
        "terminal": container.tty,
        "user": {"uid": security.uid, "gid": security.gid, "additionalGids": groups},
        "args": args,
        "env": environment(&container.env, hostname, container.tty),
        "cwd": if container.cwd.is_empty() { "/" } else { &container.cwd },
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
    });
    // Present and false, it would have the filter installed after the capability for it is gone.
    if security.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    process
}

/// The environment as `NAME=value`, with what every container finds there.
pub fn environment(env: &[(String, String)], hostname: &str, tty: bool) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(env.len() + 3);
    let defaults = [("PATH", DEFAULT_PATH, true), ("HOSTNAME", hostname, true), ("TERM", "xterm", tty)];
    for (name, value, wanted) in defaults {
        if wanted && !env.iter().any(|(given, _)| given == name) {
            out.push(format!("{name}={value}"));
        }
    }
    out.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
    // Without it, libcontainer has the C library look for one, in the container, by code of the container's.
    if env.iter().rfind(|(name, _)| name == "HOME").is_none_or(|(_, value)| value.is_empty()) {
        out.push("HOME=/".to_owned());
    }
    out
}

fn linux(place: &Place<'_>, capabilities: &[String], taken: &[PathBuf]) -> Value {
    let Place { container, security, cgroup, init, .. } = *place;
    let mut namespaces = vec![json!({"type": "mount"})];
    match init {
        Some(init) => namespaces.push(json!({"type": "pid", "path": format!("/proc/{init}/ns/pid")})),
        None if !security.host_pid => namespaces.push(json!({"type": "pid"})),
        None => {}
    }
    if cgroup.version() == Version::V2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut linux = json!({
        "cgroupsPath": cgroup.path(),
        "resources": limits(&container.resources, security, cgroup.version()),
        "namespaces": namespaces,
    });
    if security.privileged {
        // What the pod has mounted below `/dev` is not the container's to make devices in.
        let free = |path: &Path| !taken.iter().any(|place| path.starts_with(place));
        linux["devices"] = Value::Array(devices::of_host(Path::new("/dev"), &free));
    } else {
        linux["maskedPaths"] = json!(MASKED_PATHS);
        linux["readonlyPaths"] = json!(read_only_paths(&container.mounts, cgroup.version()));
    }
    if let Some(profile) = seccomp_of(security, capabilities) {
        linux["seccomp"] = profile;
    }
    linux
}

/// The filter of a container with these settings, if it has one.
pub fn seccomp_of(security: &Security, capabilities: &[String]) -> Option<Value> {
    let unconfined = security.privileged || security.seccomp_unconfined;
    (!unconfined).then(|| seccomp::profile(capabilities))
}

/// Where each controller is bound by itself, nothing may be made beside them either.
fn read_only_paths(wanted: &[Mount], version: Version) -> Vec<&'static str> {
    let taken = wanted.iter().any(|m| m.target.trim_end_matches('/') == CGROUPS);
    let cgroups = (version == Version::V1 && !taken).then_some(CGROUPS);
    READONLY_PATHS.into_iter().chain(cgroups).collect()
}

fn limits(resources: &Resources, security: &Security, version: Version) -> Value {
    let mut cpu = Map::new();
    if let Some(shares) = resources.cpu_shares {
        cpu.insert("shares".to_owned(), json!(shares));
    }
    if let Some(quota) = resources.cpu_quota {
        cpu.insert("quota".to_owned(), json!(quota));
        cpu.insert("period".to_owned(), json!(100_000));
    }
    let mut limits = json!({});
    if security.privileged {
        limits["devices"] = json!([{"allow": true, "access": "rwm"}]);
    }
    if !cpu.is_empty() {
        limits["cpu"] = Value::Object(cpu);
    }
    if let Some(bytes) = resources.memory_bytes {
        limits["memory"] = json!({"limit": bytes});
        if version == Version::V2 {
            limits["unified"] = json!({"memory.oom.group": "1"});
        }
    }
    if let Some(pids) = resources.pids {
        limits["pids"] = json!({"limit": pids});
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroup;
    use libcontainer::oci_spec::runtime::Spec;

    fn container() -> Container {
        serde_json::from_value(json!({
            "id": "web-0", "args": ["sh"], "env": [["A", "1"]], "cwd": "", "log_path": "/tmp/l",
            "log_max_bytes": 0, "log_max_files": 0, "tty": false,
            "mounts": [],
            "resources": {"memory_bytes": 1024, "oom_score_adj": 0},
            "payload": {"type": "oci", "layers": [], "scratch": "/s", "security": Security::default()},
        }))
        .expect("a container")
    }

    #[test]
    fn the_library_reads_it() {
        let container = container();
        let cgroup = Cgroup::at("/proa/n/pod1").child("web-0");
        for privileged in [false, true] {
            let security = Security { privileged, ..Security::default() };
            let place = Place {
                container: &container,
                layers: &[],
                scratch: Path::new("/s"),
                bundle: Path::new("/s/bundle"),
                security: &security,
                cgroup: &cgroup,
                hostname: "web",
                init: None,
                state: Path::new("/s/state"),
            };
            let value = of(&place, Path::new("/s/rootfs"), &[]);
            let spec: Spec = serde_json::from_value(value).expect("a spec");
            let process = spec.process().as_ref().expect("a process");
            assert_eq!(process.env().as_deref().unwrap_or_default()[1..], ["HOSTNAME=web", "A=1", "HOME=/"]);
            assert_eq!(process.user().additional_gids().as_deref(), Some(&[0][..]));
            assert_eq!(spec.linux().as_ref().expect("linux").seccomp().is_none(), privileged);
        }
    }
}
