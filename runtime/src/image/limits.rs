//! How much an image may be, unpacked.

use std::io;

/// What all layers of an image may hold unpacked, holes of sparse files counted as what they are
/// not: more than any sane image, less than fills a disk unnoticed.
pub(super) const LIMIT_BYTES: u64 = 32 << 30;
/// And so many files and directories.
pub(super) const LIMIT_ENTRIES: u64 = 2_000_000;

/// The error of an image that is larger.
pub(super) fn over_the_limit() -> io::Error {
    io::Error::other(format!("the image unpacks to more than {} GiB", LIMIT_BYTES >> 30))
}
