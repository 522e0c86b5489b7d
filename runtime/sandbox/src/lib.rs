//! One pod's holder: the parent of all its containers, single-threaded.

pub mod protocol;
