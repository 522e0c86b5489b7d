//! The control plane: the API server, the store, the watch hub, and the shell that runs the
//! logic of `proa-logic`.

pub mod bootstrap;
pub mod http;
pub mod kubelet;
pub mod pki;
pub mod policy;
pub mod registry;
pub mod server;
pub mod shell;
pub mod store;
pub mod watch;
pub mod write;
