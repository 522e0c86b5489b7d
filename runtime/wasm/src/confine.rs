//! What this process takes from itself before a guest runs: the node's files, every privilege that no
//! WASI call leads to, and the system calls likewise.
//!
//! Called before any thread exists. Wasm itself is the wall around a guest; this is a second one,
//! in case the first has a hole.

use std::io;

use anyhow::Context;
use rustix::process::{
    DumpableBehavior, Gid, Signal, Uid, geteuid, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid,
};

use crate::config::{RunConfig, User};
use crate::{root, seccomp};

/// Capabilities that root keeps unless they are dropped: of those that containers have by default the
/// ones that a WASI call leads to. Where it has them there is nothing but the container's own volumes.
const KEPT: [(&str, CapabilitySet); 3] = [
    // As root of a container it writes to files of other users, and sets their times.
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
];

/// Enters the pod's view of files and drops privileges. Gives the settings as they are from there.
pub fn enter(config: &RunConfig) -> anyhow::Result<RunConfig> {
    let preopens = root::enter(config).context("show the pod's files")?;
    drop_privileges(config.user.as_ref(), kept(config)).context("drop privileges")?;
    // Last, because what comes before needs calls that the filter refuses.
    if !config.seccomp_unconfined {
        seccomp::install()?;
    }
    Ok(RunConfig { preopens, files: Vec::new(), ..config.clone() })
}

/// What is left to the container's user.
fn kept(config: &RunConfig) -> CapabilitySet {
    if config.user.as_ref().is_some_and(|user| user.uid != 0) {
        return CapabilitySet::empty();
    }
    let is_dropped =
        |name: &str| config.drop_capabilities.iter().any(|drop| drop == name || drop == "CAP_ALL");
    KEPT.iter().filter(|(name, _)| !is_dropped(name)).map(|(_, capability)| *capability).collect()
}

/// All of it is this thread's alone, which is the only one.
fn drop_privileges(user: Option<&User>, kept: CapabilitySet) -> io::Result<()> {
    if geteuid().is_root() {
        for number in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            // Above the last capability that the kernel knows, this fails with EINVAL.
            if !kept.contains(capability) && remove_capability_from_bounding_set(capability).is_err() {
                break;
            }
        }
        if let Some(user) = user {
            become_user(user)?;
        }
        // Only what is there can be kept.
        let kept = kept & capabilities(None)?.permitted;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    }
    // What is opened through `/proc` of a process, such as its root, is what it may see itself.
    // Containers that share the node's process ids (`hostPID`) shall not get at it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(set_no_new_privs(true)?)
}

fn become_user(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(user.gid))?;
    set_keep_capabilities(true)?;
    set_thread_uid(Uid::from_raw(user.uid))?;
    // Forgotten by the kernel when the user changes.
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}
