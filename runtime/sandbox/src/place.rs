//! What a container is made of, gathered for the process that makes it.

use std::path::Path;

use crate::cgroup::Cgroup;
use crate::protocol::{Container, Security};

/// What a container is made of, beside what was asked for.
pub struct Place<'a> {
    /// What was asked for.
    pub container: &'a Container,
    /// Its layers, lowest first.
    pub layers: &'a [String],
    /// Where its writable layer is, on a disk.
    pub scratch: &'a Path,
    /// Where what it is started with is, in memory.
    pub bundle: &'a Path,
    /// Its identity.
    pub security: &'a Security,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
    /// Host name of the pod.
    pub hostname: &'a str,
    /// The first process of the process namespace that it shares with the pod's others.
    pub init: Option<i32>,
    /// Where libcontainer keeps its notes.
    pub state: &'a Path,
}
