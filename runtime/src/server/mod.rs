//! The node's own server: what the API server, and who passes through it, asks of a node.
//!
//! `http` has the routes; each of the others serves one kind of request.

pub mod http;
pub mod logs;
pub mod metrics;
mod pod_proxy;
mod streams;
