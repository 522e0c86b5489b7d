//! proa-control
