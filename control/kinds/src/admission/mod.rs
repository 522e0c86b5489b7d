//! Admission: what a write depends on beside its own object, as far as it can be computed from
//! those objects alone.
//!
//! Called by the registry in `proa-control` with what it has read from the store, and by the
//! simulation; it reads and writes nothing itself.

pub mod amounts;
pub mod eviction;
pub mod limit_range;
pub mod pod_security;
pub mod quota;
