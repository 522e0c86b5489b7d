//! What a node has on its machine outside of its data directory, and how that is named: a control
//! group, network devices, an nftables table.
//!
//! The names hold a short id that lies in the data directory (`node.json`), so that nodes of several
//! clusters, or of one, share a machine whatever their names in the API are. The id is the
//! directory's own: a copy of the directory, whose file is another inode, gets another id, and so
//! never ends the pods of what it was copied from.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;

use proa_sandbox::cgroup::Cgroup;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::node::paths::Paths;

/// The cgroup that holds those of all nodes of a machine.
pub const CGROUP_OF_ALL: &str = "/proa";
/// Names of devices have room for fifteen bytes, of which pods need seven.
const ID_LENGTH: usize = 4;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The names of what one node has on its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNames {
    id: String,
}

/// What lies in the data directory.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    /// Of this file.
    inode: u64,
}

impl HostNames {
    /// Those of this data directory's node, if it has any.
    pub fn known(paths: &Paths) -> io::Result<Option<Self>> {
        let file = paths.node();
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let kept: Kept = serde_json::from_slice(&text)?;
        let plain = kept.id.len() == ID_LENGTH && kept.id.bytes().all(|byte| ALPHABET.contains(&byte));
        if !plain {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("invalid id {:?}", kept.id)));
        }
        let own = std::fs::metadata(&file)?.ino() == kept.inode;
        Ok(own.then_some(HostNames { id: kept.id }))
    }

    /// Chooses names that nothing on this machine has, and keeps them.
    pub fn choose(paths: &Paths) -> io::Result<Self> {
        let names = loop {
            let letter = || char::from(ALPHABET[rand::rng().random_range(0..ALPHABET.len())]);
            let names = HostNames { id: (0..ID_LENGTH).map(|_| letter()).collect() };
            if !names.are_taken() {
                break names;
            }
        };
        let next = paths.node().with_extension("new");
        let file = std::fs::File::create(&next)?;
        let kept = Kept { id: names.id.clone(), inode: file.metadata()?.ino() };
        serde_json::to_writer(&file, &kept)?;
        file.sync_all()?;
        std::fs::rename(next, paths.node())?;
        Ok(names)
    }

    /// The device that the node's pods are reached through; their own links begin with its name.
    pub fn bridge(&self) -> String {
        format!("proa{}", self.id)
    }

    /// The nftables table.
    pub fn table(&self) -> String {
        format!("proa-{}", self.id)
    }

    /// The cgroup of all pods, relative to each controller's root.
    pub fn cgroup(&self) -> String {
        format!("{CGROUP_OF_ALL}/{}", self.id)
    }

    /// The cgroup of a pod.
    pub fn pod_cgroup(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.cgroup())
    }

    fn are_taken(&self) -> bool {
        Cgroup::at(&self.cgroup()).exists() || nix::net::if_::if_nametoindex(self.bridge().as_str()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_with_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        assert_eq!(HostNames::known(&paths).unwrap(), None);
        let names = HostNames::choose(&paths).unwrap();
        assert_eq!(HostNames::known(&paths).unwrap(), Some(names.clone()));
        assert!(names.bridge().len() == 8 && names.table().ends_with(&names.id), "{names:?}");
        assert_eq!(names.pod_cgroup("u"), format!("/proa/{}/podu", names.id));

        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(paths.node(), Paths::new(copy.path()).node()).unwrap();
        assert_eq!(HostNames::known(&Paths::new(copy.path())).unwrap(), None, "a copy has its own names");
        std::fs::write(paths.node(), r#"{"id": "../x", "inode": 1}"#).unwrap();
        assert!(HostNames::known(&paths).is_err());
    }
}
