//! Why a store cannot be opened, read or written.

use std::io;
use std::path::PathBuf;

/// The layout of the file that this version reads and writes. Another one needs another number.
pub(super) const FORMAT: u64 = 1;

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process: is proa already running on this data directory?", .0.display())]
    InUse(PathBuf),
    /// It was written by another version of Proa.
    #[error("{} has format {found}, but this version of proa reads format {FORMAT}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: u64,
    },
    /// What it holds is not what was written.
    #[error("{} is damaged: {what}; put a copy from before in its place", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        what: String,
    },
    /// It is not there, though it was once.
    #[error(
        "{} is missing, and {} tells that there was a cluster here: put a copy in its place, \
         or remove that directory too to begin a new cluster", .path.display(), .sign.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// What tells that it was there.
        sign: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Any other fault of the database.
    #[error("{}: {source}", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: redb::Error,
    },
}

impl StoreError {
    pub(super) fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, StoreError::Io { source, .. } if matches!(source.kind(), QuotaExceeded | StorageFull))
    }
}
