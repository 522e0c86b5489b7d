//! A descriptor from a sandbox, read and written without blocking a thread: one end of a pipe, or
//! a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;

/// The descriptor.
pub struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    /// Takes it over.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is owned, and closed only with what registers it.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Reads what there is, when there is something; 0 at the end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(read) = ready.try_io(|fd| read(fd, buffer)) {
                return read;
            }
        }
    }

    /// Reads what there is now; an error of the kind `WouldBlock` if that is nothing.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(&self.0, buffer)
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(Ok(n)) => bytes = &bytes[n..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Tells a terminal its size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // What is no terminal has no size.
        let _ = tcsetwinsize(&self.0, size);
    }
}

fn read(fd: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    match nix::unistd::read(fd, buffer) {
        // A terminal says so when nobody has its other end open any more.
        Err(nix::Error::EIO) => Ok(0),
        read => Ok(read?),
    }
}
