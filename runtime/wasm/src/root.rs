//! A root file system of this process's own, which holds what its guest may reach and nothing else:
//! the guest's directories, `/etc` for name lookups, and the machine's certificates.
//!
//! Containers write to the volumes that are shown here, also while this runs, and may put links where
//! something is to be shown. So nothing is reached by a path that a container has a part in: all that
//! is shown is opened before anything is mounted, and each mount goes from a descriptor to a
//! descriptor of a directory or an ordinary file. The node's own root is gone afterwards, so that a
//! guest that gets out of Wasm finds its own directories again.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, fstatvfs, mkdirat, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::path::Arg;
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::config::{FileOverlay, Preopen, RunConfig};

/// Where the new root is mounted at first: a directory that every machine has, and whose content
/// nobody here needs any more.
const PLACE: &str = "/sys";
/// Directories and empty files only.
const OPTIONS: &CStr = c"mode=0755,size=256k";
/// What mounts have that no program runs from.
const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Where machines have their certificates in one file. In the new root it is the first of these.
const CERTIFICATES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Names are looked up in the pod's `/etc/hosts` first, whatever C library this is.
const NAME_SERVICES: &[u8] = b"hosts: files dns\n";

/// Makes it and enters it. Gives the guest's directories as they are named in it. Called while there
/// is one thread, as root.
pub fn enter(config: &RunConfig) -> anyhow::Result<Vec<Preopen>> {
    // SAFETY: descriptors stay as they are.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("leave the node's mounts")?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).context("leave the node's mounts")?;
    let shown = Shown::open(config)?;
    mount("tmpfs", PLACE, "tmpfs", INERT, OPTIONS).context("make a root")?;
    let root = open(CWD, PLACE, OFlags::DIRECTORY).context("open the root")?;
    let preopens = shown.mount(config, &root)?;
    become_root(&root).context("enter the root")?;
    Ok(preopens)
}

/// What is shown in the new root, open.
struct Shown {
    directories: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
    certificates: Option<OwnedFd>,
}

impl Shown {
    fn open(config: &RunConfig) -> anyhow::Result<Self> {
        let directories = config.preopens.iter().map(|preopen| {
            open(CWD, &*preopen.source, OFlags::DIRECTORY)
                .with_context(|| format!("mount {} at {}", preopen.source, preopen.target))
        });
        let files = config.files.iter().map(|file| {
            open(CWD, &*file.source, OFlags::empty()).with_context(|| format!("mount {}", file.source))
        });
        Ok(Self {
            directories: directories.collect::<anyhow::Result<_>>()?,
            files: files.collect::<anyhow::Result<_>>()?,
            certificates: CERTIFICATES.iter().find_map(|path| open(CWD, *path, OFlags::empty()).ok()),
        })
    }

    /// Directories by number, so that no name of theirs leads anywhere; then what lies over their files.
    fn mount(&self, config: &RunConfig, root: &OwnedFd) -> anyhow::Result<Vec<Preopen>> {
        let etc = directory(root, "etc")?;
        write(&etc, "nsswitch.conf", NAME_SERVICES).context("write nsswitch.conf")?;
        if let Some(certificates) = &self.certificates {
            let parent = directory(&directory(&etc, "ssl")?, "certs")?;
            show(certificates, &parent, OsStr::new("ca-certificates.crt"), true)
                .context("show the machine's certificates")?;
        }
        let mut mounted = Vec::new();
        for (number, (source, preopen)) in self.directories.iter().zip(&config.preopens).enumerate() {
            let failed = || format!("mount {} at {}", preopen.source, preopen.target);
            let name = number.to_string();
            let place = directory(root, &name)?;
            mount_bind_recursive(by_fd(source), by_fd(&place)).with_context(failed)?;
            // Opened again: what is mounted there, not what is below.
            mounted.push(open(root, &name, OFlags::DIRECTORY).with_context(failed)?);
        }
        for (source, file) in self.files.iter().zip(&config.files) {
            cover(source, file, config, &etc, &mounted)?;
        }
        let mut preopens = config.preopens.clone();
        for (number, (preopen, mounted)) in preopens.iter_mut().zip(&mounted).enumerate() {
            if preopen.read_only {
                make_read_only(mounted).with_context(|| format!("make {} read-only", preopen.target))?;
            }
            preopen.source = format!("/{number}");
        }
        Ok(preopens)
    }
}

