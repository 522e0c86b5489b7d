//! The control plane: the API server, the store, the watch hub, and the shell that runs the
//! logic of `proa-logic`.

pub mod pki;
