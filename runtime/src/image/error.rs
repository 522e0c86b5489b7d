//! Why an image is not to be had, in words that may hold a stranger's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// The image did so not long ago, and is not tried again yet.
    #[error("failed to pull and unpack image \"{reference}\": {message}")]
    HeldBack {
        /// The image's name.
        reference: String,
        /// What went wrong, and how long it counts.
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
    /// [`ImageError::Malformed`], with what may be a stranger's text in it.
    pub(super) fn malformed(message: impl AsRef<str>) -> Self {
        ImageError::Malformed(shown(message.as_ref()))
    }
}

/// Adds the path to an IO error.
pub(super) fn at(path: &Path) -> impl Fn(std::io::Error) -> ImageError + '_ {
    move |error| ImageError::Io { path: path.to_owned(), error: error.to_string() }
}

/// The longest text of a stranger that is shown, in characters.
const SHOWN: usize = 400;

/// A stranger's text as it may stand in a message: one line, and not a long one.
pub(super) fn shown(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An error with all its causes.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
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
