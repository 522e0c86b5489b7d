//! Starts what runs: one sandbox process per pod, and the compiled form of each Wasm module.
//!
//! Fed by the node's pod workers, which decide what is to run. Knows the sandbox's protocol and
//! wasmtime, and nothing of Kubernetes objects.

pub mod compile;
mod lane;
mod open;
mod outline;
pub mod reap;
pub mod sandbox;
pub mod wasm;

pub use open::{OpenError, Running};
pub use reap::reap;
pub use sandbox::{EngineError, Sandbox};
pub use wasm::{CompileError, Compiled};
