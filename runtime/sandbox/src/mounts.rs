//! What is mounted in a container's root, beside `/proc`, which libcontainer mounts in the container's
//! process namespace.
//!
//! A volume may hold links, and containers write to it while others start. So no path that leads through
//! one is used twice: each place is opened once, inside the root, looked at, and mounted on by its
//! descriptor. Nothing comes to lie over the root itself or over `/dev`, where libcontainer, still outside
//! of the root, makes devices and links by their names.

use std::error::Error;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use pathrs::flags::OpenFlags;
use pathrs::{Handle, Root};
use rustix::fs::{FileType, fstat};
use rustix::mount::{
    MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_set_string, move_mount, open_tree,
};

use crate::cgroup::{Cgroup, Version};
use crate::place::Place;
use crate::protocol::{Mount, Security};
use crate::rootfs::{elsewhere, file_system, mounted};
use crate::shm::Shm;
use crate::targets;
use crate::tree;

/// Where a container finds its cgroups.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// What libcontainer makes in `/dev`: devices, and links.
const MADE_LATER: [&str; 12] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/tty",
    "/dev/random",
    "/dev/urandom",
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/kcore",
    "/dev/ptmx",
];

const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// One mount.
struct Planned {
    target: String,
    what: What,
    attributes: MountAttrFlags,
}

enum What {
    /// A file system of the container's own.
    New { kind: &'static str, options: &'static [(&'static str, &'static str)] },
    /// The pod's own at `/dev/shm`.
    Shared(Shm),
    /// A directory or file of the node, with what is mounted in it, which may get the attributes too.
    Bound { source: PathBuf, recursive: bool },
}

/// Mounts all that a container has in its root, but for `mount_over_devices`. Gives the places of what its
/// pod mounts, without links, as the container names them.
pub fn mount_all(root: &Path, place: &Place<'_>, shm: Option<Shm>) -> Result<Vec<PathBuf>, String> {
    let wanted = &place.container.mounts;
    let opened = Root::open(root).map_err(|error| format!("open the root file system: {error}"))?;
    let failed = |target: &str, error: io::Error| format!("mount {target}: {error}");
    // There already, so that a link to it is seen to lead there.
    make_directory(&opened, targets::PROC).map_err(|error| failed(targets::PROC, error))?;
    let defaults = defaults(wanted, place.security, place.cgroup, shm);
    for planned in defaults.map_err(|error| format!("make the container's cgroup: {error}"))? {
        let mounted = planned.tree().and_then(|tree| attach(&tree, &planned.point(&opened, &tree)?));
        mounted.map_err(|error| failed(&planned.target, error))?;
    }
    let planned = of_pod(wanted).into_iter().filter(|planned| over_device(&planned.target).is_none());
    planned.map(|planned| mount_one(&planned, &opened, attach)).collect()
}

/// Mounts what a pod has in the place of something that libcontainer makes in every container's `/dev`, and
/// would not if it were there: in a container whose program does not run yet, over what has been made.
pub fn mount_over_devices(pid: i32, wanted: &[Mount]) -> Result<(), String> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    for planned in of_pod(wanted) {
        let Some(device) = over_device(&planned.target) else { continue };
        let failed = |error: io::Error| format!("mount {}: {error}", planned.target);
        let root = Root::from_fd(File::open(process.join("root")).map_err(failed)?);
        let taken = Path::new(&planned.target) == Path::new(device);
        if taken && root.resolve_nofollow(device).is_ok() {
            root.remove_file(device).map_err(|error| failed(told(error)))?;
        }
        let namespace = File::open(process.join("ns/mnt")).map_err(failed)?;
        mount_one(&planned, &root, |tree, point| {
            elsewhere(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNS)?;
                attach(tree, point)
            })
        })?;
    }
    Ok(())
}

/// Which of these a target is, or is in.
fn over_device(target: &str) -> Option<&'static str> {
    MADE_LATER.into_iter().find(|made| Path::new(target).starts_with(made))
}

