//! The route table: which backend answers a host and a path.
//!
//! `table` is compiled from the index, with `rules` for what one Ingress says, and read by every
//! request, which finds one of its `paths`. Pure: equal indexes give equal tables.

mod backend;
mod paths;
mod problem;
mod rules;
mod table;

pub use backend::Backend;
pub use paths::Route;
pub use problem::Problem;
pub use table::Table;

#[cfg(test)]
mod tests;
