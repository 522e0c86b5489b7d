//! Frames of SPDY/3.1, from bytes and to bytes. Pure; never panics, whatever the bytes.
//!
//! Data is given in the pieces in which it arrives, so a large frame costs no memory.

use bytes::{Buf, Bytes, BytesMut};

use super::error::FrameError;
use super::headers::{Headers, Reader};

/// The version in control frames.
const VERSION: u16 = 3;
/// Control frames larger than this are not sent by clients of Kubernetes.
const MAX_CONTROL: usize = 64 << 10;
/// Most bytes of data in one frame.
pub const MAX_DATA: usize = (1 << 24) - 1;
/// The setting of the initial window.
const SETTING_INITIAL_WINDOW: u32 = 7;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// Its number.
        stream: u32,
        /// The client sends nothing on it.
        fin: bool,
        /// The client takes nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Bytes of a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// They are the last.
        fin: bool,
    },
    /// A stream is over, both ways.
    Reset {
        /// Its number.
        stream: u32,
    },
    /// How the client wants to be spoken to.
    Settings {
        /// The window of new streams.
        initial_window: Option<u32>,
    },
    /// A sign of life: to be given back if its number is odd.
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
    /// More about a stream.
    Headers {
        /// Its number.
        stream: u32,
        /// The client sends nothing more on it.
        fin: bool,
    },
    /// The client can take more.
    WindowUpdate {
        /// The stream, or 0 for all.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
}

/// Reads the frames of one connection.
pub struct Decoder {
    input: BytesMut,
    data: Option<Data>,
    headers: Reader,
}

/// A data frame under way.
struct Data {
    stream: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self { input: BytesMut::new(), data: None, headers: Reader::new() }
    }

    /// Where bytes that have arrived are put.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The next frame, if enough of one has arrived. After an error there is no next.
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(data) = &mut self.data {
                let size = data.left.min(self.input.len());
                if size == 0 && data.left > 0 {
                    return Ok(None);
                }
                data.left -= size;
                let (stream, fin) = (data.stream, data.fin && data.left == 0);
                if data.left == 0 {
                    self.data = None;
                }
                let bytes = self.input.split_to(size).freeze();
                return Ok(Some(Frame::Data { stream, bytes, fin }));
            }
            let Some(head) = self.input.first_chunk::<8>() else { return Ok(None) };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
            if first >> 31 == 0 {
                if first == 0 {
                    return Err(FrameError::NoStream);
                }
                self.input.advance(8);
                self.data = Some(Data { stream: first, fin: flags & FIN != 0, left: length });
                continue;
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > MAX_CONTROL {
                return Err(FrameError::Length { kind, length });
            }
            if self.input.len() < 8 + length {
                return Ok(None);
            }
            let payload = self.input.split_to(8 + length).freeze().slice(8..);
            if let Some(frame) = self.control(kind, flags, &payload)? {
                return Ok(Some(frame));
            }
        }
    }

    /// `None` for what is to be ignored.
    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Frame>, FrameError> {
        let wrong = FrameError::Length { kind, length: payload.len() };
        let word = |at: usize| {
            let word = payload.get(at..).and_then(|rest| rest.first_chunk::<4>());
            word.map(|word| u32::from_be_bytes(*word)).ok_or(wrong.clone())
        };
        let stream = || match word(0)? & 0x7fff_ffff {
            0 => Err(FrameError::NoStream),
            stream => Ok(stream),
        };
        let exactly = |length: usize| if payload.len() == length { Ok(()) } else { Err(wrong.clone()) };
        let fin = flags & FIN != 0;
        Ok(Some(match kind {
            SYN_STREAM => {
                let block = payload.get(10..).ok_or(wrong.clone())?;
                // Read before anything is refused: each block depends on those before it.
                let headers = self.headers.read(block)?;
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                Frame::SynStream { stream: stream()?, fin, unidirectional, headers }
            }
            // This side opens no streams, so there is nothing to reply to.
            SYN_REPLY => {
                self.headers.read(payload.get(4..).ok_or(wrong.clone())?)?;
                return Ok(None);
            }
            RST_STREAM => {
                exactly(8)?;
                Frame::Reset { stream: stream()? }
            }
            SETTINGS => {
                let count = word(0)? as usize;
                exactly(count.checked_mul(8).and_then(|size| size.checked_add(4)).ok_or(wrong.clone())?)?;
                let entries = payload[4..].chunks_exact(8);
                let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
                let initial = entries.filter(|entry| number(&entry[1..4]) == SETTING_INITIAL_WINDOW);
                Frame::Settings { initial_window: initial.map(|entry| number(&entry[4..8])).next_back() }
            }
            PING => {
                exactly(4)?;
                Frame::Ping(word(0)?)
            }
            GOAWAY => {
                exactly(8)?;
                Frame::GoAway
            }
            HEADERS => {
                self.headers.read(payload.get(4..).ok_or(wrong.clone())?)?;
                Frame::Headers { stream: stream()?, fin }
            }
            WINDOW_UPDATE => {
                exactly(8)?;
                Frame::WindowUpdate { stream: word(0)? & 0x7fff_ffff, delta: word(4)? & 0x7fff_ffff }
            }
            // As the specification says of types that are not known.
            _ => return Ok(None),
        }))
    }
}

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It was opened against the rules.
    ProtocolError = 1,
    /// There is no such stream.
    InvalidStream = 2,
    /// There are too many.
    RefusedStream = 3,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoAway {
    /// All is done.
    Ok = 0,
    /// The client does not keep to the protocol.
    ProtocolError = 1,
}

