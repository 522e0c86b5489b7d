//! Looks into an image's layers as the container will see them, without mounting them.
//!
//! What a layer holds is not trusted: a name is walked step by step, each step opened inside its
//! layer by the kernel (`openat2`), and links are followed within the image only.
//! Whiteouts and opaque directories are those of `unpack.rs`.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use rustix::fs::{fgetxattr, flistxattr};

/// Links in one name that are followed, as many as Linux does.
const LINKS: usize = 40;

/// What overlayfs takes for "nothing of the lower layers' directory shows through".
pub(super) const OPAQUE_ATTRIBUTE: &CStr = c"trusted.overlay.opaque";

/// The layers of an image, lowest first.
pub struct Tree<'a> {
    layers: &'a [PathBuf],
}

/// Something in the tree.
struct Found {
    /// Which layer has it.
    layer: usize,
    /// Where in that layer; no step of it is a link.
    path: PathBuf,
    file: File,
}

impl<'a> Tree<'a> {
    /// The tree that these layers make, lowest first.
    pub fn new(layers: &'a [PathBuf]) -> Self {
        Tree { layers }
    }

    /// A regular file's bytes, none if there is no such file. A longer one than that is an error.
    pub fn read(&self, path: &str, limit_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some((_, file)) = self.file(Path::new(path))? {
            file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
        }
        if bytes.len() as u64 > limit_bytes {
            let text = format!("/{path} of the image is larger than {limit_bytes} bytes");
            return Err(io::Error::other(text));
        }
        Ok(bytes)
    }

    /// A regular file and where it lies on the node.
    pub(super) fn file(&self, path: &Path) -> io::Result<Option<(PathBuf, File)>> {
        let Some(found) = self.walk(path)? else { return Ok(None) };
        if !found.file.metadata()?.is_file() {
            return Ok(None);
        }
        let file = open(&self.layers[found.layer], &found.path, OFlag::O_RDONLY)?;
        Ok(Some((self.layers[found.layer].join(&found.path), file)))
    }

    /// A directory, opened for reading.
    pub(super) fn directory(&self, path: &Path) -> io::Result<Option<File>> {
        let Some(found) = self.walk(path)? else { return Ok(None) };
        if !found.file.metadata()?.is_dir() {
            return Ok(None);
        }
        open(&self.layers[found.layer], &found.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map(Some)
    }

    fn walk(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut pending = steps(path);
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(step) = pending.pop_front() {
            if step == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&step);
            let Some(found) = self.entry(&next)? else { return Ok(None) };
            let kind = found.file.metadata()?.file_type();
            if kind.is_symlink() {
                links += 1;
                if links > LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let to = PathBuf::from(readlinkat(&found.file, "")?);
                if to.is_absolute() {
                    done = PathBuf::new();
                }
                let mut ahead = steps(&to);
                ahead.append(&mut pending);
                pending = ahead;
            } else if pending.is_empty() || kind.is_dir() {
                done = next;
            } else {
                return Ok(None);
            }
        }
        self.entry(&done)
    }

