//! Compressed and plain tar streams.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::errors::ReadFrameHeaderError::SkipFrame;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest, Sha256};

use super::error::{ImageError, at};
use super::limits::over_the_limit;

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
        // A frame of data, or one to skip.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Box::new(Frames { decoder: FrameDecoder::new(), source: file, within: false })
        }
        _ => Box::new(file),
    })
}

/// Decodes a zstd stream of any number of frames (RFC 8878, section 3.1).
struct Frames<R> {
    decoder: FrameDecoder,
    source: R,
    /// A frame has begun and not been read to its end.
    within: bool,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                match self.decoder.reset(&mut self.source) {
                    Ok(()) => self.within = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(SkipFrame { length, .. })) => {
                        io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
                continue;
            }
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(buffer.len() - self.decoder.can_collect());
                self.decoder.decode_blocks(&mut self.source, wanted).map_err(io::Error::other)?;
            }
            match self.decoder.read(buffer)? {
                0 if !buffer.is_empty() => self.within = false,
                got => return Ok(got),
            }
        }
    }
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
        self.left_bytes = self.left_bytes.checked_sub(got as u64).ok_or_else(over_the_limit)?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame that holds its bytes as they are (RFC 8878, section 3.1.1.2.2).
    fn frame(bytes: &[u8]) -> Vec<u8> {
        let length = bytes.len() as u8;
        // The content's size is told in one byte, and the one block is the last.
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x20, length, length << 3 | 1, length >> 5, 0];
        [&head, bytes].concat()
    }

    #[test]
    fn zstd_streams_have_many_frames() {
        let skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        for pieces in [
            vec![frame(b"one")],
            vec![frame(b"one"), frame(b"two"), skipped.clone()],
            vec![skipped.clone(), frame(b"one"), skipped, frame(b""), frame(b"three")],
        ] {
            std::fs::write(&path, pieces.concat()).unwrap();
            let mut text = String::new();
            open(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, ["one", "onetwo", "onethree"][pieces.len() / 2], "{pieces:?}");
        }
        std::fs::write(&path, [frame(b"one"), b"noise".to_vec()].concat()).unwrap();
        assert!(open(&path).unwrap().read_to_string(&mut String::new()).is_err());
    }
}
