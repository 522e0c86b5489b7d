//! Which kernel parameters the pods of this node may set.
//!
//! The safe ones are everybody's; further ones of a pod's own namespaces are named when the node is
//! started (`--allowed-unsafe-sysctls`). What is not namespaced can be allowed by nobody. Names,
//! reasons and texts are the kubelet's:
//! <https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/>.

use k8s_openapi::api::core::v1::Pod;
use proa_sandbox::sysctl::{Namespace, namespace, with_dots};

use crate::pod::observed::Verdict;

/// Parameters that neither disturb other pods nor take more than the pod's limits.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// A parameter that is allowed beside the safe ones, or all whose names begin with something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeSysctl {
    name: String,
    /// Written with a star at its end.
    is_prefix: bool,
}

impl std::str::FromStr for UnsafeSysctl {
    type Err = String;

    /// `net.core.somaxconn` or `kernel.msg*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = with_dots(text.trim());
        let (name, is_prefix) = match name.strip_suffix('*') {
            Some(prefix) => (prefix.to_owned(), true),
            None => (name, false),
        };
        // Names that begin alike are all looked at when a pod asks for one.
        let known = namespace(&name).is_some()
            || is_prefix && ["kernel.shm", "kernel.msg", "kernel.sem"].iter().any(|p| name.starts_with(p));
        if known && !name.contains('*') {
            Ok(UnsafeSysctl { name, is_prefix })
        } else {
            Err(format!("the sysctls {text:?} are not known to be namespaced"))
        }
    }
}

impl UnsafeSysctl {
    fn allows(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

/// Refuses a pod that asks for a parameter it may not set.
pub fn check(pod: &Pod, allowed: &[UnsafeSysctl]) -> Result<(), Verdict> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let wanted = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    for sysctl in wanted.into_iter().flatten() {
        let name = with_dots(&sysctl.name);
        let why = match namespace(&name) {
            Some(Namespace::Net) if spec.host_network == Some(true) => "not allowed with host net enabled",
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => "not allowed with host ipc enabled",
            Some(_) if SAFE.contains(&&*name) || allowed.iter().any(|one| one.allows(&name)) => continue,
            _ => "not allowlisted",
        };
        return Err(Verdict::rejected("SysctlForbidden", format!("forbidden sysctl: {name:?} {why}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_safe_and_allowed_parameters_of_own_namespaces() {
        let allowed: Vec<UnsafeSysctl> =
            ["net.core.somaxconn", "kernel.msg*"].iter().map(|text| text.parse().unwrap()).collect();
        let check = |spec: Value, name: &str, want: Option<&str>| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let said = super::check(&pod, &allowed).err();
            let want = want.map(|why| format!("Pod was rejected: forbidden sysctl: {why}"));
            assert_eq!(said.as_ref().map(|verdict| verdict.message.to_string()), want, "{name}");
            assert!(said.is_none_or(|verdict| verdict.reason == "SysctlForbidden"));
        };
        for name in
            ["net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies", "net.core.somaxconn", "kernel.msgmax"]
        {
            check(json!({}), name, None);
        }
        for name in
            ["fs.lease-break-time", "kernel.core_pattern", "kernel.sem", "net.core.somaxconn2", "kernel.msgx"]
        {
            check(json!({}), name, Some(&format!("{name:?} not allowlisted")));
        }
        let name = "net.ipv4.tcp_syncookies";
        check(
            json!({"hostNetwork": true}),
            name,
            Some(&format!("{name:?} not allowed with host net enabled")),
        );
        let name = "kernel.shm_rmid_forced";
        check(json!({"hostIPC": true}), name, Some(&format!("{name:?} not allowed with host ipc enabled")));
    }

    #[test]
    fn what_can_be_allowed() {
        for (text, fine) in [
            ("net.*", true),
            ("kernel.shm*", true),
            ("fs.mqueue.*", true),
            ("kernel/sem", true),
            ("*", false),
            ("kernel.*", false),
            ("kernel.core_pattern", false),
            ("vm.swappiness", false),
            ("net.*.x*", false),
            ("", false),
        ] {
            let parsed = text.parse::<UnsafeSysctl>();
            assert_eq!(parsed.is_ok(), fine, "{text}: {parsed:?}");
        }
    }
}
