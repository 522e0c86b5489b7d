//! Where a pod may not mount anything: over `/proc`, whose files decide how a process is confined, and
//! over the root and `/dev`, where libcontainer makes devices and links by names that the node resolves.
//!
//! Asked of the targets' names, which gives the clear error before anything is done; of the places that
//! they lead to, because an image or a volume may hold links; and for `/proc`, which comes last, of what
//! has really been mounted.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

use crate::protocol::Mount;

/// Where libcontainer mounts the list of processes.
pub const PROC: &str = "/proc";

/// Refuses mounts whose names lead to one of these places.
pub fn check_names(mounts: &[Mount]) -> Result<(), String> {
    mounts.iter().try_for_each(|mount| {
        let mut place = PathBuf::from("/");
        for component in Path::new(&mount.target).components() {
            match component {
                Component::Normal(part) => place.push(part),
                Component::ParentDir => drop(place.pop()),
                _ => {}
            }
        }
        check_place(&place, &mount.target)
    })
}

/// Refuses a place, which is a path without links, for the mount of this target.
pub fn check_place(place: &Path, target: &str) -> Result<(), String> {
    let why = match place.to_str() {
        Some("/") => "mounting into / is prohibited",
        Some("/dev") => "/dev is the container's own",
        _ if place.starts_with(PROC) => return Err(refusal(target)),
        _ => return Ok(()),
    };
    Err(format!("{target:?} cannot be mounted: {why}"))
}

/// Refuses what has been mounted over `/proc` or in it, beside the masks and what is only made
/// read-only. Called in the container before its program runs.
pub fn check_mounted(masked: &[String], read_only: &[String]) -> Result<(), String> {
    // Where it cannot be read, something else has taken its place.
    let failed = |_| refusal(PROC);
    if !statfs(PROC).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC) {
        return Err(refusal(PROC));
    }
    let device = std::fs::metadata(PROC).map_err(failed)?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let list = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    match foreign(&list, &device, masked, read_only) {
        Some(target) => Err(refusal(target)),
        None => Ok(()),
    }
}

/// The first mount in `/proc` that is none of ours, or the second one over it. A line is described in
/// <https://docs.kernel.org/filesystems/proc.html>, section 3.5.
fn foreign<'a>(list: &'a str, device: &str, masked: &[String], read_only: &[String]) -> Option<&'a str> {
    let is_one_of = |paths: &[String], target: &str| paths.iter().any(|path| path == target);
    let mut proc_seen = false;
    list.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (of, target) = (fields.next()?, fields.nth(1)?);
        let ours = match target.strip_prefix(PROC) {
            Some("") => !std::mem::replace(&mut proc_seen, true),
            Some(rest) if rest.starts_with('/') => {
                is_one_of(masked, target) || is_one_of(read_only, target) && of == device
            }
            _ => true,
        };
        (!ours).then_some(target)
    })
}

fn refusal(target: &str) -> String {
    format!("{target:?} cannot be mounted because it is inside /proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (target, refused) in [
            ("/proc", "inside /proc"),
            ("/proc/", "inside /proc"),
            ("/proc/sys/kernel", "inside /proc"),
            ("//x/../proc/self/attr", "inside /proc"),
            ("/host/proc", ""),
            ("/processes", ""),
            ("/", "into / is prohibited"),
            ("/.", "into / is prohibited"),
            ("/x/..", "into / is prohibited"),
            ("/../x/y/../..", "into / is prohibited"),
            ("/dev", "/dev is the container's own"),
            ("/x/../dev/", "/dev is the container's own"),
            ("/dev/shm", ""),
            ("/devices", ""),
        ] {
            let mount = Mount {
                source: String::new(),
                target: target.to_owned(),
                read_only: false,
                recursive_read_only: false,
            };
            let answer = check_names(&[mount]);
            let message = answer.as_ref().err().map_or("", String::as_str);
            assert_eq!(
                (message.is_empty(), message.contains(refused)),
                (refused.is_empty(), true),
                "{target}"
            );
        }
    }

    #[test]
    fn mounts() {
        let masked = ["/proc/kcore".to_owned()];
        let read_only = ["/proc/sys".to_owned()];
        let ours = "30 1 0:40 / / rw - overlay overlay rw\n\
            31 30 0:41 / /proc rw - proc proc rw\n\
            32 31 0:41 /sys /proc/sys ro - proc proc rw\n\
            33 31 0:5 /null /proc/kcore rw - devtmpfs devtmpfs rw\n\
            34 30 8:1 /host/proc /host/proc rw - proc proc rw\n";
        for (more, want) in [
            ("", None),
            ("35 31 8:1 /v /proc/sys rw - ext4 /dev/sda rw", Some("/proc/sys")),
            ("35 31 8:1 /v /proc rw - ext4 /dev/sda rw", Some("/proc")),
            ("35 31 8:1 /v /proc/self/attr rw - ext4 /dev/sda rw", Some("/proc/self/attr")),
            ("35 30 8:1 /v /processes rw - ext4 /dev/sda rw", None),
        ] {
            let list = format!("{ours}{more}");
            assert_eq!(foreign(&list, "0:41", &masked, &read_only), want, "{more}");
        }
    }
}
