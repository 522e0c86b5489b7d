//! Name/value blocks of SPDY/3 and their compression: one zlib stream per direction and
//! connection, which begins with a dictionary that both sides know.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::error::FrameError;

/// A block larger than this is not one that a client of Kubernetes sends.
const MAX_BLOCK: usize = 64 << 10;
/// Adler-32 of the dictionary, by which zlib names it.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// Words of the dictionary that have their length, four bytes, before them.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200+OK version HTTP/1.1 url public \
    set-cookie keep-alive origin";
/// What follows them.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
    502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
    Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
    UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, \
    Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
    text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS.split(' ').map(|word| word.replace('+', " ")) {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
});

/// Names and values, in order.
pub type Headers = Vec<(String, String)>;

/// Reads the blocks of one connection, in order.
pub struct Reader(Decompress);

impl Reader {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Reads one block. After an error the connection cannot go on.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let (mut rest, mut out, mut buffer) = (block, Vec::new(), [0; 4096]);
        loop {
            let (was_in, was_out) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(rest, &mut buffer, FlushDecompress::Sync);
            // Both are bounded by the lengths of the slices.
            let (used, made) =
                ((self.0.total_in() - was_in) as usize, (self.0.total_out() - was_out) as usize);
            rest = rest.get(used..).ok_or(FrameError::Headers("cannot be decompressed"))?;
            out.extend_from_slice(&buffer[..made]);
            if out.len() > MAX_BLOCK {
                return Err(FrameError::Headers("are too large"));
            }
            match result {
                Ok(Status::StreamEnd) => return Err(FrameError::Headers("end the compression")),
                Ok(_) if used == 0 && made == 0 && rest.is_empty() => return Ok(out),
                Ok(_) if used == 0 && made == 0 => return Err(FrameError::Headers("cannot be decompressed")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    let set = self.0.set_dictionary(&DICTIONARY);
                    set.map_err(|_| FrameError::Headers("cannot be decompressed"))?;
                }
                Err(_) => return Err(FrameError::Headers("cannot be decompressed")),
            }
        }
    }
}

/// Writes the blocks of one connection, in order.
pub struct Writer(Compress);

impl Writer {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        let set = zlib.set_dictionary(&DICTIONARY);
        assert!(set.is_ok(), "a new compressor takes a dictionary");
        Self(zlib)
    }

    /// Writes one block.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let (mut rest, mut out) = (&plain[..], Vec::with_capacity(plain.len() + 64));
        loop {
            let was_in = self.0.total_in();
            let written = self.0.compress_vec(rest, &mut out, FlushCompress::Sync);
            assert!(written.is_ok(), "a compressor takes any bytes");
            rest = &rest[(self.0.total_in() - was_in) as usize..];
            // With room to spare the flush is complete.
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

fn parse(block: &[u8]) -> Result<Headers, FrameError> {
    let mut rest = block;
    let count = number(&mut rest)?;
    let (mut headers, mut names) = (Headers::new(), BTreeSet::new());
    for _ in 0..count {
        let name = text(&mut rest)?;
        let value = text(&mut rest)?;
        if name.is_empty() || name.chars().any(|c| c.is_ascii_uppercase() || c == '\0') {
            return Err(FrameError::Headers("have a name that is not valid"));
        }
        if !names.insert(name.clone()) {
            return Err(FrameError::Headers("name one thing twice"));
        }
        headers.push((name, value));
    }
    if rest.is_empty() { Ok(headers) } else { Err(FrameError::Headers("are followed by something")) }
}

fn number(rest: &mut &[u8]) -> Result<u32, FrameError> {
    let (head, after) = rest.split_first_chunk::<4>().ok_or(FrameError::Headers("are cut short"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*head))
}

fn text(rest: &mut &[u8]) -> Result<String, FrameError> {
    let length = number(rest)? as usize;
    let (head, after) = rest.split_at_checked(length).ok_or(FrameError::Headers("are cut short"))?;
    *rest = after;
    String::from_utf8(head.to_vec()).map_err(|_| FrameError::Headers("are not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        let mut writer = Compress::new(Compression::fast(), true);
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(writer.set_dictionary(&DICTIONARY).unwrap(), DICTIONARY_ID);
    }

    #[test]
    fn blocks_follow_each_other() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        let long = "x".repeat(10_000);
        for headers in [&[("streamtype", "stdin"), ("port", "80")][..], &[], &[("a", ""), ("b", &long)]] {
            let found = reader.read(&writer.write(headers)).unwrap();
            let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(found, headers);
        }
    }

    #[test]
    fn what_zlib_of_others_makes_is_read() {
        // Made with Python: zlib.compressobj(9, zdict=...), {"streamtype": "error"}, Z_SYNC_FLUSH.
        let block = [
            0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0xa6, 0x23, 0x46, 0x70, 0x3a, 0x2b, 0x29, 0x4a, 0x4d,
            0xcc, 0x85, 0x16, 0x25, 0xac, 0xa9, 0xa0, 0x80, 0x06, 0x00, 0x00, 0x00, 0xff, 0xff,
        ];
        let found = Reader::new().read(&block).unwrap();
        assert_eq!(found, [("streamtype".to_owned(), "error".to_owned())]);
    }

    #[track_caller]
    fn check(plain: &[u8], why: &'static str) {
        assert_eq!(parse(plain), Err(FrameError::Headers(why)));
    }

    #[test]
    fn bad_blocks() {
        check(b"", "are cut short");
        check(b"\0\0\0\x01\0\0\0\x05a", "are cut short");
        check(b"\xff\xff\xff\xff", "are cut short");
        check(b"\0\0\0\0x", "are followed by something");
        check(b"\0\0\0\x01\0\0\0\0\0\0\0\0", "have a name that is not valid");
        check(b"\0\0\0\x01\0\0\0\x01A\0\0\0\0", "have a name that is not valid");
        check(b"\0\0\0\x02\0\0\0\x01a\0\0\0\0\0\0\0\x01a\0\0\0\0", "name one thing twice");
        check(b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0", "are not UTF-8");
        assert_eq!(Reader::new().read(b"xyz"), Err(FrameError::Headers("cannot be decompressed")));
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut plain = 1_u32.to_be_bytes().to_vec();
        plain.resize(1 << 20, 0);
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        let mut block = Vec::with_capacity(1 << 16);
        zlib.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(Reader::new().read(&block), Err(FrameError::Headers("are too large")));
    }
}
