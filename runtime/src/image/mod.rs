//! Images: what containers are made of, kept in `DATA/images`.
//!
//! Fed by registries, archives and directories; read by the node agent and by `proa image`.
//! All state is files, each complete when its name appears, so that the running node and the
//! command line may use the store at the same time. Nothing here runs an image.
//!
//! ```text
//! refs/<reference>.json     one record for each name: the resolved image
//! blobs/sha256/<hex>        manifests, configurations, layers and Wasm files as registries hold them
//! layers/<hex>/             a layer unpacked, under the digest of its uncompressed tar
//! ```

mod archive;
mod import;
mod layout;
mod pack;
mod pull;
mod push;
mod recognize;
mod reference;
mod unpack;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use pack::PackOptions;
pub use reference::normalize;

use layout::Layout;

/// An image as the node runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The full name it was asked for by: `docker.io/library/nginx:1.29`.
    pub reference: String,
    /// Digest of its configuration, `sha256:…`: what the API calls the image's id.
    pub id: String,
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// Bytes of its configuration and layers as transferred.
    pub size_bytes: u64,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// What it holds.
    pub content: Content,
}

/// The part of an image's configuration that containers take defaults from.
/// <https://github.com/opencontainers/image-spec/blob/main/config.md>
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Program and first arguments; a container's `command` replaces it.
    pub entrypoint: Vec<String>,
    /// Further arguments; a container's `args` replaces them.
    pub cmd: Vec<String>,
    /// Environment in order.
    pub env: Vec<(String, String)>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty for root.
    pub user: String,
    /// The signal that stops it, where it is not SIGTERM.
    pub stop_signal: Option<String>,
}

/// What an image holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A root file system, as unpacked layers, lowest first.
    Layers(Vec<PathBuf>),
    /// A WebAssembly component or module.
    Wasm {
        /// The `.wasm` file.
        module: PathBuf,
        /// Its digest, `sha256:…`.
        digest: String,
    },
}

/// A user name and password for one registry.
#[derive(Clone)]
pub struct Credentials {
    /// `registry.example.com`, with port if not the usual one.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes transferred so far.
    pub done_bytes: u64,
    /// Bytes to transfer in all.
    pub total_bytes: u64,
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is no image reference.
    #[error("couldn't parse image name \"{0}\": invalid reference format")]
    InvalidName(String),
    /// The registry, or the store, has no such image.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry asks for credentials, or refuses those given.
    #[error("failed to authorize: {0}")]
    Unauthorized(String),
    /// The registry could not be reached or answered nonsense.
    #[error("failed to pull and unpack image \"{reference}\": {message}")]
    Registry {
        /// The image's name.
        reference: String,
        /// What went wrong.
        message: String,
    },
    /// The image itself is not one that a node can or may run.
    #[error("{0}")]
    Malformed(String),
    /// The image has nothing for this node's platform.
    #[error("{0}")]
    Platform(String),
    /// A running container uses it.
    #[error("image {0} is in use by a running container")]
    InUse(String),
    /// The node's disk.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the kernel says.
        error: std::io::Error,
    },
}

impl ImageError {
    fn malformed(message: impl Into<String>) -> Self {
        ImageError::Malformed(message.into())
    }
}

/// Adds the path to an IO error.
fn at(path: &Path) -> impl Fn(std::io::Error) -> ImageError + '_ {
    move |error| ImageError::Io { path: path.to_owned(), error }
}

/// The images of one node.
#[derive(Clone)]
pub struct ImageStore {
    layout: Layout,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if it is not there.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        Ok(ImageStore { layout: Layout::open(dir)? })
    }

    /// The image of this name, if the node has it. Any form of the name will do.
    pub fn get(&self, name: &str) -> Option<Image> {
        self.layout.record(&normalize(name).ok()?)
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<Image> {
        self.layout.records()
    }

    /// Fetches an image from its registry, verifies it and unpacks it. What the node has already
    /// is not fetched again.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &[Credentials],
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, ImageError> {
        let reference = normalize(name)?;
        let _lock = self.layout.lock_shared()?;
        pull::pull(&self.layout, &reference, credentials, progress).await
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
        push::push(&self.layout, &image, credentials, progress).await
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
        let shared = self.layout.records().iter().any(|i| i.reference != reference && i.id == image.id);
        if !shared && Self::is_mounted(&image) {
            return Err(ImageError::InUse(reference));
        }
        self.layout.forget(&reference)?;
        self.layout.sweep(&self.needed()?)
    }

    /// The digests, without `sha256:`, that some record needs.
    fn needed(&self) -> Result<BTreeSet<String>, ImageError> {
        let mut needed = BTreeSet::new();
        for image in self.layout.records() {
            let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
            needed.insert(hex(&image.digest));
            needed.insert(hex(&image.id));
            let manifest = self.layout.manifest(&image.digest)?;
            needed.extend(manifest.layers.iter().map(|l| hex(&l.digest)));
            needed.extend(recognize::diff_ids(&self.layout, &manifest)?.iter().map(|d| hex(d)));
        }
        Ok(needed)
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

#[cfg(test)]
mod tests;
