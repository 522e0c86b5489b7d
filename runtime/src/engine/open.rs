//! What a sandbox hands over: the descriptors of a command, of a container, or a socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use proa_sandbox::protocol::{Reply, Request, Stream};
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::sandbox::{EngineError, Sandbox};

/// Most descriptors that come at once.
const MAX_DESCRIPTORS: usize = 4;
/// Most bytes of a first answer.
const MAX_ANSWER: usize = 64 << 10;

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The sandbox cannot be spoken to.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It refused.
    #[error("{message}")]
    Refused {
        /// As in `Reply::Failed`.
        reason: String,
        /// As in `Reply::Failed`.
        message: String,
    },
    /// The pod's last container had ended, and its sandbox with it, before it could answer.
    #[error("the pod's containers have ended")]
    Ended,
    /// What came cannot be used.
    #[error("sandbox: {0}")]
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    /// A sandbox that ends with a request unread resets the connection; one that has just ended
    /// closes it or takes no more.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            ConnectionReset | BrokenPipe | UnexpectedEof => OpenError::Ended,
            _ => OpenError::Io(error),
        }
    }
}

/// What was handed over. A command ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// The descriptors.
    pub streams: Vec<(Stream, OwnedFd)>,
    connection: BufReader<UnixStream>,
}

impl Running {
    /// Waits for the end, and gives what the sandbox says of it.
    pub async fn ended(&mut self) -> Result<Reply, OpenError> {
        let mut line = Vec::new();
        if self.connection.read_until(b'\n', &mut line).await? == 0 {
            return Err(OpenError::Ended);
        }
        Ok(serde_json::from_slice(&line).map_err(io::Error::from)?)
    }
}

impl Sandbox {
    /// Asks for something that is handed over.
    pub async fn open(&self, request: Request) -> Result<Running, OpenError> {
        let connection = self.send(&request).await.map_err(gone)?;
        let (line, descriptors) = first_answer(&connection).await?;
        match serde_json::from_slice(&line).map_err(io::Error::from)? {
            Reply::Streams { streams } if streams.len() == descriptors.len() => {
                let streams = streams.into_iter().zip(descriptors).collect();
                Ok(Running { streams, connection: BufReader::new(connection) })
            }
            Reply::Failed { reason, message } => Err(OpenError::Refused { reason, message }),
            other => Err(io::Error::other(format!("unexpected answer: {other:?}")).into()),
        }
    }
}

/// A sandbox that is not there any more has ended.
fn gone(error: EngineError) -> OpenError {
    match error {
        EngineError::Gone { .. } => OpenError::Ended,
        other => OpenError::Engine(other),
    }
}

/// One line, and what came with it. The kernel never gives out bytes that came with descriptors
/// together with bytes that came later, so what follows stays where it is.
async fn first_answer(connection: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    while !line.ends_with(b"\n") {
        let n = connection
            .async_io(Interest::READABLE, || receive(connection, &mut line, &mut descriptors))
            .await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.len() > MAX_ANSWER {
            return Err(io::Error::other("an answer that is too long"));
        }
    }
    Ok((line, descriptors))
}

fn receive(from: &UnixStream, line: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut vectors = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([i32; MAX_DESCRIPTORS]);
    let message =
        recvmsg::<()>(from.as_raw_fd(), &mut vectors, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just put these into our table, and nobody else has them.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let n = message.bytes;
    line.extend_from_slice(&buffer[..n]);
    Ok(n)
}
