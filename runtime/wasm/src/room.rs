//! How many requests are worked on at a time, and what becomes of those beyond that.
//!
//! There are as many slots as the container's memory has room for. A request without one waits for
//! its turn, for a while and in a queue with an end; then it is told to come again. The node's
//! health checks have a few slots of their own, so that a busy container is not taken for a dead
//! one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, USER_AGENT};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::RunConfig;

/// Most requests that are worked on at a time, however much memory there is.
const SLOTS: usize = 1000;
/// Most requests that wait.
const QUEUE: usize = 1000;
/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Health checks that find a slot though all others are taken.
const PROBES: usize = 4;
/// The unit in which memory is given out: a page of WebAssembly.
pub const PAGE: u64 = 64 << 10;
/// What an instance takes beside its memory, in pages: its stack, its tables and the host's part.
const INSTANCE_PAGES: u64 = 4;
/// Of the memory that an instance starts with, most are only reserved. One page in so many counts.
const TOUCHED: u64 = 4;
/// What the process keeps for itself of the container's memory, at least.
const OWN: u64 = 8 << 20;

/// Hands out slots.
pub struct Room {
    memory: Memory,
    /// Pages that a slot takes.
    cost: u32,
    waiting: AtomicUsize,
    probes: Arc<Semaphore>,
    node: Option<IpAddr>,
}

