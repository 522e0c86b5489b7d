//! How a Wasm container's process is told what to run, in the words of the program that reads it.

#[path = "../../wasm/src/config.rs"]
#[allow(dead_code)]
mod shared;

pub use shared::*;
