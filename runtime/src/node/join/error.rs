//! Why a machine is no node.

/// Why a machine does not become a node. Each is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The server is not the one that was meant, or cannot be spoken to.
    #[error("{server}: {why}")]
    Server {
        /// Its URL.
        server: String,
        /// What is wrong.
        why: String,
    },
    /// The API server refuses something.
    #[error("the cluster refuses to {what}: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it says.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Keys or certificates cannot be made or used.
    #[error("keys and certificates: {0}")]
    Keys(String),
}
