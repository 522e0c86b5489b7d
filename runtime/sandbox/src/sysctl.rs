//! Kernel parameters of a pod: which of them belong to one of its namespaces, and setting them.
//!
//! Read by the sandbox, which sets them as root, and by the node agent, which admits pods. A
//! parameter that is not known here to be namespaced would be the whole machine's, and is nobody's
//! to set. Source: <https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/>.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

/// A namespace that parameters belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// `net.…`: those that are not a network namespace's own are read-only inside one.
    Net,
    /// System V and POSIX message queues, shared memory and semaphores.
    Ipc,
}

/// What a pod's own network begins with, as with containerd and CRI-O: whoever a program runs as, it
/// may listen on port 80 and send pings, because nobody else is reached by that.
pub const NETWORK_DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Parameters of the IPC namespace beside all of `fs.mqueue`.
const IPC: [&str; 12] = [
    "kernel.auto_msgmni",
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// The name with dots between its parts. As in `sysctl.d(5)`, the first separator tells which of
/// the two characters separates; the other stands for itself.
pub fn with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The namespace that a parameter, named with dots, belongs to; `None` if it is the machine's.
pub fn namespace(name: &str) -> Option<Namespace> {
    if name.starts_with("net.") {
        Some(Namespace::Net)
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else {
        None
    }
}

/// Sets a parameter of the calling process's namespaces, of which `own` are the pod's own.
pub fn set(name: &str, value: &str, own: &[Namespace]) -> io::Result<()> {
    let name = with_dots(name);
    if !namespace(&name).is_some_and(|namespace| own.contains(&namespace)) {
        return Err(io::Error::other("not a parameter of the pod's own namespaces"));
    }
    let mut path = PathBuf::from("/proc/sys");
    for part in name.split('.') {
        // A dot in the name of a network device is written as a slash.
        let part = part.replace('/', ".");
        if part.is_empty() || part == "." || part == ".." {
            return Err(io::Error::other("not a kernel parameter"));
        }
        path.push(part);
    }
    // One write is one value; a kernel takes no more than a page.
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_parameter_is() {
        for (name, want) in [
            ("net.core.somaxconn", Some(Namespace::Net)),
            ("net/ipv4/conf/eth0.1/forwarding", Some(Namespace::Net)),
            ("kernel.shm_rmid_forced", Some(Namespace::Ipc)),
            ("kernel/msgmax", Some(Namespace::Ipc)),
            ("fs.mqueue.msg_max", Some(Namespace::Ipc)),
            ("kernel.shmx", None),
            ("kernel.core_pattern", None),
            ("fs.lease-break-time", None),
            ("kernel.hostname", None),
            ("net", None),
        ] {
            assert_eq!(namespace(&with_dots(name)), want, "{name}");
        }
    }

    #[test]
    fn nothing_leads_out_of_a_namespace() {
        let all = [Namespace::Net, Namespace::Ipc];
        for name in ["net.//.kernel.core_pattern", "net/../kernel/core_pattern", "net..x", "vm.swappiness"] {
            assert!(set(name, "x", &all).is_err(), "{name}");
        }
        assert!(set("net.core.somaxconn", "1024", &[Namespace::Ipc]).is_err());
    }
}
