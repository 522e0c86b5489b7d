//! Compressed and plain tar streams.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::{ImageError, at};

/// Opens a tar that may be compressed with gzip or zstd; its first bytes tell.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, ImageError> {
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(at(path))?;
    let got = file.read(&mut magic).map_err(at(path))?;
    let file = BufReader::with_capacity(128 * 1024, File::open(path).map_err(at(path))?);
    Ok(match &magic[..got] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(file)
                .map_err(|e| ImageError::malformed(format!("{}: {e}", path.display())))?,
        ),
        _ => Box::new(file),
    })
}

/// Hashes what is read through it, and ends with an error past a limit.
pub(super) struct Metered<R> {
    inner: R,
    hash: Sha256,
    left_bytes: u64,
}

impl<R: Read> Metered<R> {
    pub(super) fn new(inner: R, limit_bytes: u64) -> Self {
        Metered { inner, hash: Sha256::new(), left_bytes: limit_bytes }
    }

    /// Reads to the end and gives the hash of all of it.
    pub(super) fn finish(mut self) -> io::Result<Sha256> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hash)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.left_bytes = self
            .left_bytes
            .checked_sub(got as u64)
            .ok_or_else(|| io::Error::other("the unpacked size is over the limit"))?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}
