//! Images: what containers are made of, kept in `DATA/images`.
//!
//! Fed by registries, archives and directories; read by the node agent and by `proa image`.
//! All state is files, each complete when its name appears, so that the running node and the
//! command line may use the store at the same time. Nothing here runs an image.
//!
//! ```text
//! refs/<reference>.json     one record for each name: the resolved image
//! blobs/sha256/<hex>        manifests, configurations, layers and Wasm files as registries hold them
//! layers/<hex>/             a layer unpacked, under the digest of its chain: itself and those below
//! failures/<reference>.json an image that broke the process that pulled it
//! tmp/                      what is on its way in
//! ```

mod address;
mod answer;
mod archive;
mod error;
mod failures;
pub mod fetch;
mod import;
mod layout;
mod limits;
mod pack;
mod platform;
mod pull;
mod push;
mod recognize;
mod record;
mod reference;
mod registry;
mod transfer;
pub mod tree;
mod unpack;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use error::ImageError;
pub use pack::PackOptions;
pub use record::{Content, Image, ImageConfig};
pub use reference::{insecure_registry, normalize};
pub use transfer::{Credentials, Progress};

use error::at;
use failures::Failures;
use layout::Layout;

use crate::node::paths::Paths;

/// The images of one node.
#[derive(Clone)]
pub struct ImageStore {
    dir: PathBuf,
    layout: Layout,
    failures: Failures,
    /// Where compiled Wasm lies.
    compiled: PathBuf,
    /// Registries that are spoken to without TLS.
    insecure: Vec<String>,
}

impl ImageStore {
    /// Opens the store of this data directory, making it if it is not there. Of registries that
    /// are not on this machine, only those in `insecure` are spoken to without TLS.
    pub fn open(paths: &Paths, insecure: &[String]) -> Result<Self, ImageError> {
        let dir = paths.images();
        Ok(ImageStore {
            layout: Layout::open(&dir)?,
            failures: Failures(dir.join("failures")),
            dir,
            compiled: paths.wasm(),
            insecure: insecure.to_vec(),
        })
    }

    /// Removes what transfers that were killed have left, once nobody is at work: may wait long.
    pub fn sweep_temporary(&self) -> Result<(), ImageError> {
        self.layout.sweep_temporary()
    }

    /// The image of this name, if the node has it. Any form of the name will do.
    pub fn get(&self, name: &str) -> Option<Image> {
        self.layout.record(&normalize(name).ok()?)
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<Image> {
        self.layout.records()
    }

    /// Why an image is not pulled now though it might be: it broke the process that pulled it.
    pub fn held_back(&self, name: &str) -> Option<String> {
        self.failures.hold(&normalize(name).ok()?, Timestamp::now())
    }

    /// Fetches an image from its registry, verifies it and unpacks it, all in a process of its own.
    /// What the node has already is not fetched again.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &[Credentials],
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, ImageError> {
        let reference = normalize(name)?;
        let (credentials, insecure) = (credentials.to_vec(), self.insecure.clone());
        let order =
            fetch::Order { images: self.dir.clone(), reference: reference.clone(), credentials, insecure };
        match fetch::fetch(&order, progress).await {
            Ok(()) => self.failures.clear(&reference),
            Err(error) => {
                if let ImageError::Broken { message, .. } = &error {
                    let noted = self.failures.note(&reference, message, Timestamp::now());
                    noted.map_err(at(&self.dir))?;
                }
                return Err(error);
            }
        }
        self.layout.record(&reference).ok_or(ImageError::NotFound(reference))
    }

    /// Sends an image to the registry that its name tells.
    pub async fn push(
        &self,
        name: &str,
        credentials: &[Credentials],
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), ImageError> {
        let reference = normalize(name)?;
        let image = self.layout.record(&reference).ok_or_else(|| ImageError::NotFound(reference.clone()))?;
        push::push(&self.layout, &image, credentials, &self.insecure, progress).await
    }

    /// Takes in an OCI layout (directory or tar), a `docker save` archive or a `.wasm` file.
    /// Without a name, those in the archive are used.
    pub fn import(&self, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let name = name.map(normalize).transpose()?;
        let _lock = self.layout.lock_shared()?;
        import::import(&self.layout, source, name.as_deref())
    }

    /// Makes an image of a root directory or a `.wasm` file.
    pub fn pack(&self, source: &Path, name: &str, options: &PackOptions) -> Result<Image, ImageError> {
        let reference = normalize(name)?;
        let _lock = self.layout.lock_shared()?;
        pack::pack(&self.layout, source, &reference, options)
    }

    /// Gives an image one more name.
    pub fn tag(&self, name: &str, further: &str) -> Result<Image, ImageError> {
        let (reference, further) = (normalize(name)?, normalize(further)?);
        let _lock = self.layout.lock_shared()?;
        let image = self.layout.record(&reference).ok_or(ImageError::NotFound(reference))?;
        let image = Image { reference: further, ..image };
        self.layout.record_image(&image)?;
        Ok(image)
    }

    /// Forgets a name, and removes what no other name needs.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let reference = normalize(name)?;
        let _lock = self.layout.lock_exclusive()?;
        let image = self.layout.record(&reference).ok_or_else(|| ImageError::NotFound(reference.clone()))?;
        let others: Vec<Image> =
            self.layout.records().into_iter().filter(|i| i.reference != reference).collect();
        if !others.iter().any(|i| i.id == image.id) && self.is_in_use(&image) {
            return Err(ImageError::InUse(reference));
        }
        self.layout.forget(&reference)?;
        self.failures.clear(&reference);
        if let Content::Wasm { digest, .. } = &image.content
            && !others.iter().any(|i| matches!(&i.content, Content::Wasm { digest: d, .. } if d == digest))
        {
            self.remove_compiled(digest)?;
        }
        self.layout.sweep(&self.needed()?)
    }