/// SYN_STREAM, which only clients send.
#[cfg(test)]
pub fn syn_stream(stream: u32, fin: bool, block: &[u8]) -> Vec<u8> {
    let mut payload = stream.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0; 6]);
    payload.extend_from_slice(block);
    control(SYN_STREAM, u8::from(fin), &payload)
}

/// SYN_REPLY, with its headers compressed.
pub fn syn_reply(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut payload = stream.to_be_bytes().to_vec();
    payload.extend_from_slice(block);
    control(SYN_REPLY, 0, &payload)
}

/// RST_STREAM.
pub fn rst_stream(stream: u32, why: Reset) -> Vec<u8> {
    control(RST_STREAM, 0, &pair(stream, why as u32))
}

/// PING.
pub fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// GOAWAY.
pub fn goaway(last: u32, why: GoAway) -> Vec<u8> {
    control(GOAWAY, 0, &pair(last, why as u32))
}

/// WINDOW_UPDATE.
pub fn window_update(stream: u32, delta: u32) -> Vec<u8> {
    control(WINDOW_UPDATE, 0, &pair(stream, delta))
}

/// The first eight bytes of a data frame, of at most [`MAX_DATA`] bytes.
pub fn data_head(stream: u32, length: usize, fin: bool) -> [u8; 8] {
    assert!(length <= MAX_DATA, "the caller cuts data into pieces");
    let (stream, length) = (stream.to_be_bytes(), (length as u32).to_be_bytes());
    [stream[0] & 0x7f, stream[1], stream[2], stream[3], u8::from(fin), length[1], length[2], length[3]]
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_be_bytes(), second.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::headers::Writer;
    use super::*;

    /// Feeds bytes in pieces of this size, and gives the frames up to an error.
    fn decode(bytes: &[u8], size: usize) -> (Vec<Frame>, Option<FrameError>) {
        let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
        for piece in bytes.chunks(size.max(1)) {
            decoder.input().extend_from_slice(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Frame, FrameError>) {
        let (frames, error) = decode(bytes, bytes.len());
        match expected {
            Ok(frame) => assert_eq!((frames, error), (vec![frame], None)),
            Err(expected) => assert_eq!((frames, error), (vec![], Some(expected))),
        }
    }

    #[test]
    fn frames() {
        let block = Writer::new().write(&[("streamtype", "stdin")]);
        let headers = vec![("streamtype".to_owned(), "stdin".to_owned())];
        let syn = Frame::SynStream { stream: 3, fin: true, unidirectional: false, headers };
        check(&syn_stream(3, true, &block), Ok(syn));
        check(&rst_stream(5, Reset::ProtocolError), Ok(Frame::Reset { stream: 5 }));
        check(&ping(7), Ok(Frame::Ping(7)));
        check(&goaway(7, GoAway::Ok), Ok(Frame::GoAway));
        check(&window_update(0, 9), Ok(Frame::WindowUpdate { stream: 0, delta: 9 }));
        let settings = b"\x80\x03\0\x04\0\0\0\x14\0\0\0\x02\x01\0\0\x04\0\0\0\x64\0\0\0\x07\0\x01\0\0";
        check(settings, Ok(Frame::Settings { initial_window: Some(65_536) }));
        let more = [&4_u32.to_be_bytes()[..], &Writer::new().write(&[])].concat();
        check(&control(HEADERS, FIN, &more), Ok(Frame::Headers { stream: 4, fin: true }));
        let bytes = Bytes::from_static(b"xyz");
        check(b"\0\0\0\x03\x01\0\0\x03xyz", Ok(Frame::Data { stream: 3, bytes, fin: true }));
        check(b"\0\0\0\x03\x01\0\0\0", Ok(Frame::Data { stream: 3, bytes: Bytes::new(), fin: true }));
    }

    #[test]
    fn what_is_not_understood() {
        let length = |kind, length| Err(FrameError::Length { kind, length });
        check(b"\x80\x02\0\x01\0\0\0\0", Err(FrameError::Version(2)));
        check(b"\x80\x03\0\x01\0\xff\xff\xff", length(SYN_STREAM, 0xff_ffff));
        check(&control(SYN_STREAM, 0, &[0; 9]), length(SYN_STREAM, 9));
        check(&control(PING, 0, &[0; 5]), length(PING, 5));
        check(&control(SETTINGS, 0, b"\xff\xff\xff\xff"), length(SETTINGS, 4));
        check(&control(SETTINGS, 0, b""), length(SETTINGS, 0));
        check(&control(RST_STREAM, 0, &[0; 8]), Err(FrameError::NoStream));
        check(b"\0\0\0\0\0\0\0\0", Err(FrameError::NoStream));
        assert_eq!(decode(&control(99, 0, b"anything"), 100), (vec![], None), "types that are not known");
    }

    #[test]
    fn data_comes_in_the_pieces_it_arrives_in() {
        let frame = [&data_head(1, 5, true)[..], b"hello"].concat();
        let (frames, _) = decode(&frame, 10);
        let piece = |text: &'static str, fin| Frame::Data { stream: 1, bytes: text.into(), fin };
        assert_eq!(frames, [piece("he", false), piece("llo", true)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            decode(&bytes, size);
        }

        #[test]
        fn any_payload_of_a_known_type_is_survived(
            kind in 0_u16..12, flags: u8, payload in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            decode(&control(kind, flags, &payload), 64);
        }

        #[test]
        fn how_bytes_arrive_makes_no_difference(
            names in proptest::collection::btree_set("[a-z]{1,8}", 0..5),
            data in proptest::collection::vec(any::<u8>(), 0..300),
            size in 1_usize..40,
        ) {
            let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "value")).collect();
            let mut writer = Writer::new();
            let mut bytes = Vec::new();
            for stream in [1, 3, 5] {
                bytes.extend(syn_stream(stream, false, &writer.write(&pairs)));
                bytes.extend(data_head(stream, data.len(), true));
                bytes.extend(&data);
            }
            let (frames, error) = decode(&bytes, size);
            prop_assert_eq!(error, None);
            let mut found = std::collections::BTreeMap::<u32, Vec<u8>>::new();
            let mut ended = 0;
            for frame in frames {
                match frame {
                    Frame::Data { stream, bytes, fin } => {
                        found.entry(stream).or_default().extend(&bytes);
                        ended += u32::from(fin);
                    }
                    Frame::SynStream { headers, .. } => prop_assert_eq!(headers.len(), pairs.len()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(ended, 3);
            prop_assert!(found.values().all(|bytes| *bytes == data));
        }
    }
}
