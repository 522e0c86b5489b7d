//! The soft limit of open files. The node raises its own, and the sandbox, which serves many streams,
//! inherits that; a container begins with what the node began with.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

static OF_CONTAINERS: OnceLock<u64> = OnceLock::new();

/// What containers are to begin with. Called once, at the start.
pub fn remember(soft: Option<u64>) {
    if let Some(soft) = soft {
        OF_CONTAINERS.get_or_init(|| soft);
    }
}

/// Gives this process that limit: the last thing before it becomes a container's, as more may be open by
/// then. Allocates nothing.
pub fn give_back() {
    let Some(soft) = OF_CONTAINERS.get() else { return };
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // It refuses only what is above the hard limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, (*soft).min(hard), hard);
    }
}
