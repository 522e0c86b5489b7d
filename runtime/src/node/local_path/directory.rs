//! The directories of local paths: made, and removed with all that is in them.
//!
//! What lies in them was written by containers, so nothing in them is followed; and a name that is
//! not one step below the root is refused, wherever it came from.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use proa_sandbox::remove::remove_tree;

/// Prefix of a directory that is being removed.
const REMOVED: &str = ".removed-";

/// Makes the directory of a volume, into which any user of any container may write. Nothing
/// changes if it is there.
pub fn make(root: &Path, name: &str) -> io::Result<()> {
    let path = one_step(root, name)?;
    // Only root passes through here, so that other users of the machine see nothing of it.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(&path)?;
            if !found.is_dir() {
                return Err(io::Error::other(format!("{} is no directory", path.display())));
            }
        }
        made => made?,
    }
    // The umask does not count. The root is closed to all who could put a link in its place.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
}

/// Removes the directory of a volume. Nothing to remove is success.
pub fn remove(root: &Path, name: &str) -> io::Result<()> {
    let path = one_step(root, name)?;
    let aside = root.join(format!("{REMOVED}{name}"));
    // First out of sight in one step: a removal that is cut short leaves no half volume.
    match std::fs::rename(&path, &aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    remove_tree(&aside)
}

fn one_step(root: &Path, name: &str) -> io::Result<PathBuf> {
    let mut steps = Path::new(name).components();
    match (steps.next(), steps.next()) {
        (Some(Component::Normal(step)), None) if step == name && !name.starts_with('.') => {
            Ok(root.join(name))
        }
        _ => Err(io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is no name of a volume"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_twice_and_removed_twice() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("local");
        make(&root, "v").unwrap();
        std::fs::write(root.join("v/file"), "data").unwrap();
        make(&root, "v").unwrap();
        assert_eq!(std::fs::read(root.join("v/file")).unwrap(), b"data");
        assert_eq!(std::fs::metadata(root.join("v")).unwrap().permissions().mode() & 0o777, 0o777);
        remove(&root, "v").unwrap();
        remove(&root, "v").unwrap();
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn links_and_odd_names_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("local"), dir.path().join("outside"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("kept"), "data").unwrap();
        make(&root, "v").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("v/link")).unwrap();
        remove(&root, "v").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("w")).unwrap();
        assert!(make(&root, "w").is_err());
        for name in ["..", ".", "", "/", "../outside", "a/b", ".removed-v", "v/"] {
            assert!(make(&root, name).is_err() && remove(&root, name).is_err(), "{name:?}");
        }
        assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"data");
    }
}