/// Held while a request is worked on.
pub struct Slot(#[allow(dead_code, reason = "gives its place back when it is dropped")] OwnedSemaphorePermit);

/// Neither is there a slot, nor has one become free in time.
#[derive(Debug)]
pub struct Full;

/// What instances may grow into.
#[derive(Clone)]
pub struct Memory {
    /// Pages that are left for all.
    pages: Arc<Semaphore>,
    /// Growth takes from them too: the container has a limit.
    limited: bool,
    /// Most bytes of one instance.
    pub most: Option<u64>,
}

impl Room {
    /// Room for instances that start with so many bytes of memory.
    pub fn new(config: &RunConfig, initial_bytes: u64) -> Self {
        let (cost, pages) = shares(config.memory_bytes, initial_bytes);
        let half = config.memory_bytes.map(|limit| initial_bytes + limit / 2);
        let memory = Memory {
            pages: Arc::new(Semaphore::new(pages)),
            limited: config.memory_bytes.is_some(),
            most: config.requests.instance_memory_bytes.or(half),
        };
        let probes = Arc::new(Semaphore::new(PROBES));
        Self { memory, cost, waiting: AtomicUsize::new(0), probes, node: config.requests.node_address }
    }

    /// What instances may grow into.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A slot for a request from `peer` with these headers.
    pub async fn enter(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Slot, Full> {
        if let Ok(slot) = self.memory.pages.clone().try_acquire_many_owned(self.cost) {
            return Ok(Slot(slot));
        }
        if self.is_probe(peer, headers)
            && let Ok(slot) = self.probes.clone().try_acquire_owned()
        {
            return Ok(Slot(slot));
        }
        let _waiting = Waiting::new(&self.waiting).ok_or(Full)?;
        let turn = self.memory.pages.clone().acquire_many_owned(self.cost);
        match tokio::time::timeout(PATIENCE, turn).await {
            Ok(Ok(slot)) => Ok(Slot(slot)),
            _ => Err(Full),
        }
    }

    /// Whether the node itself asks. What others send through the node's proxies comes from its
    /// address too, and could call itself a probe, but the ingress says for whom it asks.
    fn is_probe(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
        let agent = headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/"));
        agent && self.node == Some(peer.to_canonical()) && !headers.contains_key(FORWARDED)
    }
}

impl Memory {
    /// Lets an instance grow by so many bytes, and gives the pages that this takes.
    pub fn take(&self, bytes: u64) -> Option<u32> {
        if !self.limited {
            return Some(0);
        }
        let pages = u32::try_from(bytes.div_ceil(PAGE)).ok()?;
        self.pages.try_acquire_many(pages).ok()?.forget();
        Some(pages)
    }

    /// Gives back what an instance had taken.
    pub fn give_back(&self, pages: u32) {
        self.pages.add_permits(pages as usize);
    }
}

/// Pages that one slot takes, and pages that there are: for at least one slot, at most [`SLOTS`].
fn shares(limit: Option<u64>, initial_bytes: u64) -> (u32, usize) {
    let cost = INSTANCE_PAGES + (initial_bytes / TOUCHED).div_ceil(PAGE);
    let all = cost * SLOTS as u64;
    let pages = limit.map_or(all, |limit| limit.saturating_sub(OWN.max(limit / 8)) / PAGE);
    let pages = if limit.is_some() { pages.max(cost) } else { all };
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX >> 3);
    (count(cost), count(pages) as usize)
}

/// One request in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Option<Self> {
        // Made before the check, so that its drop takes back what was counted.
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let one = Self(waiting);
        (before < QUEUE).then_some(one)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MIB: u64 = 1 << 20;
    const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 42, 0, 1));

    fn room(pages: usize) -> Room {
        Room {
            memory: Memory { pages: Arc::new(Semaphore::new(pages)), limited: true, most: None },
            cost: 4,
            waiting: AtomicUsize::new(0),
            probes: Arc::new(Semaphore::new(PROBES)),
            node: Some(NODE),
        }
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = list
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn memory_makes_slots() {
        let slots = |limit, initial| {
            let (cost, pages) = shares(limit, initial);
            pages / cost as usize
        };
        assert_eq!(slots(None, MIB), SLOTS);
        assert_eq!(slots(None, 64 * MIB), SLOTS);
        assert_eq!(slots(Some(64 * MIB), MIB), 112);
        assert_eq!(slots(Some(256 * MIB), 20 * MIB), 42);
        // However little there is, one request can be tried.
        assert_eq!(slots(Some(MIB), MIB), 1);
        assert_eq!(slots(Some(16 * MIB), 100 * MIB), 1);
        // More memory than slots is for growing.
        assert!(slots(Some(16 << 30), MIB) > SLOTS);
    }

    #[tokio::test(start_paused = true)]
    async fn queue_has_an_end_and_a_deadline() {
        let room = room(8);
        let none = HeaderMap::new();
        let first = room.enter(NODE, &none).await.expect("room");
        let _second = room.enter(NODE, &none).await.expect("room");
        let begun = tokio::time::Instant::now();
        assert!(room.enter(NODE, &none).await.is_err());
        assert_eq!(begun.elapsed(), PATIENCE);
        // One that leaves makes room for one that waits.
        let (third, ()) = tokio::join!(room.enter(NODE, &none), async { drop(first) });
        assert!(third.is_ok());
        room.waiting.store(QUEUE, Ordering::Relaxed);
        let begun = tokio::time::Instant::now();
        assert!(room.enter(NODE, &none).await.is_err());
        assert!(begun.elapsed().is_zero());
        assert_eq!(room.waiting.load(Ordering::Relaxed), QUEUE);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_pass_the_queue() {
        let room = room(4);
        let _all = room.enter(NODE, &HeaderMap::new()).await.expect("room");
        let probe = headers(&[("user-agent", "kube-probe/1.35")]);
        let mut held = Vec::new();
        for _ in 0..PROBES {
            held.push(room.enter(NODE, &probe).await.expect("a reserved slot"));
        }
        assert!(room.enter(NODE, &probe).await.is_err(), "probes are bounded too");
        held.clear();
        let other = IpAddr::V4(Ipv4Addr::new(10, 42, 0, 7));
        assert!(room.enter(other, &probe).await.is_err(), "another pod");
        let browser = headers(&[("user-agent", "curl/8")]);
        assert!(room.enter(NODE, &browser).await.is_err(), "another program");
        let proxied = headers(&[("user-agent", "kube-probe/1.35"), ("x-forwarded-for", "192.0.2.1")]);
        assert!(room.enter(NODE, &proxied).await.is_err(), "through the ingress");
    }

    #[test]
    fn growth_comes_from_the_same_memory() {
        let memory = room(10).memory;
        assert_eq!(memory.take(PAGE * 7 + 1), Some(8));
        assert_eq!(memory.take(PAGE * 3), None);
        memory.give_back(8);
        assert_eq!(memory.take(PAGE * 10), Some(10));
        let unlimited = Memory { limited: false, ..memory };
        assert_eq!(unlimited.take(1 << 40), Some(0));
    }
}
