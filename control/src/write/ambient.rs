//! What a write takes from outside: the time, and chance.

use jiff::Timestamp;

/// Where the time and chance come from, so that a run can be repeated.
pub trait Ambient: Send + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
    /// As many random bits as a uid has.
    fn random(&self) -> u128;
}

/// The machine's clock, and the system's randomness.
pub struct Machine;

impl Ambient for Machine {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> u128 {
        rand::random()
    }
}
