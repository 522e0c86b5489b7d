//! The readings of one node, and what was used between two of them. Pure.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

/// What is used is told over at least this time where it is known for so long.
const WINDOW: SignedDuration = SignedDuration::from_secs(10);
/// What is used is not told over a shorter time than this.
const SHORTEST: SignedDuration = SignedDuration::from_millis(900);
/// What was used before this is not "now".
const STALE: SignedDuration = SignedDuration::from_secs(60);

/// One container of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerName {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
}

/// One look at the counters of a container or a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// When it was taken.
    pub at: Timestamp,
    /// Billionths of a second of CPU since the start.
    pub cpu_nanos: Option<u64>,
    /// Bytes that cannot be taken back without harm.
    pub memory_bytes: Option<u64>,
    /// When the counting began.
    pub started: Option<Timestamp>,
}

impl Point {
    /// A look at nothing yet.
    pub fn at(at: Timestamp) -> Self {
        Point { at, ..Point::default() }
    }
}

/// One look at a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// When it was taken.
    pub at: Timestamp,
    /// The node as a whole.
    pub node: Point,
    /// Its containers.
    pub containers: BTreeMap<ContainerName, Point>,
}

/// What a container or a node uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The end of the time over which the use of CPU was measured.
    pub at: Timestamp,
    /// That time.
    pub window: SignedDuration,
    /// Billionths of a CPU.
    pub cpu_nanos: u64,
    /// Bytes that cannot be taken back without harm.
    pub memory_bytes: u64,
}

/// What a node uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeUsage {
    /// The node as a whole.
    pub node: Option<Usage>,
    /// Its containers, those that have run for long enough.
    pub containers: BTreeMap<ContainerName, Usage>,
}

/// The last readings of one node, oldest first.
#[derive(Debug, Default)]
pub struct History(VecDeque<Reading>);

impl History {
    /// Adds a reading, and forgets those that no window will begin with any more.
    pub fn push(&mut self, reading: Reading) {
        let now = reading.at;
        let older_than = |r: Option<&Reading>, age| r.is_some_and(|r| now.duration_since(r.at) >= age);
        // A clock that was set back makes all that was read before it useless.
        if self.0.back().is_some_and(|last| last.at >= now) {
            self.0.clear();
        }
        while older_than(self.0.front(), STALE) || older_than(self.0.get(1), WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back(reading);
    }

    /// True if there is a reading, and none before it to compare it with.
    pub fn is_waiting(&self) -> bool {
        self.0.len() == 1
    }

    /// What was used up to the last reading, unless that is too long ago.
    pub fn usage(&self, now: Timestamp) -> Option<NodeUsage> {
        let last = self.0.back().filter(|last| now.duration_since(last.at) < STALE)?;
        let earlier = || self.0.iter().rev().skip(1);
        let containers = last.containers.iter().filter_map(|(name, point)| {
            Some((name.clone(), used(point, earlier().filter_map(|r| r.containers.get(name)))?))
        });
        let node = used(&last.node, earlier().map(|r| &r.node));
        Some(NodeUsage { node, containers: containers.collect() })
    }
}

/// What was used up to `point`, since the newest of `earlier` (newest first) that is long enough
/// ago; else since the oldest; else since the start.
fn used<'a>(point: &Point, earlier: impl Iterator<Item = &'a Point>) -> Option<Usage> {
    let (cpu, memory_bytes) = (point.cpu_nanos?, point.memory_bytes?);
    let mut since: Option<(Timestamp, u64)> = None;
    // Counters that are lower than before are those of another run.
    let same_run = |e: &&Point| e.started == point.started && e.cpu_nanos.is_some_and(|nanos| nanos <= cpu);
    for point_before in earlier.take_while(same_run) {
        since = Some((point_before.at, point_before.cpu_nanos.unwrap_or(0)));
        if point.at.duration_since(point_before.at) >= WINDOW {
            break;
        }
    }
    let from_start = || {
        let started = point.started.filter(|at| point.at.duration_since(*at) < STALE)?;
        Some((started, 0))
    };
    let (begin, before) = since.or_else(from_start)?;
    let window = point.at.duration_since(begin);
    if window < SHORTEST {
        return None;
    }
    let nanos = u128::from(cpu - before) * 1_000_000_000 / window.as_nanos().unsigned_abs();
    Some(Usage { at: point.at, window, cpu_nanos: u64::try_from(nanos).unwrap_or(u64::MAX), memory_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: f64) -> Timestamp {
        Timestamp::from_millisecond((n * 1000.0) as i64).unwrap()
    }

    /// A reading at a time, of a container that was started at another and has used so many seconds.
    fn reading(at: f64, started: f64, cpu: f64) -> Reading {
        let point = Point {
            at: second(at),
            cpu_nanos: Some((cpu * 1e9) as u64),
            memory_bytes: Some(7),
            started: Some(second(started)),
        };
        let name = ContainerName { namespace: "n".into(), pod: "p".into(), container: "c".into() };
        Reading {
            at: second(at),
            node: Point { started: None, ..point.clone() },
            containers: [(name, point)].into(),
        }
    }

    /// Window in seconds and thousandths of a CPU, of the container and of the node.
    #[track_caller]
    fn check(
        readings: &[(f64, f64, f64)],
        container: Option<(f64, u64)>,
        node: Option<(f64, u64)>,
    ) -> History {
        let mut history = History::default();
        for (at, started, cpu) in readings {
            history.push(reading(*at, *started, *cpu));
        }
        let usage = history.usage(second(readings.last().unwrap().0)).unwrap();
        let told = |u: &Usage| (u.window.as_secs_f64(), u.cpu_nanos / 1_000_000);
        assert_eq!(usage.containers.values().next().map(told), container);
        assert_eq!(usage.node.as_ref().map(told), node);
        history
    }

    #[test]
    fn what_is_used() {
        // One reading of what has long been running tells nothing.
        assert!(check(&[(100.0, 0.0, 50.0)], None, None).is_waiting());
        // What has just been started tells of itself.
        check(&[(100.0, 96.0, 2.0)], Some((4.0, 500)), None);
        check(&[(100.0, 99.5, 2.0)], None, None);
        // Two readings.
        check(&[(100.0, 0.0, 50.0), (101.0, 0.0, 50.25)], Some((1.0, 250)), Some((1.0, 250)));
        // The newest that is ten seconds ago, else the oldest.
        let four = [(100.0, 0.0, 50.0), (102.0, 0.0, 52.0), (104.0, 0.0, 52.0), (113.0, 0.0, 52.0)];
        check(&four, Some((11.0, 0)), Some((11.0, 0)));
        check(&four[..3], Some((4.0, 500)), Some((4.0, 500)));
        // A container that was started again meanwhile.
        check(&[(100.0, 0.0, 50.0), (120.0, 110.0, 1.0)], Some((10.0, 100)), None);
        // What was long ago is forgotten.
        assert!(check(&[(100.0, 0.0, 50.0), (161.0, 0.0, 51.0)], None, None).is_waiting());
        // The clock was set back.
        assert!(check(&[(100.0, 0.0, 50.0), (99.0, 0.0, 51.0)], None, None).is_waiting());
    }

    #[test]
    fn few_readings_are_kept() {
        let mut history = History::default();
        for i in 0..100 {
            history.push(reading(f64::from(i), 0.0, f64::from(i)));
        }
        assert!(history.0.len() <= 12, "{}", history.0.len());
        assert_eq!(history.usage(second(200.0)), None, "nobody has asked for long");
    }
}
