//! How much of the past is kept, and how much may wait.

use std::time::Duration;

use super::collection::WindowLimits;
use super::disk::DiskLimits;
use super::queue::QueueLimits;

/// How much of the past is kept, and how often that is looked after.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The past in memory: how far a watch can lag or go back.
    pub window: WindowLimits,
    /// The past on disk: how far a watch can go back after a restart.
    pub disk: DiskLimits,
    /// Lazy writes wait at most this long.
    pub lazy_age: Duration,
    /// How many writes may wait.
    pub queue: QueueLimits,
    /// How often all this is looked at.
    pub maintenance_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let age = Duration::from_secs(300);
        Limits {
            window: WindowLimits { age, events: 50_000, bytes: 16 << 20 },
            disk: DiskLimits { age, changes: 50_000, change_bytes_min: 2 << 20 },
            lazy_age: Duration::from_secs(300),
            queue: QueueLimits::default(),
            maintenance_interval: Duration::from_secs(30),
        }
    }
}
