//! Unpacks one layer into a directory of its own, ready to be a lower directory of an overlay.
//!
//! The tar is not trusted: every name is resolved inside the layer's directory by the kernel
//! (`openat2` with `RESOLVE_IN_ROOT`), the last step of a name is never followed, names with
//! `..` are refused, and bytes and entries are counted. Whiteouts
//! (<https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>) become what
//! overlayfs expects in their place.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Entry, EntryType};

use super::archive::{self, Metered};
use super::layout::{Layout, digest_text};
use super::{ImageError, at};

/// More than any sane layer, less than fills a disk unnoticed.
const LIMIT_BYTES: u64 = 32 << 30;
const LIMIT_ENTRIES: usize = 2_000_000;

const OPAQUE: &str = ".wh..wh..opq";
const WHITEOUT: &str = ".wh.";

/// Unpacks a layer blob unless that is done already; gives the directory.
pub(super) fn unpack(layout: &Layout, blob: &Path, diff_id: &str) -> Result<PathBuf, ImageError> {
    let target = layout.layer(diff_id)?;
    if target.is_dir() {
        return Ok(target);
    }
    let temporary = layout.temporary_dir()?;
    let root = temporary.path().join("root");
    std::fs::create_dir(&root).map_err(at(&root))?;
    let root_fd = File::open(&root).map_err(at(&root))?;
    fchmodat(None, &root, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)
        .map_err(|e| at(&root)(e.into()))?;
    let mut stream = Metered::new(archive::open(blob)?, LIMIT_BYTES);
    extract(&mut stream, root_fd.as_raw_fd())
        .map_err(|e| ImageError::malformed(format!("failed to unpack layer {diff_id}: {e}")))?;
    let actual = digest_text(stream.finish().map_err(at(blob))?);
    if actual != diff_id {
        return Err(ImageError::malformed(format!("layer {diff_id} unpacks to {actual}")));
    }
    nix::unistd::syncfs(root_fd.as_raw_fd()).map_err(|e| at(&root)(e.into()))?;
    match std::fs::rename(&root, &target) {
        Err(_) if target.is_dir() => Ok(target), // someone else was faster
        result => result.map(|()| target.clone()).map_err(at(&target)),
    }
}

fn extract(stream: &mut impl Read, root: RawFd) -> io::Result<()> {
    let mut archive = tar::Archive::new(stream);
    let mut directories = Vec::new();
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= LIMIT_ENTRIES {
            return Err(io::Error::other("the layer has too many entries"));
        }
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        extract_entry(&mut entry, &name, root, &mut directories)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", name.display())))?;
    }
    // Times of directories last: what was put into them has changed them.
    for (path, time) in directories.iter().rev() {
        set_time(root, path, *time)?;
    }
    Ok(())
}

/// The steps of a name below the root. A name that climbs is refused rather than clipped: no
/// honest archive has one.
fn steps(name: &Path) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(step) => path.push(step),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("the name climbs out of the layer"));
            }
        }
    }
    Ok(path)
}

fn extract_entry(
    entry: &mut Entry<'_, impl Read>,
    name: &Path,
    root: RawFd,
    directories: &mut Vec<(PathBuf, TimeSpec)>,
) -> io::Result<()> {
    let path = steps(name)?;
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let Some(last) = path.file_name().map(OsStr::to_owned) else {
        return apply_metadata(entry, root, Path::new("."), kind);
    };
    let parent = open_parent(root, path.parent().unwrap_or(Path::new("")))?;
    let dir = parent.as_raw_fd();
    let last = Path::new(&last);
    if let Some(hidden) = last.to_str().and_then(|l| l.strip_prefix(WHITEOUT)) {
        return if last.as_os_str() == OPAQUE { make_opaque(dir) } else { make_whiteout(dir, hidden) };
    }
    if kind != EntryType::Directory {
        remove(dir, last)?;
    }
    match kind {
        EntryType::Directory => make_directory(dir, last)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(Some(dir), last, flags, Mode::from_bits_truncate(0o600))?;
            // SAFETY: openat has just made this descriptor and nothing else owns it.
            let mut file = unsafe { File::from_raw_fd(fd) };
            io::copy(entry, &mut file)?;
        }
        EntryType::Symlink => {
            let to = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
            symlinkat(&*to, Some(dir), last)?;
        }
        EntryType::Link => {
            let to = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
            let to = steps(&to)?;
            let to_dir = open_parent(root, to.parent().unwrap_or(Path::new("")))?;
            let to_last = to.file_name().ok_or_else(|| io::Error::other("a link to nothing"))?;
            linkat(Some(to_dir.as_raw_fd()), Path::new(to_last), Some(dir), last, AtFlags::empty())?;
            return Ok(()); // owner, mode and times are those of the target
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => make_node(entry, dir, last, kind)?,
        other => return Err(io::Error::other(format!("unsupported tar entry type {other:?}"))),
    }
    if kind == EntryType::Directory {
        directories.push((path.clone(), modified(entry)?));
    }
    apply_metadata(entry, dir, last, kind)
}

