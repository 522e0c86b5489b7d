//! The node: what turns pods bound to it into running sandboxes.
//!
//! `agent` watches the node's pods and gives each a worker (`pod`). A worker observes
//! (`observed`), decides (`plan`, pure), acts, and shows the outcome (`status`, pure).

pub mod admit;
pub mod agent;
pub mod backoff;
pub mod child;
pub mod cluster;
pub mod container;
pub mod directory;
pub mod down;
pub mod downward;
pub mod engine;
pub mod env;
pub mod etc;
pub mod event;
pub mod eviction;
pub mod foreign;
pub mod host;
pub mod host_names;
pub mod http;
pub mod image;
pub mod image_pull;
pub mod join;
pub mod last_words;
pub mod local_path;
pub mod log;
mod lsm;
pub mod metrics;
pub mod net;
pub mod node;
pub mod objects;
pub mod observed;
pub mod paths;
pub mod plan;
pub mod pod;
mod pod_proxy;
pub mod preflight;
pub mod probe;
pub mod request_limits;
pub mod resources;
mod run_dir;
mod runtime_class;
pub mod security;
pub mod start;
pub mod status;
pub mod stop;
mod stream;
pub mod sysctl;
pub mod volume;

pub use agent::run;
pub use directory::Directory;
pub use down::{down, settle};
pub use host::NodeConfig;
pub use host_names::HostNames;
pub use http::router as kubelet_router;
