//! What a transfer from or to a registry needs, and what it tells.

use serde::{Deserialize, Serialize};

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