/// Shows a file over one in `/etc`, or in those of the guest's directories that it names.
fn cover(
    source: &OwnedFd,
    file: &FileOverlay,
    config: &RunConfig,
    etc: &OwnedFd,
    mounted: &[OwnedFd],
) -> anyhow::Result<()> {
    let target = Path::new(&file.target);
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        anyhow::bail!("{} is not the name of a file", file.target);
    };
    if parent == Path::new("/etc") && (name == "hosts" || name == "resolv.conf") {
        return show(source, etc, name, file.read_only).with_context(|| format!("mount {}", file.target));
    }
    let mut is_shown = false;
    for (preopen, directory) in config.preopens.iter().zip(mounted) {
        if Path::new(&preopen.source) == parent {
            // As the guest knows it.
            let failed = || format!("mount {}", Path::new(&preopen.target).join(name).display());
            show(source, directory, name, file.read_only).with_context(failed)?;
            is_shown = true;
        }
    }
    anyhow::ensure!(is_shown, "{} lies in no directory of the guest's", file.target);
    Ok(())
}

/// Shows a file in a directory, under a name of one part.
fn show(source: &OwnedFd, directory: &OwnedFd, name: &OsStr, read_only: bool) -> io::Result<()> {
    let target = point(directory, name)?;
    mount_bind(by_fd(source), by_fd(&target))?;
    if read_only {
        make_read_only(&open(directory, name, OFlags::NOFOLLOW)?)?;
    }
    Ok(())
}

/// The ordinary file that is covered, made if there is none. A link is never followed: who writes to
/// the volume may have put one there.
fn point(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let found = match open(directory, name, OFlags::NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(directory, name)?;
            open(directory, name, OFlags::NOFOLLOW)?
        }
        found => found?,
    };
    match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::RegularFile => Ok(found),
        FileType::Symlink => Err(io::Error::other("a link is in its place")),
        _ => Err(io::Error::other("what is in its place is no file")),
    }
}

/// Leaves the old root behind, which nothing leads to any more.
fn become_root(root: &OwnedFd) -> io::Result<()> {
    fchdir(root)?;
    // On top of itself (pivot_root(2)), from where the old one is taken away.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(mount_remount("/", MountFlags::BIND | MountFlags::RDONLY | INERT, "")?)
}

fn directory(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o755);
    mkdirat(parent, name, mode)?;
    // Whatever the mask of this process is: the guest's user goes through here.
    chmodat(parent, name, mode, AtFlags::empty())?;
    open(parent, name, OFlags::DIRECTORY)
}

fn write(directory: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    File::from(create(directory, OsStr::new(name))?).write_all(content)
}

/// A new file.
fn create(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::from_raw_mode(0o644))?)
}

/// Opens what a path names, in a directory or in the node's root, without any use of it.
fn open(at: impl AsFd, path: impl Arg, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(at, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// What is not the root of a mount is refused by the kernel (EINVAL).
fn make_read_only(mounted: &OwnedFd) -> io::Result<()> {
    // What it has would be lost otherwise. These flags have the same numbers in both (statvfs(3)).
    let kept = MountFlags::from_bits_retain(fstatvfs(mounted)?.f_flag.bits() as u32) & INERT;
    Ok(mount_remount(by_fd(mounted), MountFlags::BIND | MountFlags::RDONLY | kept, "")?)
}

/// A name of the open file that no container can change.
fn by_fd(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_an_ordinary_file_is_covered() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "text").expect("a file");
        std::fs::create_dir(path("directory")).expect("a directory");
        symlink("file", path("link")).expect("a link");
        symlink("../nowhere", path("dangling")).expect("a link");
        let opened = open(CWD, dir.path(), OFlags::DIRECTORY).expect("a directory");
        for (name, want) in [
            ("file", "-"),
            ("new", "-"),
            ("link", "a link is in its place"),
            ("dangling", "a link is in its place"),
            ("directory", "what is in its place is no file"),
        ] {
            let said = match point(&opened, OsStr::new(name)) {
                Ok(_) => "-".to_owned(),
                Err(error) => error.to_string(),
            };
            assert_eq!(said, want, "{name}");
        }
        assert!(path("new").is_file() && !path("../nowhere").exists());
    }
}
