//! The node: what turns pods bound to it into running sandboxes.
//!
//! `agent` watches the node's pods and gives each a worker (`pod`). A worker observes
//! (`observed`), decides (`plan`, pure), acts, and shows the outcome (`status`, pure).

pub mod backoff;
pub mod downward;
pub mod engine;
pub mod env;
pub mod etc;
pub mod event;
pub mod image;
pub mod net;
pub mod observed;
pub mod paths;
pub mod plan;
pub mod resources;
pub mod security;
pub mod status;
