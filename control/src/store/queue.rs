//! How many writes may wait for the writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the writes that wait, and their bytes.
#[derive(Clone, Default)]
pub(super) struct Queue(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    writes: AtomicUsize,
    bytes: AtomicUsize,
}

/// One write's place in the queue; free again when this is dropped.
pub(super) struct Place {
    queue: Queue,
    bytes: usize,
}

impl Queue {
    /// A place for a write of so many bytes, if it and those that wait are within the limits.
    pub(super) fn enter(&self, bytes: usize, limits: &QueueLimits) -> Option<Place> {
        // The place is dropped, and so given back, where it is too much.
        let place = Place { queue: self.clone(), bytes };
        let writes = self.0.writes.fetch_add(1, Ordering::AcqRel) + 1;
        let total = self.0.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        (writes <= limits.writes && total <= limits.bytes).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.0.writes.fetch_sub(1, Ordering::AcqRel);
        self.queue.0.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The most that may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Writes.
    pub writes: usize,
    /// Bytes of the objects that they write.
    pub bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        QueueLimits { writes: 4096, bytes: 64 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_is_told_and_empties() {
        let queue = Queue::default();
        let limits = QueueLimits { writes: 2, bytes: 100 };
        let one = queue.enter(60, &limits);
        assert!(one.is_some());
        assert!(queue.enter(60, &limits).is_none(), "too many bytes");
        let two = queue.enter(40, &limits);
        assert!(two.is_some(), "what was refused takes no place");
        assert!(queue.enter(0, &limits).is_none(), "too many writes");
        drop(one);
        assert!(queue.enter(60, &limits).is_some());
    }
}
