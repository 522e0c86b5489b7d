//! Where the store keeps what, and how a file gets there whole.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use oci_client::manifest::OciImageManifest;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::error::{ImageError, at};
use super::record::Image;
use super::workspace;

/// No manifest or configuration of an image is larger.
pub(super) const METADATA_LIMIT_BYTES: u64 = 4 << 20;
/// No record of an image is larger; most of it is the image's environment and command.
const RECORD_LIMIT_BYTES: u64 = 1 << 20;

/// The directories of the store.
#[derive(Clone)]
pub(super) struct Layout {
    dir: PathBuf,
    /// Where things are made before they get their names.
    temporary: PathBuf,
    /// What [`Layout::sizes`] has found, by the records' file names.
    sizes: Arc<Mutex<Sizes>>,
}

/// By the file name of a record: as which the record was read, and the name and size it tells.
type Sizes = HashMap<OsString, (Stamp, (String, u64))>;

/// What changes with a file: its inode, when it was written, and its size.
#[derive(PartialEq)]
struct Stamp(u64, i64, i64, u64);

/// A blob on its way in: hashed while it is written, named when it is whole.
pub(super) struct NewBlob {
    file: tempfile::NamedTempFile,
    hash: Sha256,
    size_bytes: u64,
}

impl Layout {
    pub(super) fn open(dir: &Path) -> Result<Self, ImageError> {
        for part in ["refs", "blobs/sha256", "layers", "tmp"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        Ok(Layout { dir: dir.to_owned(), temporary: dir.join("tmp"), sizes: Arc::default() })
    }

    /// The same store, to which things come by way of this directory.
    pub(super) fn by_way_of(self, temporary: &Path) -> Self {
        Layout { temporary: temporary.to_owned(), ..self }
    }

    /// Held while blobs come in, so that a removal does not sweep them away.
    pub(super) fn lock_shared(&self) -> Result<Flock<File>, ImageError> {
        self.lock(FlockArg::LockShared)
    }

    /// Held while blobs are removed.
    pub(super) fn lock_exclusive(&self) -> Result<Flock<File>, ImageError> {
        self.lock(FlockArg::LockExclusive)
    }

    /// [`Layout::lock_exclusive`] unless somebody is at work.
    pub(super) fn try_lock_exclusive(&self) -> Result<Option<Flock<File>>, ImageError> {
        let path = self.dir.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(at(&path)(errno.into())),
        }
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>, ImageError> {
        let path = self.dir.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        Flock::lock(file, how).map_err(|(_, errno)| at(&path)(errno.into()))
    }

    fn record_path(&self, reference: &str) -> PathBuf {
        self.dir.join("refs").join(file_name(reference))
    }

    pub(super) fn record(&self, reference: &str) -> Option<Image> {
        read_record(&self.record_path(reference))
    }

    /// All images, in no order, each read when it is its turn: together they may be large.
    pub(super) fn records(&self) -> impl Iterator<Item = Image> {
        let entries = fs::read_dir(self.dir.join("refs")).into_iter().flatten().flatten();
        entries.filter_map(|entry| read_record(&entry.path()))
    }

    /// Names an image whose blobs and layers are all there.
    pub(super) fn record_image(&self, image: &Image) -> Result<(), ImageError> {
        let path = self.record_path(&image.reference);
        let bytes = serde_json::to_vec_pretty(image).map_err(|e| at(&path)(e.into()))?;
        if bytes.len() as u64 > RECORD_LIMIT_BYTES {
            return Err(ImageError::malformed("the image's configuration is larger than 1 MiB"));
        }
        let mut file = self.temporary_file()?;
        file.write_all(&bytes).map_err(at(&path))?;
        self.publish(file, &path)
    }

    pub(super) fn forget(&self, reference: &str) -> Result<(), ImageError> {
        let path = self.record_path(reference);
        fs::remove_file(&path).map_err(at(&path))
    }

    /// Removes what killed transfers left. Waits until nobody is at work.
    pub(super) fn sweep_temporary(&self) -> Result<(), ImageError> {
        let _lock = self.lock_exclusive()?;
        self.sweep_temporary_locked()
    }

    /// The same for somebody who has [`Layout::lock_exclusive`].
    pub(super) fn sweep_temporary_locked(&self) -> Result<(), ImageError> {
        let dir = self.dir.join("tmp");
        for entry in fs::read_dir(&dir).map_err(at(&dir))? {
            let path = entry.map_err(at(&dir))?.path();
            // A pull that is about to begin has its workspace, and not yet the store's lock: that stays.
            if workspace::is_free(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the blobs and layers for which `is_useless` is true of where they lie and of their
    /// digest without its kind.
    pub(super) fn sweep(&self, mut is_useless: impl FnMut(&Path, &str) -> bool) -> Result<(), ImageError> {
        for part in ["blobs/sha256", "layers"] {
            let dir = self.dir.join(part);
            for entry in fs::read_dir(&dir).map_err(at(&dir))? {
                let entry = entry.map_err(at(&dir))?;
                let path = entry.path();
                if is_useless(&path, &entry.file_name().to_string_lossy()) {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Name and size of each image. Records are read again only when they have changed: there may
    /// be many, and not small.
    pub(super) fn sizes(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.dir.join("refs")).into_iter().flatten().flatten();
        let mut known = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = HashMap::new();
        for entry in entries {
            let Ok(meta) = entry.metadata() else { continue };
            let stamp = Stamp(meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
            let one = match known.remove(&entry.file_name()) {
                Some((old, one)) if old == stamp => one,
                _ => match read_record(&entry.path()) {
                    Some(image) => (image.reference, image.size_bytes),
                    None => continue,
                },
            };
            found.insert(entry.file_name(), (stamp, one));
        }
        *known = found;
        known.values().map(|(_, one)| one.clone()).collect()
    }

    /// When an image was recorded last.
    pub(super) fn recorded_at(&self, reference: &str) -> Option<SystemTime> {
        fs::metadata(self.record_path(reference)).and_then(|meta| meta.modified()).ok()
    }

    /// Where the blob with this digest is or would be. A digest that is none is refused, as it
    /// becomes part of a path.
    pub(super) fn blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        Ok(self.dir.join("blobs/sha256").join(hex_of(digest)?))
    }

    /// Where the unpacked layer that tops this chain is or would be.
    pub(super) fn layer(&self, chain_id: &str) -> Result<PathBuf, ImageError> {
        Ok(self.layers().join(hex_of(chain_id)?))
    }

    /// Where all unpacked layers are.
    pub(super) fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// The name of the layer in which this path lies.
    pub(super) fn layer_of(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix(self.layers()).ok()?;
        Some(inside.components().next()?.as_os_str().to_string_lossy().into_owned())
    }

    pub(super) fn temporary_dir(&self) -> Result<tempfile::TempDir, ImageError> {
        tempfile::tempdir_in(&self.temporary).map_err(at(&self.temporary))
    }

    fn temporary_file(&self) -> Result<tempfile::NamedTempFile, ImageError> {
        tempfile::NamedTempFile::new_in(&self.temporary).map_err(at(&self.temporary))
    }

    fn publish(&self, file: tempfile::NamedTempFile, path: &Path) -> Result<(), ImageError> {
        file.as_file().sync_all().map_err(at(path))?;
        file.persist(path).map_err(|e| at(path)(e.error))?;
        Ok(())
    }

    pub(super) fn new_blob(&self) -> Result<NewBlob, ImageError> {
        Ok(NewBlob { file: self.temporary_file()?, hash: Sha256::new(), size_bytes: 0 })
    }

    /// Names a blob by what was written. With an `expected` digest, anything else is refused.
    pub(super) fn finish_blob(
        &self,
        blob: NewBlob,
        expected: Option<&str>,
    ) -> Result<(String, u64), ImageError> {
        let digest = digest_text(blob.hash);
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(ImageError::malformed(format!(
                "the content of blob {expected} does not match its digest: it is {digest}"
            )));
        }
        self.publish(blob.file, &self.blob(&digest)?)?;
        Ok((digest, blob.size_bytes))
    }

    /// Keeps these bytes; gives their digest.
    pub(super) fn put_blob(&self, bytes: &[u8]) -> Result<String, ImageError> {
        let mut blob = self.new_blob()?;
        blob.write_all(bytes).map_err(at(&self.dir))?;
        Ok(self.finish_blob(blob, None)?.0)
    }

    /// Keeps `value` as JSON; gives digest and size.
    pub(super) fn put_json(&self, value: &impl Serialize) -> Result<(String, u64), ImageError> {
        let bytes = serde_json::to_vec(value).map_err(|e| ImageError::malformed(e.to_string()))?;
        Ok((self.put_blob(&bytes)?, bytes.len() as u64))
    }

    /// A small blob's bytes.
    pub(super) fn read_blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest)?;
        read_limited(&path, METADATA_LIMIT_BYTES).map_err(at(&path))
    }

    pub(super) fn manifest(&self, digest: &str) -> Result<OciImageManifest, ImageError> {
        serde_json::from_slice(&self.read_blob(digest)?)
            .map_err(|e| ImageError::malformed(format!("manifest {digest}: {e}")))
    }
}

impl Write for NewBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewBlob {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

fn remove(path: &Path) -> Result<(), ImageError> {
    let is_tree = path.is_dir() && !path.is_symlink();
    if is_tree { proa_sandbox::remove::remove_tree(path) } else { fs::remove_file(path) }.map_err(at(path))
}

/// A name as that of a file.
pub(super) fn file_name(reference: &str) -> String {
    format!("{}.json", reference.replace('%', "%25").replace('/', "%2F"))
}

fn read_record(path: &Path) -> Option<Image> {
    serde_json::from_slice(&read_limited(path, RECORD_LIMIT_BYTES).ok()?).ok()
}

/// A small file's bytes; a larger one than that is an error.
pub(super) fn read_limited(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(io::Error::other(format!("larger than {limit_bytes} bytes")));
    }
    Ok(bytes)
}

pub(super) fn digest_text(hash: Sha256) -> String {
    format!("sha256:{}", hex_text(hash))
}

pub(super) fn hex_text(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A digest without its kind.
pub(super) fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// The same, where it must be a digest of the one supported kind.
pub(super) fn hex_of(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        .ok_or_else(|| ImageError::malformed(format!("unsupported digest \"{digest}\": only sha256 is")))
}
