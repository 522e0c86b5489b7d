//! What the pods have of the node's memory. Its end is theirs, not the node's: all of them together have
//! what is allocatable, and the kernel ends what runs in them before their sandboxes, and these before
//! Proa.

use std::fs;
use std::io;

use proa_sandbox::cgroup::Cgroup;
use proa_sandbox::protocol::Resources;

use crate::node::host::Host;

/// The kubelet's score is the same.
const OOM_SCORE: &str = "-999";

/// Sets these limits. To be called before the node has pods of its own.
pub fn bound(host: &Host) -> io::Result<()> {
    // The right to say so may be missing; then the node goes when the kernel chooses it.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let bytes = host.machine.allocatable_memory.units();
    if bytes <= 0 {
        return Err(io::Error::other("this machine does not say how much memory it has"));
    }
    let all = Cgroup::at(&host.config.host_names.cgroup());
    all.create()?;
    all.limit(&Resources { memory_bytes: Some(bytes), ..Resources::default() })
}