    /// The uppermost entry of this name, in which no step is a link; `None` if upper layers hide
    /// it.
    fn entry(&self, path: &Path) -> io::Result<Option<Found>> {
        for (layer, root) in self.layers.iter().enumerate().rev() {
            let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            match open(root, name, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Ok(file) => {
                    let metadata = file.metadata()?;
                    let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
                    return Ok((!whiteout).then(|| Found { layer, path: name.to_owned(), file }));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    if path.ancestors().skip(1).any(|above| is_opaque(root, above)) {
                        return Ok(None);
                    }
                }
                // A file, a whiteout or a link stands where the lower layers have a directory.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |component: Component<'_>| match component {
        Component::Normal(step) => Some(step.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(step).collect()
}

/// Opens what a layer has under this name; a link in it is an error, and so is what blocks.
fn open(root: &Path, path: &Path, flags: OFlag) -> io::Result<File> {
    let root = File::open(root)?;
    // O_PATH opens nothing that could block, and the kernel refuses the two together.
    let nonblocking = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NONBLOCK };
    let how = OpenHow::new().flags(flags | nonblocking | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    Ok(openat2(&root, path, how)?.into())
}

fn is_opaque(root: &Path, dir: &Path) -> bool {
    let name = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(dir) = open(root, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return false };
    attribute(&dir, OPAQUE_ATTRIBUTE.to_bytes()).is_some_and(|value| value == b"y")
}

/// An extended attribute of an open file, if it is set and of a sane size.
pub(super) fn attribute(file: &File, name: &[u8]) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let got = fgetxattr(file, name, &mut value).ok()?;
    value.truncate(got);
    Some(value)
}

/// The names of an open file's extended attributes.
pub(super) fn attributes(file: &File) -> Vec<Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let got = flistxattr(file, &mut names).unwrap_or(0);
    names.truncate(got);
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Layers below `dir`, each from its entries: `path` is a directory, `path=text` a file,
    /// `path>target` a link, `path!` a whiteout, `path|` a FIFO.
    fn layers(dir: &Path, texts: &[&[&str]]) -> Vec<PathBuf> {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let make = |(index, entries): (usize, &&[&str])| {
            let layer = dir.join(index.to_string());
            fs::create_dir_all(&layer).unwrap();
            for entry in *entries {
                if let Some((name, text)) = entry.split_once('=') {
                    fs::write(layer.join(name), text).unwrap();
                } else if let Some((name, target)) = entry.split_once('>') {
                    symlink(target, layer.join(name)).unwrap();
                } else if let Some(name) = entry.strip_suffix('!') {
                    let kind = (SFlag::S_IFCHR, Mode::empty());
                    mknod(&layer.join(name), kind.0, kind.1, makedev(0, 0)).unwrap();
                } else if let Some(name) = entry.strip_suffix('|') {
                    nix::unistd::mkfifo(&layer.join(name), Mode::S_IRUSR).unwrap();
                } else {
                    fs::create_dir_all(layer.join(entry)).unwrap();
                }
            }
            layer
        };
        texts.iter().enumerate().map(make).collect()
    }

    #[test]
    fn files_are_found_inside_the_image_only() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("passwd"), "of the node").unwrap();
        let out = outside.path().display();
        for (name, texts, found) in [
            ("plain", &[&["etc", "etc/passwd=a"][..]][..], "a"),
            ("upper wins", &[&["etc", "etc/passwd=a"], &["etc", "etc/passwd=b"]], "b"),
            ("lower shows", &[&["etc", "etc/passwd=a"], &["etc", "etc/group=b"]], "a"),
            ("whiteout", &[&["etc", "etc/passwd=a"], &["etc", "etc/passwd!"]], ""),
            ("whiteout above", &[&["etc", "etc/passwd=a"], &["etc!"]], ""),
            ("etc is a link", &[&["usr/etc", "usr/etc/passwd=a", "etc>usr/etc"]], "a"),
            ("across layers", &[&["usr/etc", "usr/etc/passwd=a"], &["etc>/usr/etc"]], "a"),
            ("climbing", &[&["e", "e/passwd=a", "etc>../../../e"]], "a"),
            ("out by /etc", &[&[&format!("etc>{out}")]], ""),
            ("out by the file", &[&["etc", &format!("etc/passwd>{out}/passwd")]], ""),
            ("round", &[&["etc", "etc/passwd>passwd"]], "error"),
            ("fifo", &[&["etc", "etc/passwd|"]], ""),
            ("directory", &[&["etc/passwd"]], ""),
            ("nothing", &[&[]], ""),
            ("too long", &[&["etc", "etc/passwd=0123456789"]], "error"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let layers = layers(dir.path(), texts);
            let read = Tree::new(&layers).read("etc/passwd", 5);
            let text = read.map_or("error".to_owned(), |b| String::from_utf8(b).unwrap());
            assert_eq!(text, found, "{name}");
        }
    }

    #[test]
    fn an_opaque_directory_hides_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path(), &[&["etc", "etc/passwd=a"], &["etc"]]);
        let etc = layers[1].join("etc");
        rustix::fs::lsetxattr(etc, OPAQUE_ATTRIBUTE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(Tree::new(&layers).read("etc/passwd", 5).unwrap(), b"");
    }
}
