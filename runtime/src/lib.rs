//! The node: what turns pods bound to it into running sandboxes.

pub mod image;
