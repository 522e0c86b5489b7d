//! The world: what the controllers and the scheduler both see, and how they say what they want.
//!
//! [`observed`] is folded from watch events and holds [`facts`] of each object, who owns whom
//! ([`graph`]), the [`pods`] by all that they are looked up by, the [`settings`] of the cluster and
//! what is measured for autoscalers ([`autoscaling`]). [`wakes`] says which [`controller`] has to
//! look again after a change; a decision is a [`plan`]. [`volumes`] and [`workloads`] read off
//! objects what more than one of them wants to know.
//!
//! Nothing here decides, and nothing here imports a controller or the scheduler.

pub mod plan;

pub mod facts;

pub mod graph;
pub mod pods;

pub mod autoscaling;
pub mod controller;
pub mod settings;

pub mod observed;

pub mod volumes;
pub mod workloads;

pub mod wakes;

pub use controller::Controller;
pub use facts::{Key, KindName, Object};
pub use observed::Observed;
pub use plan::Plan;
pub use wakes::Wakes;