/// Opens the directory `path` inside the root, making what is missing of it.
fn open_parent(root: RawFd, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match openat2(root, name, how) {
        // SAFETY: openat2 has just made this descriptor and nothing else owns it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(nix::errno::Errno::ENOENT) if path.file_name().is_some() => {
            let above = open_parent(root, path.parent().unwrap_or(Path::new("")))?;
            let last = Path::new(path.file_name().unwrap_or_default());
            mkdirat(Some(above.as_raw_fd()), last, Mode::from_bits_truncate(0o755))?;
            open_parent(root, path)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn make_directory(dir: RawFd, last: &Path) -> io::Result<()> {
    match mkdirat(Some(dir), last, Mode::from_bits_truncate(0o755)) {
        Err(nix::errno::Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            match openat(Some(dir), last, flags, Mode::empty()) {
                Ok(fd) => Ok(nix::unistd::close(fd)?),
                Err(_) => {
                    unlinkat(Some(dir), last, UnlinkatFlags::NoRemoveDir)?;
                    Ok(mkdirat(Some(dir), last, Mode::from_bits_truncate(0o755))?)
                }
            }
        }
        other => Ok(other?),
    }
}

fn make_node(entry: &Entry<'_, impl Read>, dir: RawFd, last: &Path, kind: EntryType) -> io::Result<()> {
    let header = entry.header();
    let flag = match kind {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let device =
        makedev(header.device_major()?.unwrap_or(0).into(), header.device_minor()?.unwrap_or(0).into());
    Ok(mknodat(Some(dir), last, flag, Mode::from_bits_truncate(0o600), device)?)
}

/// An earlier entry of the same name makes way for a later one.
fn remove(dir: RawFd, last: &Path) -> io::Result<()> {
    match unlinkat(Some(dir), last, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(nix::errno::Errno::EISDIR) => Ok(unlinkat(Some(dir), last, UnlinkatFlags::RemoveDir)?),
        Err(errno) => Err(errno.into()),
    }
}

/// What overlayfs takes for "the lower layers' entry is gone": a character device 0:0.
fn make_whiteout(dir: RawFd, hidden: &str) -> io::Result<()> {
    remove(dir, Path::new(hidden))?;
    Ok(mknodat(Some(dir), hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?)
}

/// What overlayfs takes for "nothing of the lower layers' directory shows through".
fn make_opaque(dir: RawFd) -> io::Result<()> {
    set_xattr(dir, Path::new("."), c"trusted.overlay.opaque", b"y")
}

fn modified(entry: &Entry<'_, impl Read>) -> io::Result<TimeSpec> {
    Ok(TimeSpec::new(i64::try_from(entry.header().mtime()?).unwrap_or(0), 0))
}

fn set_time(dir: RawFd, path: &Path, time: TimeSpec) -> io::Result<()> {
    let parent = open_parent(dir, path.parent().unwrap_or(Path::new("")))?;
    let Some(last) = path.file_name() else { return Ok(()) };
    Ok(utimensat(Some(parent.as_raw_fd()), Path::new(last), &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Owner first, as a change of owner clears setuid bits and capabilities.
fn apply_metadata(
    entry: &mut Entry<'_, impl Read>,
    dir: RawFd,
    last: &Path,
    kind: EntryType,
) -> io::Result<()> {
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("owner out of range"));
    let uid = Uid::from_raw(id(entry.header().uid()?)?);
    let gid = Gid::from_raw(id(entry.header().gid()?)?);
    fchownat(Some(dir), last, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        let mode = Mode::from_bits_truncate(entry.header().mode()? & 0o7777);
        fchmodat(Some(dir), last, mode, FchmodatFlags::FollowSymlink)?;
    }
    let time = modified(entry)?;
    for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
        let Some(attribute) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) else {
            continue;
        };
        // An image's own overlay attributes would act on the node's overlay.
        if !attribute.starts_with("trusted.") {
            set_xattr(dir, last, &CString::new(attribute)?, extension.value_bytes())?;
        }
    }
    Ok(utimensat(Some(dir), last, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn set_xattr(dir: RawFd, last: &Path, attribute: &CStr, value: &[u8]) -> io::Result<()> {
    let path = format!("/proc/self/fd/{dir}/");
    let path = CString::new([path.as_bytes(), last.as_os_str().as_bytes()].concat())?;
    // SAFETY: all pointers are to live, terminated or sized buffers.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // The disk under the store may not keep attributes; the file itself is fine.
            error
                if error.raw_os_error() == Some(libc::ENOTSUP)
                    && !attribute.to_bytes().starts_with(b"trusted.") =>
            {
                Ok(())
            }
            error => Err(error),
        },
    }
}
