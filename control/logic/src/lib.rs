//! What Proa decides, without doing any of it: the rules of every kind, the controllers and the
//! scheduler; and the table of what the built-in types look like.
//!
//! Pure: no async runtime, no HTTP, no store, no clock, no randomness, no environment. Whatever
//! a decision needs is an argument.

pub mod admission;
pub mod controllers;
pub mod kinds;
pub mod rbac;
pub mod scheduler;
pub mod schema;
