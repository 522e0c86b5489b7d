//! The seccomp profile of containers that ask for none of their own.
//!
//! It forbids what the default profile of containerd and Docker forbids, told as what is denied
//! instead of what is allowed: system calls that reach the kernel as a whole (keys, modules,
//! clocks, mounts, namespaces, tracing of others), unless the container was given the capability
//! that governs them. Everything else is allowed.

use serde_json::{Value, json};

/// Denied whatever a container may do otherwise.
const NEVER: [&str; 22] = [
    "_sysctl",
    "add_key",
    "afs_syscall",
    "create_module",
    "get_kernel_syms",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "keyctl",
    "kexec_file_load",
    "nfsservctl",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "query_module",
    "request_key",
    "sysfs",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
];

/// Denied to those who lack the capability.
const GOVERNED: [(&str, &[&str]); 13] = [
    (
        "SYS_ADMIN",
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "swapoff",
            "swapon",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("BPF", &["bpf"]),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("PERFMON", &["perf_event_open"]),
    ("SYS_BOOT", &["kexec_load", "reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "move_pages", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("SYSLOG", &["syslog"]),
];

/// Flags of `clone(2)` that make a namespace.
const NAMESPACE_FLAGS: [u64; 7] =
    [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// The profile for a process with these capabilities (`CAP_…`), as `linux.seccomp` of the OCI
/// runtime specification.
pub fn profile(capabilities: &[String]) -> Value {
    let has =
        |name: &str| capabilities.iter().any(|capability| capability.strip_prefix("CAP_") == Some(name));
    let mut denied: Vec<&str> = NEVER.to_vec();
    for (capability, calls) in GOVERNED {
        // SYS_ADMIN once was what BPF, PERFMON and SYSLOG are now, and still grants them.
        let granted =
            has(capability) || (has("SYS_ADMIN") && matches!(capability, "BPF" | "PERFMON" | "SYSLOG"));
        if !granted {
            denied.extend(calls);
        }
    }
    let mut rules = vec![
        json!({"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM}),
        // Address families that reach the hypervisor and the kernel's ciphers.
        if_argument("socket", "SCMP_CMP_EQ", libc::AF_VSOCK as u64, 0),
        if_argument("socket", "SCMP_CMP_EQ", libc::AF_ALG as u64, 0),
        // ADDR_NO_RANDOMIZE, but not 0xffffffff, which only asks.
        if_argument("personality", "SCMP_CMP_MASKED_EQ", 0x8004_0000, 0x0004_0000),
    ];
    if !has("SYS_ADMIN") {
        rules.extend(NAMESPACE_FLAGS.map(|flag| if_argument("clone", "SCMP_CMP_MASKED_EQ", flag, flag)));
        // Its flags lie in memory, where a filter cannot look. ENOSYS makes C libraries use clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ARCHITECTURES, "syscalls": rules})
}

fn if_argument(call: &str, comparison: &str, value: u64, value_two: u64) -> Value {
    json!({
        "names": [call],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": libc::EPERM,
        "args": [{"index": 0, "value": value, "valueTwo": value_two, "op": comparison}],
    })
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[&str] = &[];

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::oci_spec::runtime::LinuxSeccomp;

    #[test]
    fn capabilities_open_what_they_govern() {
        let denied = |capabilities: &[&str], call: &str| {
            let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
            let profile: LinuxSeccomp = serde_json::from_value(profile(&capabilities)).expect("a profile");
            profile.syscalls().iter().flatten().any(|rule| rule.names().iter().any(|name| name == call))
        };
        assert!(denied(&[], "mount") && denied(&[], "keyctl") && denied(&[], "clone3"));
        assert!(!denied(&["CAP_SYS_ADMIN"], "mount") && !denied(&["CAP_SYS_ADMIN"], "clone3"));
        assert!(!denied(&["CAP_SYS_ADMIN"], "bpf") && denied(&["CAP_SYS_ADMIN"], "reboot"));
        assert!(denied(&["CAP_SYS_ADMIN"], "keyctl"));
        assert!(!denied(&[], "openat"));
    }
}
