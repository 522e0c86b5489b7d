//! proa-wasm
