//! What a kind is: its names, its schema, its forms on the wire, how it is patched, defaulted,
//! validated, described and shown; who may do what with it, and what quotas and limits make of it.
//!
//! Fed and read by the API server; the controllers ask it for a kind's facts. Pure: no async
//! runtime, no HTTP, no store, no clock, no randomness, no environment. Whatever a decision needs
//! is an argument.

pub mod built_in;
mod kind;
mod part;

mod canonical;
#[cfg(test)]
mod check;
pub mod columns;
mod decode;
#[cfg(test)]
mod long_lists;
pub mod meta;
pub mod rules;

pub mod openapi;
pub mod patch;
pub mod schema;
pub mod wire;

pub mod admission;
pub mod rbac;

#[cfg(test)]
mod testing;

pub use proa_api::syntax;

pub use kind::{
    Cell, Column, Convert, Durability, Kind, Proposal, Rules, SelectableField, Table, View, Write,
};
pub use part::{Facet, PROXY_VERBS, Part, ScalePaths, Size, Subresource};
pub use schema::Text;
