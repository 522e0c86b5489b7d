//! SPDY/3.1, the server's side, as far as Kubernetes clients use it
//! (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>).
//!
//! Clients open streams, and this side answers each at once; it never opens one. `frame` and
//! `headers` are pure; `session` moves bytes; `flow` counts them.

mod error;
pub mod flow;
mod frame;
mod headers;
mod session;

pub use session::{Opened, Session, serve};
