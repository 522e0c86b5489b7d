//! How many descriptors this process may have open.
//!
//! A process begins with a soft limit that old programs can live with (`select(2)`), and may raise it up
//! to the hard one, which is what the administrator allows. What runs in pods is given the one that this
//! process began with.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More are of no use, and a table of them is memory.
const MOST: u64 = 1 << 20;
/// What is reckoned with where the kernel does not say.
const USUAL: u64 = 1024;

/// The soft limit that this process began with.
static BEGAN_WITH: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit as far as it may be, and gives what it is then. Children inherit it.
pub fn raise() -> usize {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(MOST);
        BEGAN_WITH.get_or_init(|| soft);
        if wanted > soft
            && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
        {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
    limit()
}

/// How many this process may have open.
pub fn limit() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft);
    usize::try_from(soft.min(MOST)).unwrap_or(usize::MAX)
}

/// The soft limit of what runs in pods, where it is another than this process's.
pub fn of_pods() -> Option<u64> {
    BEGAN_WITH.get().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_what_it_was_is_known() {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, before.1.min(512), before.1).unwrap();
        assert_eq!((of_pods(), limit() as u64), (None, before.1.min(512)));
        assert_eq!(raise() as u64, before.1.min(MOST));
        assert_eq!(of_pods(), Some(before.1.min(512)));
        raise();
        assert_eq!(of_pods(), Some(before.1.min(512)), "the first is what counts");
        setrlimit(Resource::RLIMIT_NOFILE, before.0, before.1).unwrap();
    }
}
