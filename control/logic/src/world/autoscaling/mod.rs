//! What autoscalers go by beside the objects: how they are set, what is measured of pods, and what
//! each of them has decided before.
//!
//! Kept by [`super::Observed`]; read by `controllers/horizontal_pod_autoscaler`, which says in its
//! plans what is to be remembered.

pub mod memory;
pub mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;

use super::facts::Key;
use memory::Memory;
use sample::Sample;

/// What autoscalers are set to, all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How often pods are looked at.
    pub sync_period: SignedDuration,
    /// For so long a higher recommendation holds, where the spec says nothing of it.
    pub downscale_stabilization: SignedDuration,
    /// So far from the target a ratio may be without any change, where the spec says nothing of it.
    pub tolerance: f64,
    /// For so long after its start, the CPU of a pod counts only while it is ready.
    pub cpu_initialization_period: SignedDuration,
    /// A pod that has become unready no later than this after its start was never ready.
    pub initial_readiness_delay: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sync_period: SignedDuration::from_secs(15),
            downscale_stabilization: SignedDuration::from_mins(5),
            tolerance: 0.1,
            cpu_initialization_period: SignedDuration::from_mins(5),
            initial_readiness_delay: SignedDuration::from_secs(30),
        }
    }
}

/// What is known for autoscalers beside the objects.
#[derive(Clone, Debug, Default)]
pub struct Autoscaling {
    /// The last look at the pods.
    pub sample: Option<Arc<Sample>>,
    /// What each has decided before.
    pub memory: BTreeMap<Key, Memory>,
}

impl Autoscaling {
    /// Keeps what a decision wants to be reminded of; nothing of an autoscaler that is gone.
    pub fn remember(&mut self, key: &Key, memory: Memory) {
        if memory == Memory::default() {
            self.memory.remove(key);
        } else {
            self.memory.insert(key.clone(), memory);
        }
    }
}
