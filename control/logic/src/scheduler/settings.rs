//! Settings: the profiles, and how long pods wait.

use super::plugins;
use super::profile::Profile;
use super::queue::BackOff;
use crate::world::facts::Pod;

/// The settings of the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// One for each `schedulerName`.
    pub profiles: Vec<Profile>,
    /// How long a pod that fits nowhere waits.
    pub back_off: BackOff,
}

impl Default for Settings {
    fn default() -> Self {
        let profiles = vec![plugins::stock_profile(proa_api::names::DEFAULT_SCHEDULER)];
        Settings { profiles, back_off: BackOff::default() }
    }
}

impl Settings {
    /// The profile for a pod that is not bound; `None` if it is another scheduler's.
    pub fn profile(&self, pod: &Pod) -> Option<&Profile> {
        let name = &pod.wishes.as_ref()?.scheduler;
        self.profiles.iter().find(|p| *p.name == **name)
    }
}