/// Gives its place.
fn mount_one(
    planned: &Planned,
    root: &Root,
    attach: impl FnOnce(&OwnedFd, &Handle) -> io::Result<()>,
) -> Result<PathBuf, String> {
    let failed = |error| format!("mount {}: {error}", planned.target);
    let tree = planned.tree().map_err(failed)?;
    let point = planned.point(root, &tree).map_err(failed)?;
    let place = place(root, &point).map_err(failed)?;
    targets::check_place(&place, &planned.target)?;
    attach(&tree, &point).map_err(failed)?;
    Ok(place)
}

/// Keeps directories of a container writable where its root is going to be read-only: each is mounted on
/// itself, before anything of the pod's is mounted. They are made if they are not there.
pub fn keep_writable(root: &Path, paths: &[String]) -> Result<(), String> {
    let opened = Root::open(root).map_err(|error| format!("open the root file system: {error}"))?;
    for path in paths {
        let failed = |error: io::Error| format!("make volume {path} of the image: {error}");
        let point = make_directory(&opened, path).map_err(failed)?;
        let place = place(&opened, &point).map_err(failed)?;
        if place == Path::new("/") {
            continue;
        }
        targets::check_place(&place, path)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(point.as_fd(), c"", flags | OpenTreeFlags::AT_EMPTY_PATH);
        tree.map_err(io::Error::from).and_then(|tree| attach(&tree, &point)).map_err(failed)?;
    }
    Ok(())
}

/// Makes the directory that a container's program begins in, where it will find it: in what is mounted.
pub fn make_working_directory(root: &Path, path: &str) -> Result<(), String> {
    let made = Root::open(root).map_err(told).and_then(|opened| make_directory(&opened, path));
    made.map(drop).map_err(|error| format!("make working directory {path}: {error}"))
}

/// What every container has, except where its pod mounts something of its own.
fn defaults(
    wanted: &[Mount],
    security: &Security,
    cgroup: &Cgroup,
    shm: Option<Shm>,
) -> io::Result<Vec<Planned>> {
    let new = |target: &str, kind, attributes, options| {
        let what = What::New { kind, options };
        Planned { target: target.to_owned(), what, attributes }
    };
    let inert = NOSUID | NOEXEC | NODEV;
    let access = if security.privileged { MountAttrFlags::empty() } else { READ_ONLY };
    let devpts: &[_] = &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let mut mounts = vec![
        new(
            "/dev",
            "tmpfs",
            NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            &[("mode", "755"), ("size", "65536k")],
        ),
        new("/dev/pts", "devpts", NOSUID | NOEXEC, devpts),
        new("/dev/mqueue", "mqueue", inert, &[]),
        match shm {
            None => bound("/dev/shm", PathBuf::from("/dev/shm"), inert),
            Some(shm) => {
                Planned { target: "/dev/shm".to_owned(), what: What::Shared(shm), attributes: inert }
            }
        },
        new("/sys", "sysfs", inert | access, &[]),
    ];
    // A container sees its own limits, where programs look for them. Version 1 has no file system that
    // shows one cgroup as a whole: each controller that matters is bound by itself.
    match cgroup.version() {
        Version::V2 => {
            cgroup.create()?;
            mounts.push(bound(CGROUPS, cgroup.directory(""), inert | access));
        }
        Version::V1 => {
            mounts.push(new(CGROUPS, "tmpfs", inert, &[("mode", "755"), ("size", "64k")]));
            for (controller, directory) in cgroup.make_shown()? {
                mounts.push(bound(&format!("{CGROUPS}/{controller}"), directory, inert | access));
            }
        }
    }
    mounts.retain(|default| !wanted.iter().any(|m| default.target == m.target.trim_end_matches('/')));
    Ok(mounts)
}

fn bound(target: &str, source: PathBuf, attributes: MountAttrFlags) -> Planned {
    Planned { target: target.to_owned(), what: What::Bound { source, recursive: false }, attributes }
}

