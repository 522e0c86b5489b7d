//! Which capabilities a container's process gets.

use std::collections::BTreeSet;

use crate::protocol::Security;

/// What containers have unless told otherwise: the default of containerd and Docker.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capabilities for `security`, as `CAP_…`, in order. `available` is what this process may
/// hand on: `ALL` means all of these, and one that is asked for by name is kept even where it is
/// not available, so that starting fails with the kernel's word for it.
pub fn of(security: &Security, available: &BTreeSet<String>) -> Vec<String> {
    let named = |list: &[String]| -> BTreeSet<String> { list.iter().map(|name| canonical(name)).collect() };
    let (add, drop) = (named(&security.add_capabilities), named(&security.drop_capabilities));
    let all = canonical("ALL");
    let mut set: BTreeSet<String> = if security.privileged || add.contains(&all) {
        available.clone()
    } else if drop.contains(&all) {
        BTreeSet::new()
    } else {
        DEFAULT.iter().map(|name| canonical(name)).collect()
    };
    if !drop.contains(&all) {
        set.retain(|name| !drop.contains(name));
    }
    set.extend(add.into_iter().filter(|name| *name != all));
    set.into_iter().collect()
}

/// What this process may hand on.
pub fn available() -> BTreeSet<String> {
    caps::read(None, caps::CapSet::Permitted).unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// `CAP_KILL` for `kill`, as for `CAP_KILL`.
pub fn canonical(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], privileged: bool, want: &[&str]) {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let security = Security {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            privileged,
            ..Security::default()
        };
        let available = ["CAP_CHOWN", "CAP_SYS_ADMIN"].map(str::to_owned).into();
        assert_eq!(of(&security, &available), want, "+{add:?} -{drop:?}");
    }

    #[test]
    fn added_and_dropped() {
        check(&["NET_ADMIN"], &["ALL"], false, &["CAP_NET_ADMIN"]);
        check(&["ALL"], &["CHOWN"], false, &["CAP_SYS_ADMIN"]);
        check(&[], &[], true, &["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        check(&["cap_sys_time"], &["all"], false, &["CAP_SYS_TIME"]);
        let default = of(&Security::default(), &BTreeSet::new());
        assert_eq!(default.len(), DEFAULT.len());
    }
}
