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
mod failures;
pub mod fetch;
mod import;
mod layout;
mod pack;
mod platform;
mod pull;
mod push;
mod recognize;
mod reference;
mod registry;
pub mod tree;
mod unpack;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use jiff::Timestamp;

pub use pack::PackOptions;
pub use reference::{insecure_registry, normalize};

use failures::Failures;
use layout::Layout;

use crate::node::paths::Paths;

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
    /// Device nodes of its layers that were not unpacked.
    #[serde(default)]
    pub devices_left_out: u64,
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
    /// Directories that want a volume of their own.
    #[serde(default)]
    pub volumes: Vec<String>,
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
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// `registry.example.com`, with port if not the usual one.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes transferred so far.
    pub done_bytes: u64,
    /// Bytes to transfer in all.
    pub total_bytes: u64,
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
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
    /// The image could not be sent.
    #[error("failed to push image \"{reference}\": {message}")]
    Push {
        /// The image's name.
        reference: String,
        /// What went wrong.
        message: String,
    },
    /// The image used up what the process that pulls it may use.
    #[error("failed to pull and unpack image \"{reference}\": {message}")]
    Broken {
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
        error: String,
    },
}

impl ImageError {
    fn malformed(message: impl AsRef<str>) -> Self {
        ImageError::Malformed(shown(message.as_ref()))
    }
}

/// Adds the path to an IO error.
fn at(path: &Path) -> impl Fn(std::io::Error) -> ImageError + '_ {
    move |error| ImageError::Io { path: path.to_owned(), error: error.to_string() }
}

/// The longest text of a stranger that is shown, in characters.
const SHOWN: usize = 400;

/// A stranger's text as it may stand in a message: one line, and not a long one.
fn shown(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An error with all its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    // What rustls says of an answer that is not TLS, in the words of Go's client.
    if message.contains("InvalidContentType") {
        message = "http: server gave HTTP response to HTTPS client: \
            a registry without TLS must be named in --insecure-registries"
            .to_owned();
    }
    message
}

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
