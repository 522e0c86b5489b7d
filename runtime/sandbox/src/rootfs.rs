//! A container's root file system: an overlay of its image's layers under a directory of its own.
//!
//! Called in a helper, in a mount namespace of the helper's. The container's namespace is copied
//! from it, so the overlay is seen by the container alone and goes away with it; the node's own
//! list of mounts stays as it is.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::utsname::uname;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

/// Where a container's files are, under its scratch directory.
pub struct Scratch {
    /// The overlay is mounted here.
    pub root: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Scratch {
    /// Makes the directories of a new container.
    pub fn create(scratch: &Path) -> io::Result<Self> {
        let dirs =
            Self { root: scratch.join("rootfs"), upper: scratch.join("upper"), work: scratch.join("work") };
        for dir in [&dirs.root, &dirs.upper, &dirs.work] {
            fs::create_dir_all(dir)?;
        }
        fs::set_permissions(scratch, Permissions::from_mode(0o700))?;
        // The root directory of the container, which users of any id must be able to enter.
        fs::set_permissions(&dirs.upper, Permissions::from_mode(0o755))?;
        Ok(dirs)
    }
}

/// Leaves the node's mount namespace, and lets nothing that is mounted from here on reach it.
pub fn enter_private_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(())
}

/// Leaves the node's mount namespace for one whose root, and all there is in it, is a new tmpfs.
pub fn enter_bare_namespace(flags: MsFlags, options: &str) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), flags, Some(options))?;
    chdir("/proc")?;
    // On top of itself (pivot_root(2)), from where the old one is taken away.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(())
}

/// Does what goes into another mount namespace, and comes back to the root and the working directory.
pub fn elsewhere<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (namespace, root, directory) = (File::open("/proc/self/ns/mnt")?, File::open("/")?, File::open(".")?);
    let done = work();
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    fchdir(root)?;
    chroot(".")?;
    fchdir(directory)?;
    done
}

/// Mounts the overlay of `layers`, lowest first. Unless `devices` are wanted, none that an image or
/// the container puts there can be opened.
pub fn mount_overlay(layers: &[String], scratch: &Scratch, devices: bool) -> io::Result<()> {
    if layers.is_empty() {
        return Err(io::Error::other("the image has no layers"));
    }
    for layer in layers {
        if !Path::new(layer).is_dir() {
            return Err(io::Error::other(format!("layer {layer} is not there")));
        }
    }
    // Asked for what it does not know, a kernel writes a line into its log.
    if takes_one_layer_at_a_time(&uname()?.release().to_string_lossy()) {
        mount_by_steps(layers, scratch, devices)
    } else {
        mount_at_once(layers, scratch, devices)
    }
}

/// `lowerdir+` is there since Linux 6.8.
fn takes_one_layer_at_a_time(release: &str) -> bool {
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 8)
}

/// By the mount interface that takes one layer at a time.
fn mount_by_steps(layers: &[String], scratch: &Scratch, devices: bool) -> io::Result<()> {
    let context = file_system("overlay")?;
    for layer in layers.iter().rev() {
        configure(&context, "lowerdir+", Path::new(layer))?;
    }
    configure(&context, "upperdir", &scratch.upper)?;
    configure(&context, "workdir", &scratch.work)?;
    let attributes = if devices { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NODEV };
    let made = mounted(&context, attributes)?;
    Ok(move_mount(&made, c"", CWD, &scratch.root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A read-only overlay of directories, topmost first, that is mounted nowhere.
pub fn detached_overlay(layers: &[OwnedFd]) -> io::Result<OwnedFd> {
    let context = file_system("overlay")?;
    let names: Vec<String> = layers.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    configure(&context, "lowerdir", Path::new(&names.join(":")))?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    mounted(&context, read_only | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID)
}

/// A file system of this kind that is being made.
pub fn file_system(kind: &str) -> io::Result<OwnedFd> {
    Ok(fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?)
}

/// Makes it. It is mounted nowhere yet.
pub fn mounted(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context)?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn configure(context: &OwnedFd, key: &str, path: &Path) -> io::Result<()> {
    Ok(fsconfig_set_string(context, key, path)?)
}

/// By the older interface, whose options must fit into one page: each layer by the number of an
/// open descriptor, which is short and has no characters to escape.
fn mount_at_once(layers: &[String], scratch: &Scratch, devices: bool) -> io::Result<()> {
    let mut open = Vec::new();
    let mut name = |path: &Path| -> io::Result<String> {
        let file = File::open(path)?;
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        open.push(file);
        Ok(name)
    };
    let lower: io::Result<Vec<_>> = layers.iter().rev().map(|layer| name(Path::new(layer))).collect();
    let (upper, work) = (name(&scratch.upper)?, name(&scratch.work)?);
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", lower?.join(":"));
    let flags = if devices { MsFlags::empty() } else { MsFlags::MS_NODEV };
    mount(Some("overlay"), &scratch.root, Some("overlay"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Refuses a root whose `/dev`, `/proc` or `/sys` leads elsewhere: whoever fills them follows a link
/// as the node sees it.
pub fn check_places(root: &Path) -> Result<(), String> {
    for place in ["dev", "proc", "sys"] {
        match fs::symlink_metadata(root.join(place)) {
            Ok(found) if !found.is_dir() => return Err(format!("/{place} of the image is not a directory")),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_kernels_take_one_layer_at_a_time() {
        for (release, want) in [
            ("6.8.0-31-generic", true),
            ("6.18.44", true),
            ("7.0-rc1", true),
            ("6.1.0-56-cloud-amd64", false),
            ("5.15.0", false),
            ("x", false),
        ] {
            assert_eq!(takes_one_layer_at_a_time(release), want, "{release}");
        }
    }
}
