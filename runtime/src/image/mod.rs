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
//! failures/<hash>.json      a manifest that broke the process that pulled it
//! tmp/                      what is on its way in
//! ```

mod address;
mod answer;
mod archive;
pub mod collect;
mod error;
mod failures;
pub mod fetch;
mod import;
mod layout;
mod limits;
mod needed;
mod pack;
mod places;
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
mod workspace;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

pub use error::ImageError;
pub use pack::PackOptions;
pub use record::{Content, Image, ImageConfig};
pub use reference::{insecure_registry, normalize};
pub use transfer::{Credentials, Progress};

use error::at;
use failures::Failures;
use layout::Layout;
use needed::{compiled_prefix, mounted_layers, needed};

use crate::node::paths::Paths;

/// The images of one node.
#[derive(Clone)]
pub struct ImageStore {
    dir: PathBuf,
    layout: Layout,
    failures: Failures,
    /// Names below `blobs` and `layers` that only images have which turned out to be unusable.
    spoiled: Arc<Mutex<BTreeSet<String>>>,
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
            failures: Failures::of(&dir),
            spoiled: Arc::default(),
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
        let mut images: Vec<Image> = self.layout.records().collect();
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        images
    }

    /// Full name and bytes of each image, in no order: cheap, however often it is asked.
    pub fn sizes(&self) -> Vec<(String, u64)> {
        self.layout.sizes()
    }

    /// Fetches an image from its registry, verifies it and unpacks it, all in a process of its own.
    /// What the node has already is not fetched again. With `cautious`, an image that broke such a
    /// process not long ago is not tried again yet. Pulls wait for their turn, by their owners.
    pub async fn pull(
        &self,
        name: &str,
        owner: &str,
        credentials: &[Credentials],
        cautious: bool,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, ImageError> {
        let reference = normalize(name)?;
        let order = fetch::Order {
            images: self.dir.clone(),
            reference: reference.clone(),
            credentials: registry::credentials_for(&reference::parse(&reference)?, credentials)?,
            cautious,
            insecure: self.insecure.clone(),
        };
        let mut manifest = None;
        if let Err(error) = fetch::fetch(&order, owner, progress, &mut manifest).await {
            if let Some(manifest) = manifest {
                self.pull_failed(&reference, &manifest, &error);
            }
            return Err(error);
        }
        let image = self.layout.record(&reference).ok_or_else(|| ImageError::NotFound(reference.clone()))?;
        self.failures.clear(&reference, &image.digest);
        Ok(image)
    }

    /// Keeps what follows of a pull that came to this manifest and no further.
    fn pull_failed(&self, reference: &str, manifest: &str, error: &ImageError) {
        if let ImageError::Broken { message, .. } = error
            && let Err(error) = self.failures.note(reference, manifest, message, Timestamp::now())
        {
            tracing::warn!(%error, reference, "that an image broke its process could not be noted");
        }
        // Of others the next try takes up what came whole.
        if matches!(error, ImageError::Malformed(_) | ImageError::Io { .. })
            && let Ok(names) = recognize::files_of(&self.layout, manifest)
        {
            self.spoiled().extend(names);
        }
    }

    fn spoiled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if there is something in the store that is known to be of no use to anybody.
    pub fn is_spoiled(&self) -> bool {
        !self.spoiled().is_empty()
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
        let image = Image { reference: further, pulled: false, ..image };
        self.layout.record_image(&image)?;
        Ok(image)
    }

    /// Forgets a name, and removes what no other name needs.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let reference = normalize(name)?;
        let _lock = self.layout.lock_exclusive()?;
        let image = self.layout.record(&reference).ok_or_else(|| ImageError::NotFound(reference.clone()))?;
        let others: Vec<Image> = self.layout.records().filter(|i| i.reference != reference).collect();
        if !others.iter().any(|i| i.id == image.id) && self.is_in_use(&image) {
            return Err(ImageError::InUse(reference));
        }
        // Without its manifest nothing is known of it; the node collects the rest.
        let names = recognize::files_of(&self.layout, &image.digest).unwrap_or_default();
        self.layout.forget(&reference)?;
        self.failures.clear(&reference, &image.digest);
        if let Content::Wasm { digest, .. } = &image.content
            && !others.iter().any(|i| matches!(&i.content, Content::Wasm { digest: d, .. } if d == digest))
        {
            self.remove_compiled(digest)?;
        }
        let needed = needed(&self.layout, &BTreeSet::new())?;
        self.layout.sweep(|_, name| names.contains(name) && !needed.names.contains(name))
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
            Content::Layers(layers) => {
                let top = layers.last().and_then(|top| self.layout.layer_of(top));
                top.is_some_and(|top| mounted_layers(&self.layout).contains(&top))
            }
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
}

#[cfg(test)]
mod tests;