    /// The names below `blobs` and `layers` that some record needs.
    fn needed(&self) -> Result<BTreeSet<String>, ImageError> {
        let mut needed = BTreeSet::new();
        for image in self.layout.records() {
            let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
            needed.insert(hex(&image.digest));
            needed.insert(hex(&image.id));
            needed.extend(self.layout.manifest(&image.digest)?.layers.iter().map(|l| hex(&l.digest)));
            let paths = match &image.content {
                Content::Layers(layers) => layers.as_slice(),
                Content::Wasm { module, .. } => std::slice::from_ref(module),
            };
            needed.extend(paths.iter().filter_map(|path| self.layout.layer_of(path)));
        }
        Ok(needed)
    }

    /// Removes what was made of a Wasm file with this digest.
    fn remove_compiled(&self, digest: &str) -> Result<(), ImageError> {
        let prefix = compiled_prefix(digest);
        // Without the directory nothing was ever compiled.
        for entry in std::fs::read_dir(&self.compiled).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                std::fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        Ok(())
    }

    /// True if a process has a container's root that is an overlay of the image's layers, or runs
    /// its Wasm.
    fn is_in_use(&self, image: &Image) -> bool {
        match &image.content {
            Content::Layers(_) => Self::is_mounted(image),
            Content::Wasm { digest, .. } => {
                let compiled = self.compiled.join(compiled_prefix(digest));
                let compiled = compiled.to_string_lossy();
                let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
                processes.map(|process| process.path().join("maps")).any(|maps| {
                    // A process that ends meanwhile holds nothing.
                    std::fs::read_to_string(maps).is_ok_and(|maps| maps.contains(&*compiled))
                })
            }
        }
    }

    /// True if a container's root is an overlay of the image's layers. Containers have mount
    /// namespaces of their own, so each namespace of the node is looked into once.
    fn is_mounted(image: &Image) -> bool {
        let Content::Layers(layers) = &image.content else { return false };
        let Some(top) = layers.last().map(|l| l.to_string_lossy().into_owned()) else { return false };
        let mut seen = BTreeSet::new();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.map(|process| process.path()).any(|process| {
            // A process that ends meanwhile holds nothing.
            let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { return false };
            seen.insert(namespace)
                && std::fs::read_to_string(process.join("mounts")).is_ok_and(|mounts| mounts.contains(&top))
        })
    }
}

/// How the names of all files begin that are made of a Wasm file (`engine/wasm.rs`).
fn compiled_prefix(digest: &str) -> String {
    format!("{}-", digest.trim_start_matches("sha256:"))
}

#[cfg(test)]
mod tests;
