//! Seeds that have found a fault, each with its story. They are replayed before any others.
//!
//! A seed stands for a history only as long as the simulation makes the same choices; when it learns
//! something new, the stories stay and the histories become others.

use super::Users;

pub struct Kept {
    pub users: Users,
    pub calm: bool,
    pub seed: u64,
    pub steps: u64,
    pub story: &'static str,
}

pub const KEPT: &[Kept] = &[Kept {
    users: Users::Scheduling,
    calm: true,
    seed: 1007,
    steps: 1500,
    story: "the node controller wrote its list of taints over one that an operator had just changed",
}];
