//! One pod: whether the node takes it, what is seen of it, what is to be done, and the doing.
//!
//! `worker` brings the parts together; `handle` keeps it going. Pure are `admit`, `observed`, `plan` and `status`, and what
//! makes a container's settings out of the pod's; `start`, `volumes` and `stop` act.

pub mod handle;
mod steps;
pub mod told;
mod worker;

pub mod admit;
pub mod lsm;
pub mod sysctl;

pub mod observed;
pub mod plan;
pub mod status;

pub mod image_pull;
mod runtime_class;
pub mod start;
pub mod stop;
pub mod volumes;

pub mod budget;
pub mod container;
pub mod downward;
pub mod env;
pub mod etc_files;
pub mod last_words;
pub mod request_limits;
pub mod resources;
pub mod security;

pub mod disk;
pub mod eviction;
pub mod objects;
pub mod probe;
