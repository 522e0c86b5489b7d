//! Compressed and plain tar streams.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::{ImageError, at};

/// What the headers of one entry may need: those that hold no more than numbers and a short name,
/// and the special ones for long names and attributes. As Go's reader has it.
const SPECIAL_HEADERS_LIMIT_BYTES: u64 = (1 << 20) + (64 << 10);

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

/// Calls `each` for every entry of a tar, and ends with an error where headers are longer than
/// they may be: the library reads special headers whole. What `each` leaves of an entry is skipped.
pub(super) fn for_each_entry<R: Read>(
    stream: R,
    mut each: impl FnMut(&mut tar::Entry<'_, Guarded<R>>) -> io::Result<()>,
) -> io::Result<()> {
    let allowance = Rc::new(Cell::new(None));
    let mut archive = tar::Archive::new(Guarded { inner: stream, allowance: Rc::clone(&allowance) });
    let mut entries = archive.entries()?;
    loop {
        // All of the entry before has been read: from here to the next there are headers only.
        allowance.set(Some(SPECIAL_HEADERS_LIMIT_BYTES));
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry?;
        allowance.set(None);
        each(&mut entry)?;
        io::copy(&mut entry, &mut io::sink())?;
    }
}

/// Gives only so many bytes while headers are read.
pub(super) struct Guarded<R> {
    inner: R,
    allowance: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        if let Some(left) = self.allowance.get() {
            let left = left.checked_sub(got as u64);
            let left = left.ok_or_else(|| io::Error::other("an entry's headers are larger than 1 MiB"))?;
            self.allowance.set(Some(left));
        }
        Ok(got)
    }
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
        self.left_bytes =
            self.left_bytes.checked_sub(got as u64).ok_or_else(super::unpack::over_the_limit)?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}
