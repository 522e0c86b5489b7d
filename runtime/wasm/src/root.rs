//! A root file system of this process's own, which holds what its guest may reach and nothing else:
//! the guest's directories, `/etc` for name lookups, and the machine's certificates.
//!
//! Containers write to the volumes that are shown here, also while this runs, and may put links where
//! something is to be shown. So nothing is reached by a path that a container has a part in: all that
//! is shown is opened before anything is mounted, and each mount goes from a descriptor to a
//! descriptor of a directory or an ordinary file. The node's own root is gone afterwards, so that a
//! guest that gets out of Wasm finds its own directories again.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;

use crate::config::{FileOverlay, Preopen, RunConfig};

/// Where the new root is mounted at first: a directory that every machine has, and whose content
/// nobody here needs any more.
const PLACE: &CStr = c"/sys";
/// Directories and empty files only.
const OPTIONS: &CStr = c"mode=0755,size=256k";
/// What mounts have that no program runs from.
const INERT: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Where machines have their certificates in one file. In the new root it is the first of these.
const CERTIFICATES: [&CStr; 5] = [
    c"/etc/ssl/certs/ca-certificates.crt",
    c"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    c"/etc/pki/tls/certs/ca-bundle.crt",
    c"/etc/ssl/ca-bundle.pem",
    c"/etc/ssl/cert.pem",
];

/// Names are looked up in the pod's `/etc/hosts` first, whatever C library this is.
const NAME_SERVICES: &[u8] = b"hosts: files dns\n";

/// Makes it and enters it. Gives the guest's directories as they are named in it. Called while there
/// is one thread, as root.
pub fn enter(config: &RunConfig) -> anyhow::Result<Vec<Preopen>> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context("leave the node's mounts")?;
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None).context("leave the node's mounts")?;
    let shown = Shown::open(config)?;
    mount(Some(c"tmpfs"), PLACE, Some(c"tmpfs"), INERT, Some(OPTIONS)).context("make a root")?;
    let root = open(None, PLACE, libc::O_DIRECTORY).context("open the root")?;
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
            open(None, &text(&preopen.source)?, libc::O_DIRECTORY)
                .with_context(|| format!("mount {} at {}", preopen.source, preopen.target))
        });
        let files = config.files.iter().map(|file| {
            open(None, &text(&file.source)?, 0).with_context(|| format!("mount {}", file.source))
        });
        Ok(Self {
            directories: directories.collect::<anyhow::Result<_>>()?,
            files: files.collect::<anyhow::Result<_>>()?,
            certificates: CERTIFICATES.iter().find_map(|path| open(None, path, 0).ok()),
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
            bind(source, &directory(root, &name)?, libc::MS_REC).with_context(failed)?;
            // Opened again: what is mounted there, not what is below.
            mounted.push(open(Some(root), &text(&name)?, libc::O_DIRECTORY).with_context(failed)?);
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
    bind(source, &point(directory, name)?, 0)?;
    if read_only {
        make_read_only(&open(Some(directory), &bytes(name)?, libc::O_NOFOLLOW)?)?;
    }
    Ok(())
}

/// The ordinary file that is covered, made if there is none. A link is never followed: who writes to
/// the volume may have put one there.
fn point(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let name = bytes(name)?;
    let found = match open(Some(directory), &name, libc::O_NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(directory, &name)?;
            open(Some(directory), &name, libc::O_NOFOLLOW)?
        }
        found => found?,
    };
    match kind(&found)? {
        libc::S_IFREG => Ok(found),
        libc::S_IFLNK => Err(io::Error::other("a link is in its place")),
        _ => Err(io::Error::other("what is in its place is no file")),
    }
}

/// Leaves the old root behind, which nothing leads to any more.
fn become_root(root: &OwnedFd) -> io::Result<()> {
    // SAFETY: the two paths are constants.
    unsafe {
        check(libc::fchdir(root.as_raw_fd()))?;
        // On top of itself (pivot_root(2)), from where the old one is taken away.
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as libc::c_int)?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))?;
    }
    mount(None, c"/", None, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | INERT, None)
}

fn directory(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let name = text(name)?;
    // SAFETY: the name outlives the calls.
    unsafe {
        check(libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755))?;
        // Whatever the mask of this process is: the guest's user goes through here.
        check(libc::fchmodat(parent.as_raw_fd(), name.as_ptr(), 0o755, 0))?;
    }
    open(Some(parent), &name, libc::O_DIRECTORY)
}

fn write(directory: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::from(create(directory, &text(name)?)?);
    io::Write::write_all(&mut file, content)
}

/// A new file.
fn create(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: the name outlives the call, and the descriptor is nobody else's.
    unsafe { descriptor(libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, 0o644)) }
}

/// Opens what a path names, in a directory or in the node's root, without any use of it.
fn open(at: Option<&OwnedFd>, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let at = at.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: the path outlives the call, and the descriptor is nobody else's.
    unsafe { descriptor(libc::openat(at, path.as_ptr(), flags | libc::O_PATH | libc::O_CLOEXEC)) }
}

/// # Safety
/// If it is one, the descriptor is nobody else's.
unsafe fn descriptor(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller says that it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The bits of a mode that tell a file from a directory.
fn kind(file: &OwnedFd) -> io::Result<libc::mode_t> {
    // SAFETY: all zeros are a value of it, which the kernel fills.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    check(unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_mode & libc::S_IFMT)
}

fn bind(source: &OwnedFd, target: &OwnedFd, flags: libc::c_ulong) -> io::Result<()> {
    mount(Some(&by_fd(source)?), &by_fd(target)?, None, libc::MS_BIND | flags, None)
}

/// What is not the root of a mount is refused by the kernel (EINVAL).
fn make_read_only(mounted: &OwnedFd) -> io::Result<()> {
    // SAFETY: all zeros are a value of it, which the kernel fills.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    check(unsafe { libc::fstatvfs(mounted.as_raw_fd(), &raw mut stat) })?;
    // What it has would be lost otherwise.
    let kept = stat.f_flag & INERT;
    let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | kept;
    mount(None, &by_fd(mounted)?, None, flags, None)
}

/// A name of the open file that no container can change.
fn by_fd(file: &OwnedFd) -> io::Result<CString> {
    text(&format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    let data = pointer(data).cast();
    // SAFETY: all strings outlive the call; where they are null, nothing is read.
    check(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, data) })
}

fn text(text: &str) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

fn bytes(name: &OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_bytes())?)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
        let opened = open(None, &bytes(dir.path().as_os_str()).expect("a path"), libc::O_DIRECTORY);
        let opened = opened.expect("a directory");
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
