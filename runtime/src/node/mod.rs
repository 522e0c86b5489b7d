//! The node itself: what it is to the API server, and what it has on its machine.
//!
//! `agent` is the loop that everything starts from; `host` is what all pods of the node share.

pub mod agent;
pub mod host;
pub mod join;
pub mod registration;

pub mod disk;
mod foreign_images;
pub mod local_path;
pub mod machine;
mod memory;
mod object;
pub mod pressure;
pub mod shown_pods;

pub mod cluster;
pub mod descriptors;
pub mod down;
pub mod host_names;
pub mod paths;
pub mod preflight;
mod run_dir;
