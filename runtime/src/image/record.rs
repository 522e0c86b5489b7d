//! An image as the node knows it, once it has it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::reference::repository;

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
    /// It came from its registry, which has it still; what was made or brought here may be nowhere
    /// else.
    #[serde(default)]
    pub pulled: bool,
    /// Device nodes of its layers that were not unpacked.
    #[serde(default)]
    pub devices_left_out: u64,
}

impl Image {
    /// True if its files are where they were.
    pub(super) fn is_whole(&self) -> bool {
        match &self.content {
            Content::Layers(layers) => layers.iter().all(|layer| layer.is_dir()),
            Content::Wasm { module, .. } => module.is_file(),
        }
    }

    /// Its full name without tag and digest.
    pub fn repository(&self) -> &str {
        repository(&self.reference)
    }
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
