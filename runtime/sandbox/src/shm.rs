//! `/dev/shm` of a pod, where its containers share memory by name (shm_overview(7)).
//!
//! It is mounted nowhere on the node, but is the root of a mount namespace that the sandbox holds by a
//! descriptor: it lasts as long as the pod, whatever its containers and the agent do.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{OFlag, openat};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use crate::rootfs::{elsewhere, enter_bare_namespace};
use crate::tree;

/// As containerd has it.
const OPTIONS: &str = "mode=1777,size=65536k";

/// The memory of one pod.
pub struct Shm(OwnedFd);

impl Shm {
    /// Makes it. Called while there is one thread.
    pub fn make() -> io::Result<Self> {
        // Opened while there is a `/proc`.
        let own = File::open("/proc/self/ns")?;
        elsewhere(|| {
            enter_bare_namespace(MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, OPTIONS)?;
            Ok(Self(openat(&own, "mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?))
        })
    }

    /// A mount of it for a container, which is nowhere yet. Called while there is one thread.
    pub fn mount(&self) -> io::Result<OwnedFd> {
        elsewhere(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNS)?;
            tree::of("/".as_ref(), false)
        })
    }

    /// For a helper.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// By which it is held.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
