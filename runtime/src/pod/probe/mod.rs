//! Probes: startup, readiness, liveness.
//!
//! `running` has those of one pod, each a `task` that makes one `check` after the other. Source:
//! <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>.

pub mod check;
mod names;
mod running;
mod task;
pub mod tls;

pub use running::Probes;
