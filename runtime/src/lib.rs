//! The node: what turns pods bound to it into running sandboxes.
//!
//! `node::agent` watches the node's pods and gives each a worker (`pod::worker`). A worker observes
//! (`pod::observed`), decides (`pod::plan`, pure), acts, and shows the outcome (`pod::status`, pure).

pub mod node;
pub mod pod;

pub mod engine;
pub mod image;
pub mod net;
pub mod volume;

pub mod server;

mod away;
pub mod backoff;
pub mod child;
pub mod event;

pub use node::agent::run;
pub use node::down::{down, settle};
pub use node::host::NodeConfig;
pub use node::host_names::HostNames;
pub use node::shown_pods::ShownPods;
pub use server::http::router as kubelet_router;
