//! What somebody wants to do, in the words of rules and of refusals.
//!
//! Made by the API server of a request or of a review; read by everything that decides about it.

use std::fmt;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Attributes<'a> {
    /// Something with objects.
    Resource {
        /// `list`.
        verb: &'a str,
        /// Empty for the core group.
        group: &'a str,
        /// `pods`.
        plural: &'a str,
        /// Empty for the objects themselves.
        subresource: &'a str,
        /// `None` at cluster scope and across namespaces.
        namespace: Option<&'a str>,
        /// Empty for many.
        name: &'a str,
    },
    /// Something with another path, such as `/version`.
    Path {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

impl Attributes<'_> {
    /// The namespace; `None` at cluster scope and of paths.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Attributes::Resource { namespace, .. } => *namespace,
            Attributes::Path { .. } => None,
        }
    }
}

impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Attributes::Path { verb, path } => write!(f, "{verb} path {path:?}"),
            Attributes::Resource { verb, group, plural, subresource, namespace, .. } => {
                let slash = if subresource.is_empty() { "" } else { "/" };
                write!(f, "{verb} resource \"{plural}{slash}{subresource}\" in API group {group:?} ")?;
                match namespace {
                    Some(namespace) => write!(f, "in the namespace {namespace:?}"),
                    None => f.write_str("at the cluster scope"),
                }
            }
        }
    }
}
