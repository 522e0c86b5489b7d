//! proa-runtime
