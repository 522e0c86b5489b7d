//! What can go wrong with keys and certificates.

use std::io;
use std::path::PathBuf;

/// A fault with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A certificate could not be made or its key not read.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What is on disk is not what was written there.
    #[error("unreadable key material: {0}")]
    Unreadable(String),
    /// The key refused to sign.
    #[error("signing failed")]
    Signing,
    /// TLS does not take the certificates.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS does not take the CA for checking clients.
    #[error("TLS client verification: {0}")]
    ClientVerifier(#[from] rustls::server::VerifierBuilderError),
}
