//! What every cluster has from its first start.
//!
//! Made through the registry like all else, and put right at each start, so that nothing here
//! depends on whether it is the first.
//!
//! - [`objects`]: namespaces, classes and the Services of API and DNS
//! - [`policy`]: the default roles and their bindings

pub mod objects;
pub mod policy;
