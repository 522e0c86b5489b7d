//! The control plane: the API server, the store, the watch hub, and the shell that runs the
//! logic of `proa-logic`.

pub mod openapi;
pub mod patch;
pub mod pki;
pub mod schema;
pub mod wire;
