//! How a terminal comes from a container's process to the sandbox: through a socket in the
//! container's directory, which libcontainer sends it to.
//!
//! Used by `requests` for containers and by `sessions` for commands in them.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Where a terminal will arrive. The socket's file goes with this.
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens at `name` in the container's directory.
    pub fn open(scratch: &Path, name: &str) -> std::io::Result<Self> {
        // Through the directory's descriptor, because the address of a socket has room for 108
        // bytes only.
        let dir = File::open(scratch)?;
        let address = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let _ = fs::remove_file(&address);
        let listener = UnixListener::bind(&address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: scratch.join(name) })
    }

    /// The terminal that a process has sent by now.
    pub fn receive(&self) -> Option<OwnedFd> {
        let (stream, _) = self.listener.accept().ok()?;
        let mut byte = [0; 64];
        let mut vectors = [IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([i32; 1]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut vectors, Some(&mut space), flags).ok()?;
        message.cmsgs().ok()?.find_map(|control| match control {
            // SAFETY: the kernel has just put this descriptor into our table, and nobody else has it.
            ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }),
            _ => None,
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
