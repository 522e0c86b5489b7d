//! Unpacks one layer into a directory of its own, ready to be a lower directory of an overlay.
//!
//! The tar is not trusted: every name is resolved inside the layer's directory by the kernel
//! (`openat2` with `RESOLVE_IN_ROOT`), the last step of a name is never followed, names with
//! `..` are refused, and bytes and entries are counted. Whiteouts
//! (<https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>) become what
//! overlayfs expects in their place. Devices are left out: a container gets its own from the node.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use rustix::fs::{XattrFlags, lsetxattr};
use rustix::io::Errno;
use sha2::Sha256;
use tar::{Entry, EntryType};

use super::archive::{self, Metered};
use super::error::{ImageError, at};
use super::layout::{Layout, digest_text};
use super::limits::{LIMIT_BYTES, LIMIT_ENTRIES, over_the_limit};
use super::tree::{self, OPAQUE_ATTRIBUTE, Tree};

const OPAQUE: &str = ".wh..wh..opq";
const WHITEOUT: &str = ".wh.";

/// What an image may still unpack to.
pub(super) struct Budget {
    left_bytes: u64,
    left_entries: u64,
    /// Device nodes that were not made.
    pub(super) devices_left_out: u64,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget { left_bytes: LIMIT_BYTES, left_entries: LIMIT_ENTRIES, devices_left_out: 0 }
    }

    fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.left_bytes = self.left_bytes.checked_sub(bytes).ok_or_else(over_the_limit)?;
        let left = self.left_entries.checked_sub(1);
        self.left_entries = left.ok_or_else(|| {
            io::Error::other(format!("the image has more than {LIMIT_ENTRIES} files and directories"))
        })?;
        Ok(())
    }
}

/// A layer to be unpacked.
pub(super) struct Layer<'a> {
    /// Its tar, compressed or not.
    pub(super) blob: &'a Path,
    /// Digest of the plain tar.
    pub(super) diff_id: &'a str,
    /// The layer and all below it: <https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>.
    pub(super) chain_id: &'a str,
    /// The layers below, unpacked, lowest first.
    pub(super) below: &'a [PathBuf],
}

/// Unpacks a layer unless that is done already; gives the directory. It belongs to the layers
/// below: directories that the layer does not list are as they are there.
pub(super) fn unpack(layout: &Layout, layer: &Layer<'_>, budget: &mut Budget) -> Result<PathBuf, ImageError> {
    let target = layout.layer(layer.chain_id)?;
    let diff_id = layer.diff_id;
    let check = |actual: Sha256| match digest_text(actual) {
        actual if actual == diff_id => Ok(()),
        actual => Err(ImageError::malformed(format!("layer {diff_id} unpacks to {actual}"))),
    };
    if target.is_dir() {
        // Whoever knows how another's layer is called need not have it.
        let stream = Metered::new(archive::open(layer.blob)?, budget.left_bytes);
        check(stream.finish().map_err(at(layer.blob))?)?;
        return Ok(target);
    }
    let temporary = layout.temporary_dir()?;
    let root = temporary.path().join("root");
    std::fs::create_dir(&root).map_err(at(&root))?;
    let root_fd = File::open(&root).map_err(at(&root))?;
    fchmodat(AT_FDCWD, &root, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)
        .map_err(|e| at(&root)(e.into()))?;
    let below = Tree::new(layer.below);
    if let Some(model) = below.directory(Path::new("")).map_err(at(&root))? {
        let dir = File::open(temporary.path()).map_err(at(&root))?;
        copy_metadata(&model, dir.as_fd(), Path::new("root")).map_err(at(&root))?;
    }
    let mut stream = Metered::new(archive::open(layer.blob)?, budget.left_bytes);
    let mut extraction = Extraction {
        root: root_fd.as_fd(),
        below,
        budget,
        directories: Vec::new(),
        left_out: BTreeSet::new(),
    };
    extraction
        .run(&mut stream)
        .map_err(|e| ImageError::malformed(format!("failed to unpack layer {diff_id}: {e}")))?;
    check(stream.finish().map_err(at(layer.blob))?)?;
    nix::unistd::syncfs(&root_fd).map_err(|e| at(&root)(e.into()))?;
    match std::fs::rename(&root, &target) {
        Err(_) if target.is_dir() => Ok(target), // someone else was faster
        result => result.map(|()| target.clone()).map_err(at(&target)),
    }
}

