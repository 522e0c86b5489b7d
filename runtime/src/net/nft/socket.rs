//! Sends batches and questions to the kernel's netfilter subsystem.
//!
//! Blocking, a fraction of a millisecond for a change. Each call opens a socket of its own in the
//! network namespace of the calling thread, so no answer of an earlier call can be mistaken for its own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use super::batch::Batch;

/// The kernel refused a transaction or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("nftables, {about}: {source}")]
pub struct NftError {
    /// What the refused message was about.
    pub about: String,
    /// The kernel's reason.
    pub source: io::Error,
}

const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const REQUEST_ACK: u16 = 0x5;

/// Sends one transaction and waits until the kernel has taken or refused it.
pub fn transact(batch: Batch) -> Result<(), NftError> {
    let (bytes, about) = batch.finish();
    let last = about.len() - 2;
    let fail = |what: &str, source| NftError { about: what.to_owned(), source };
    let socket = open(bytes.len()).map_err(|e| fail("socket", e))?;
    send(&socket, &bytes).map_err(|e| fail("sending", e))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = receive(&socket, &mut buffer).map_err(|e| fail("answer", e))?;
        for (kind, sequence, body) in messages(&buffer[..length]) {
            let Some(code) = error_code(kind, body) else { continue };
            let sequence = sequence as usize;
            if code != 0 {
                let what = about.get(sequence).map_or("batch", String::as_str);
                return Err(fail(what, io::Error::from_raw_os_error(-code)));
            }
            if sequence == last {
                return Ok(());
            }
        }
    }
}

/// Whether an IPv4 table of this name exists.
pub fn table_exists(table: &str) -> Result<bool, NftError> {
    const GET_TABLE: u16 = (10 << 8) | 1;
    let mut name = Vec::new();
    super::attr::Attributes::new(&mut name).text(1, table);
    match request(GET_TABLE, REQUEST_ACK, &name, &mut |_| {}) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(source) => Err(NftError { about: format!("table {table}"), source }),
    }
}

/// Lists all entries that `kind` (subsystem and message number) answers with: their attributes.
pub fn dump(kind: u16, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    request(kind, REQUEST_DUMP, &[], each)
}

/// Sends one message and waits for its acknowledgement.
pub fn command(kind: u16, attributes: &[u8]) -> io::Result<()> {
    request(kind, REQUEST_ACK, attributes, &mut |_| {})
}

fn request(kind: u16, flags: u16, attributes: &[u8], each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    const IPV4: u8 = 2;
    let mut bytes = Vec::with_capacity(HEADER + NETFILTER_HEADER + attributes.len());
    let length = u32::try_from(HEADER + NETFILTER_HEADER + attributes.len())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[IPV4, 0, 0, 0]);
    bytes.extend_from_slice(attributes);
    let socket = open(bytes.len())?;
    send(&socket, &bytes)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = receive(&socket, &mut buffer)?;
        for (kind, _, body) in messages(&buffer[..length]) {
            if kind == DONE {
                return Ok(());
            }
            match error_code(kind, body) {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                None => each(body.get(NETFILTER_HEADER..).unwrap_or(&[])),
            }
        }
    }
}

/// The code of an error message (0 is success, otherwise a negative errno); `None` for others.
fn error_code(kind: u16, body: &[u8]) -> Option<i32> {
    if kind != ERROR {
        return None;
    }
    let code = body.first_chunk::<4>().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code));
    Some(code)
}

/// Type, sequence number and body of each netlink message in `bytes`.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk::<4>()?) as usize;
        let kind = u16::from_ne_bytes([*rest.get(4)?, *rest.get(5)?]);
        let sequence = u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, sequence, body))
    })
}

/// A netfilter socket whose buffer takes `size` bytes in one message.
fn open(size: usize) -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    // The kernel counts its own overhead too, about as much again.
    let wanted = size.saturating_mul(2).saturating_add(1 << 16).min(i32::MAX as usize);
    // Beyond the system's limit only with CAP_NET_ADMIN, which every later step needs as well; and a
    // batch that does not fit says so when it is sent.
    let _ = setsockopt(&socket, sockopt::SndBuf, &wanted);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &wanted);
    Ok(socket)
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // An unconnected netlink socket sends to the kernel.
    match nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::empty())? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::WriteZero)),
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            got => return Ok(got?),
        }
    }
}
