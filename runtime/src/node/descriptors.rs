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
        BEGAN_WITH.get_or_init(|| soft);
        if let Some(wanted) = wanted(soft, hard)
            && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
        {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
    limit()
}

/// The soft limit to ask for, if there is less.
fn wanted(soft: u64, hard: u64) -> Option<u64> {
    let wanted = hard.min(MOST);
    (wanted > soft).then_some(wanted)
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
    fn the_soft_limit_is_raised_to_the_hard_one_and_no_further_than_is_of_use() {
        for (soft, hard, expected) in [
            (1024, 524_288, Some(524_288)),
            (1024, u64::MAX, Some(MOST)),
            (512, 512, None),
            (MOST, u64::MAX, None),
            (u64::MAX, u64::MAX, None),
        ] {
            assert_eq!(wanted(soft, hard), expected, "{soft} of {hard}");
        }
    }
}