/// What the pod mounts. A mount inside another comes after it.
fn of_pod(wanted: &[Mount]) -> Vec<Planned> {
    let mut wanted: Vec<&Mount> = wanted.iter().collect();
    wanted.sort_by_key(|mount| Path::new(&mount.target).components().count());
    let planned = wanted.into_iter().map(|mount| Planned {
        target: mount.target.clone(),
        what: What::Bound { source: PathBuf::from(&mount.source), recursive: mount.recursive_read_only },
        attributes: if mount.read_only { READ_ONLY } else { MountAttrFlags::empty() },
    });
    planned.collect()
}

impl Planned {
    /// The mount, which is nowhere yet.
    fn tree(&self) -> io::Result<OwnedFd> {
        match &self.what {
            What::New { kind, options } => {
                let context = file_system(kind)?;
                fsconfig_set_string(&context, "source", *kind)?;
                for (key, value) in *options {
                    fsconfig_set_string(&context, *key, *value)?;
                }
                mounted(&context, self.attributes)
            }
            What::Shared(shm) => shm.mount(),
            What::Bound { source, recursive } => {
                let tree = tree::of(source, true);
                let tree = tree.map_err(|error| io::Error::other(format!("{source:?}: {error}")))?;
                tree::set(&tree, self.attributes, 0, *recursive)?;
                Ok(tree)
            }
        }
    }

    /// Where it goes, which is made if it is not there.
    fn point(&self, root: &Root, tree: &OwnedFd) -> io::Result<Handle> {
        match FileType::from_raw_mode(fstat(tree)?.st_mode) {
            FileType::Directory => make_directory(root, &self.target),
            _ => make_file(root, &self.target),
        }
    }
}

fn make_directory(root: &Root, path: &str) -> io::Result<Handle> {
    root.mkdir_all(path, &Permissions::from_mode(0o755)).map_err(told)
}

fn make_file(root: &Root, path: &str) -> io::Result<Handle> {
    let parent = Path::new(path).parent().ok_or(io::ErrorKind::IsADirectory)?;
    root.mkdir_all(parent, &Permissions::from_mode(0o755)).map_err(told)?;
    let flags = OpenFlags::O_CREAT | OpenFlags::O_EXCL | OpenFlags::O_NOFOLLOW | OpenFlags::O_CLOEXEC;
    let made = root.create_file(path, flags, &Permissions::from_mode(0o644));
    // What is there already is covered.
    root.resolve(path).map_err(|error| told(made.err().unwrap_or(error)))
}

/// With its causes, which say what was in the way.
fn told(error: pathrs::error::Error) -> io::Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    io::Error::other(text)
}

/// The path of what is open in a container's root, as the container has it. The kernel knows where a
/// directory is, whatever led to it.
fn place(root: &Root, point: &Handle) -> io::Result<PathBuf> {
    let name = |fd: BorrowedFd<'_>| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let (root, point) = (name(root.as_fd())?, name(point.as_fd())?);
    let inside = point.strip_prefix(&root).map_err(|_| io::Error::other("it is outside of the root"))?;
    Ok(Path::new("/").join(inside))
}

fn attach(tree: &OwnedFd, point: &Handle) -> io::Result<()> {
    let by_descriptors = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, c"", point.as_fd(), c"", by_descriptors)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_mounts_comes_last_and_the_inner_later() {
        let mount = |target: &str| Mount {
            source: "/a".to_owned(),
            target: target.to_owned(),
            read_only: false,
            recursive_read_only: false,
        };
        let wanted = [mount("/data/in"), mount("/data"), mount("/dev/shm/"), mount("/sys/fs/cgroup")];
        let order: Vec<_> = of_pod(&wanted).into_iter().map(|planned| planned.target).collect();
        assert_eq!(order, ["/data", "/data/in", "/dev/shm/", "/sys/fs/cgroup"]);
    }
}
