//! What all parts of Proa share of the Kubernetes model beyond the types of `k8s-openapi`.
//!
//! Pure: no clock, no environment, no IO. Every other crate may depend on this one; it depends
//! on none of them.

pub mod condition;
pub mod field;
pub mod local_path;
pub mod names;
pub mod namespaced_name;
pub mod owner;
pub mod placement;
pub mod quantity;
pub mod references;
pub mod resources;
pub mod seldom;
pub mod selector;
pub mod shares;
pub mod signals;
pub mod slices;
pub mod status;
pub mod syntax;
pub mod telling;
pub mod turns;

pub use status::Refusal;
