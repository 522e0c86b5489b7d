//! How many descriptors this process may have open, and how many clients it may let in with them.
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

/// How many there may be at a time of what clients take descriptors with. Together that leaves some for
/// all else: one that asks for much must not take up those that the rest needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Connections to the API. One descriptor each.
    pub api: usize,
    /// Connections to the ingress. Two each, with that to an endpoint.
    pub ingress: usize,
    /// Connections to the node's own server that have asked nothing yet. One each.
    pub waiting: usize,
    /// Connections that are forwarded to pods. One each.
    pub forwarded: usize,
    /// Clients of `exec`, `attach` and `port-forward`. Four each: three streams and a connection to the
    /// sandbox.
    pub streams: usize,
    /// Logs that are read. Two each where one is rotated.
    pub logs: usize,
    /// Requests that are carried to pods, a quarter of them one pod's. Two each, with that to the pod.
    pub proxied: usize,
    /// Connections to the DNS server. One each.
    pub dns: usize,
}

impl Allowed {
    /// In a process that may have so many descriptors open.
    pub fn of(limit: usize) -> Self {
        // One in so many, but some in any case, and no more than are of use.
        let one_in = |divisor: usize, most: usize| (limit / divisor).clamp(16, most);
        Allowed {
            api: one_in(4, 8 << 10),
            ingress: one_in(8, 16 << 10),
            waiting: one_in(16, 2048),
            forwarded: one_in(16, 4000),
            streams: one_in(32, 1000),
            logs: one_in(32, 2000),
            proxied: one_in(64, 1000),
            dns: one_in(32, 1024),
        }
    }
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

    #[test]
    fn clients_leave_descriptors_for_the_rest() {
        for limit in [1024, 4096, 20_000, 1 << 20] {
            let Allowed { api, ingress, waiting, forwarded, streams, logs, proxied, dns } =
                Allowed::of(limit);
            let taken = api + 2 * ingress + waiting + forwarded + 4 * streams + 2 * (logs + proxied) + dns;
            assert!(taken <= limit / 8 * 7, "{taken} of {limit}");
        }
        assert_eq!(Allowed::of(64).api, 16, "some in any case");
    }
}