struct Extraction<'a> {
    root: BorrowedFd<'a>,
    below: Tree<'a>,
    budget: &'a mut Budget,
    /// Directories and their times, which are set last: what is put into them changes them.
    directories: Vec<(PathBuf, TimeSpec)>,
    /// Devices that were not made, as there may be links to them.
    left_out: BTreeSet<PathBuf>,
}

impl Extraction<'_> {
    fn run(&mut self, stream: &mut impl Read) -> io::Result<()> {
        archive::for_each_entry(stream, |entry| {
            let name = entry.path()?.into_owned();
            self.extract(entry, &name)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", name.display())))
        })?;
        for (path, time) in self.directories.iter().rev() {
            set_time(self.root, path, *time)?;
        }
        Ok(())
    }

    fn extract(&mut self, entry: &mut Entry<'_, impl Read>, name: &Path) -> io::Result<()> {
        let path = steps(name)?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        self.budget.take(entry.size())?;
        let Some(last) = path.file_name().map(OsStr::to_owned) else {
            return apply_metadata(entry, self.root, Path::new("."), kind);
        };
        let parent = self.open_parent(path.parent().unwrap_or(Path::new("")))?;
        let dir = parent.as_fd();
        let last = Path::new(&last);
        if let Some(hidden) = last.to_str().and_then(|l| l.strip_prefix(WHITEOUT)) {
            return if last.as_os_str() == OPAQUE { make_opaque(dir) } else { make_whiteout(dir, hidden) };
        }
        if kind != EntryType::Directory {
            remove(dir, last)?;
        }
        match kind {
            EntryType::Directory => {
                make_directory(dir, last)?;
                self.directories.push((path.clone(), modified(entry)?));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => make_file(entry, dir, last)?,
            EntryType::Symlink => {
                let to = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
                symlinkat(&*to, dir, last)?;
            }
            // Owner, mode and times are those of the target.
            EntryType::Link => return self.make_link(entry, &path, dir, last),
            EntryType::Fifo => {
                mknodat(dir, last, SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)?;
            }
            // A whiteout as overlayfs knows it, which has no mode nor owner that matters.
            EntryType::Char if device(entry) == Some((0, 0)) => return make_node_of_whiteout(dir, last),
            EntryType::Char | EntryType::Block => {
                self.budget.devices_left_out += 1;
                self.left_out.insert(path);
                return Ok(());
            }
            other => return Err(io::Error::other(format!("unsupported tar entry type {other:?}"))),
        }
        apply_metadata(entry, dir, last, kind)
    }

    fn make_link(
        &mut self,
        entry: &Entry<'_, impl Read>,
        path: &Path,
        dir: BorrowedFd<'_>,
        last: &Path,
    ) -> io::Result<()> {
        let to = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
        let to = steps(&to)?;
        if self.left_out.contains(&to) {
            self.left_out.insert(path.to_owned());
            return Ok(());
        }
        let to_dir = self.open_parent(to.parent().unwrap_or(Path::new("")))?;
        let to_last = to.file_name().ok_or_else(|| io::Error::other("a link to nothing"))?;
        linkat(&to_dir, Path::new(to_last), dir, last, AtFlags::empty())?;
        Ok(())
    }

    /// Opens the directory `path` inside the root, making what is missing of it as it is in the
    /// layers below.
    fn open_parent(&self, path: &Path) -> io::Result<OwnedFd> {
        match open_in_root(self.root, path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && path.file_name().is_some() => {
                let above = self.open_parent(path.parent().unwrap_or(Path::new("")))?;
                let last = Path::new(path.file_name().unwrap_or_default());
                mkdirat(&above, last, Mode::from_bits_truncate(0o755))?;
                if let Some(model) = self.below.directory(path)? {
                    copy_metadata(&model, above.as_fd(), last)?;
                }
                open_in_root(self.root, path)
            }
            other => other,
        }
    }
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

/// Major and minor number of a device; blank fields are 0.
fn device(entry: &Entry<'_, impl Read>) -> Option<(u32, u32)> {
    let header = entry.header();
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Some((0, 0)),
    };
    Some((octal(major)?, octal(minor)?))
}

fn octal(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u32::from_str_radix(text, 8).ok() }
}

fn open_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(openat2(root, name, how)?)
}

