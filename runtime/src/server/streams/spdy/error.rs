//! What can be wrong with what a client sends.

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version, or not SPDY at all.
    #[error("a control frame of version {0}, not 3")]
    Version(u16),
    /// A control frame whose length cannot be.
    #[error("a control frame of type {kind} with {length} bytes")]
    Length {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// Something that is about no stream.
    #[error("a frame for stream 0")]
    NoStream,
    /// Headers that cannot be read.
    #[error("headers that {0}")]
    Headers(&'static str),
}
