//! What Proa decides, without doing any of it: the controllers and the scheduler, and the world
//! that both see.
//!
//! Pure: no async runtime, no HTTP, no store, no clock, no randomness, no environment. Whatever
//! a decision needs is an argument.

pub mod world;

pub mod controllers;
pub mod scheduler;