/// Writes a file; what is zero becomes a hole.
fn make_file(entry: &mut Entry<'_, impl Read>, dir: BorrowedFd<'_>, last: &Path) -> io::Result<()> {
    for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
        // In this form the file's map is part of its content.
        if extension.key_bytes().starts_with(b"GNU.sparse.") {
            return Err(io::Error::other("sparse files in PAX form are not supported"));
        }
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, last, flags, Mode::from_bits_truncate(0o600))?);
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        let got = entry.read(&mut buffer)?;
        if got == 0 {
            return file.set_len(length);
        }
        length += got as u64;
        match buffer[..got].iter().all(|byte| *byte == 0) {
            true => drop(file.seek(SeekFrom::Start(length))?),
            false => file.write_all(&buffer[..got])?,
        }
    }
}

fn make_directory(dir: BorrowedFd<'_>, last: &Path) -> io::Result<()> {
    match mkdirat(dir, last, Mode::from_bits_truncate(0o755)) {
        Err(nix::errno::Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            match openat(dir, last, flags, Mode::empty()) {
                Ok(_) => Ok(()),
                Err(_) => {
                    unlinkat(dir, last, UnlinkatFlags::NoRemoveDir)?;
                    Ok(mkdirat(dir, last, Mode::from_bits_truncate(0o755))?)
                }
            }
        }
        other => Ok(other?),
    }
}

/// An earlier entry of the same name makes way for a later one.
fn remove(dir: BorrowedFd<'_>, last: &Path) -> io::Result<()> {
    match unlinkat(dir, last, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(nix::errno::Errno::EISDIR) => Ok(unlinkat(dir, last, UnlinkatFlags::RemoveDir)?),
        Err(errno) => Err(errno.into()),
    }
}

/// What overlayfs takes for "the lower layers' entry is gone": a character device 0:0.
fn make_whiteout(dir: BorrowedFd<'_>, hidden: &str) -> io::Result<()> {
    remove(dir, Path::new(hidden))?;
    make_node_of_whiteout(dir, Path::new(hidden))
}

fn make_node_of_whiteout(dir: BorrowedFd<'_>, last: &Path) -> io::Result<()> {
    Ok(mknodat(dir, last, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?)
}

fn make_opaque(dir: BorrowedFd<'_>) -> io::Result<()> {
    set_xattr(dir, Path::new("."), OPAQUE_ATTRIBUTE, b"y")
}

fn modified(entry: &Entry<'_, impl Read>) -> io::Result<TimeSpec> {
    Ok(TimeSpec::new(i64::try_from(entry.header().mtime()?).unwrap_or(0), 0))
}

fn set_time(root: BorrowedFd<'_>, path: &Path, time: TimeSpec) -> io::Result<()> {
    let parent = open_in_root(root, path.parent().unwrap_or(Path::new("")))?;
    let Some(last) = path.file_name() else { return Ok(()) };
    Ok(utimensat(&parent, Path::new(last), &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Makes a directory what another is, but for its content.
fn copy_metadata(model: &File, dir: BorrowedFd<'_>, last: &Path) -> io::Result<()> {
    let metadata = model.metadata()?;
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    fchownat(dir, last, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_bits_truncate(metadata.mode() & 0o7777);
    fchmodat(dir, last, mode, FchmodatFlags::FollowSymlink)?;
    for name in tree::attributes(model) {
        // overlayfs' own are about the layer that they are in.
        if let Some(value) = tree::attribute(model, &name).filter(|_| !name.starts_with(b"trusted.")) {
            set_xattr(dir, last, &CString::new(name)?, &value)?;
        }
    }
    let time = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
    Ok(utimensat(dir, last, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Owner first, as a change of owner clears setuid bits and capabilities.
fn apply_metadata(
    entry: &mut Entry<'_, impl Read>,
    dir: BorrowedFd<'_>,
    last: &Path,
    kind: EntryType,
) -> io::Result<()> {
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("owner out of range"));
    let uid = Uid::from_raw(id(entry.header().uid()?)?);
    let gid = Gid::from_raw(id(entry.header().gid()?)?);
    fchownat(dir, last, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        let mode = Mode::from_bits_truncate(entry.header().mode()? & 0o7777);
        fchmodat(dir, last, mode, FchmodatFlags::FollowSymlink)?;
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
    Ok(utimensat(dir, last, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn set_xattr(dir: BorrowedFd<'_>, last: &Path, attribute: &CStr, value: &[u8]) -> io::Result<()> {
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(last);
    match lsetxattr(path, attribute, value, XattrFlags::empty()) {
        // The disk under the store may not keep attributes; the file itself is fine.
        Err(Errno::NOTSUP) if !attribute.to_bytes().starts_with(b"trusted.") => Ok(()),
        set => Ok(set?),
    }
}
