//! What a machine must have before a node starts on it: what is missing is told in one sentence,
//! with what to mount or load, instead of failing each container later.
//!
//! Called by the command line. The pod network looks for its own parts of the kernel when it is
//! started (`net`).

use std::path::Path;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

const CGROUPS: &str = "/sys/fs/cgroup";
/// What limits and device rules are made with. Version 2 has no controller for devices.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "devices"];

/// Looks for everything; the first thing that is missing is the error.
pub fn check() -> Result<(), String> {
    missing(&hierarchies()).map_or(Ok(()), Err)?;
    overlay()
}

/// How control groups are mounted.
enum Hierarchies {
    /// Version 2, with these controllers.
    One(Vec<String>),
    /// Version 1: these controllers have a mount of their own.
    Each(Vec<String>),
}

fn hierarchies() -> Hierarchies {
    let is = |path: &Path, kind| statfs(path).is_ok_and(|stat| stat.filesystem_type() == kind);
    let root = Path::new(CGROUPS);
    if is(root, CGROUP2_SUPER_MAGIC) {
        let offered = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        return Hierarchies::One(offered.split_whitespace().map(str::to_owned).collect());
    }
    let mounted = CONTROLLERS.into_iter().filter(|name| is(&root.join(name), CGROUP_SUPER_MAGIC));
    Hierarchies::Each(mounted.map(str::to_owned).collect())
}

fn missing(hierarchies: &Hierarchies) -> Option<String> {
    match hierarchies {
        Hierarchies::One(offered) => {
            let wanted = CONTROLLERS.into_iter().filter(|name| *name != "devices");
            let name = wanted.into_iter().find(|name| !offered.iter().any(|found| found == name))?;
            Some(format!(
                "the control group controller {name} is not in {CGROUPS}/cgroup.controllers: start the kernel \
                 with cgroup_enable={name}, or have it delegated to this container"
            ))
        }
        Hierarchies::Each(mounted) if mounted.is_empty() => Some(format!(
            "no control groups are mounted at {CGROUPS}: mount them, as with \
             `mount -t cgroup2 cgroup2 {CGROUPS}` (`ip netns exec` hides them; \
             `nsenter --net=/run/netns/NAME` does not)"
        )),
        Hierarchies::Each(mounted) => {
            let name = CONTROLLERS.into_iter().find(|name| !mounted.iter().any(|found| found == name))?;
            Some(format!(
                "the control group controller {name} is not mounted: \
                 `mkdir -p {CGROUPS}/{name} && mount -t cgroup -o {name} cgroup {CGROUPS}/{name}`, \
                 after starting the kernel with cgroup_enable={name} if it refuses"
            ))
        }
    }
}

/// Asks for an overlay as a container's start does, so that the kernel loads what it can load.
fn overlay() -> Result<(), String> {
    match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => {
            Err("this kernel has no overlay file system, which containers run on: load it with `modprobe overlay`"
                .to_owned())
        }
        // What stands in the way of asking may not stand in the way of a mount.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let list = |names: &str| names.split(' ').filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let check = |hierarchies: Hierarchies, want: &[&str]| {
            let said = missing(&hierarchies).unwrap_or_default();
            assert_eq!(said.is_empty(), want.is_empty(), "{said}");
            assert!(want.iter().all(|part| said.contains(part)), "{said}");
        };
        check(Hierarchies::One(list("cpuset cpu io memory pids")), &[]);
        check(Hierarchies::One(list("cpu io pids")), &["controller memory", "cgroup_enable=memory"]);
        check(Hierarchies::Each(list("cpu memory pids devices")), &[]);
        check(Hierarchies::Each(list("")), &["mount -t cgroup2", "ip netns exec"]);
        check(Hierarchies::Each(list("cpu memory devices")), &["mount -t cgroup -o pids cgroup"]);
    }
}
