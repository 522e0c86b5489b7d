//! The data directory is root's own: made so, and what lies in it narrowed at each start, whatever
//! the directory that it is in lets others do.
//!
//! The store holds every Secret in clear, and layers of images may hold files that run with root's
//! rights for whoever starts them, so neither may be reached by the host's other users.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proa_runtime::node::paths::Paths;

/// What others may do with a file.
const OF_OTHERS: u32 = 0o077;
/// Others may change what is in a directory.
const OTHERS_WRITE: u32 = 0o022;
/// Files and directories that parts make for themselves, already narrow: here because a restored
/// backup may not be.
const OF_PARTS: [&str; 7] =
    ["store.redb", "store.new", "pki", "node", "kubeconfig", "kubeconfig.new", "lock"];

/// Makes the data directory and those in it, which only root reads, and narrows what is there. Links
/// are followed, because parts of the data may lie on another disk. Gives the directory without links,
/// as the kernel names what is mounted in it.
pub fn prepare(path: &Path) -> Result<PathBuf> {
    make(path).with_context(|| format!("cannot make the data directory {}", path.display()))?;
    let shown = path.display();
    check_owner(path)?;
    let mode = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.permissions().mode();
    ensure!(
        mode & OTHERS_WRITE == 0,
        "others may write to the data directory {shown} (mode {:04o}): run `chmod go-w {shown}`, or choose another --data-dir",
        mode & 0o7777
    );
    let directories = Paths::new(path).directories();
    for directory in &directories {
        make(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let of_parts = OF_PARTS.map(|name| path.join(name));
    for part in directories.into_iter().chain(of_parts).chain(set_aside(path)?) {
        check_owner(&part)?;
        narrow(&part).with_context(|| format!("cannot close {} to others", part.display()))?;
    }
    path.canonicalize().with_context(|| format!("cannot read {shown}"))
}

/// What pods of another cluster left, which `cluster.rs` of the node sets aside.
fn set_aside(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let is_aside = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().contains("-of-"));
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_aside).collect())
}

/// Whom a directory belongs to puts there what they like.
fn check_owner(path: &Path) -> Result<()> {
    let shown = path.display();
    let owner = match fs::metadata(path) {
        Ok(found) => found.uid(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    ensure!(
        owner == nix::unistd::geteuid().as_raw(),
        "{shown} belongs to another user (uid {owner}): run `chown root {shown}`, or choose another --data-dir"
    );
    Ok(())
}

fn make(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn narrow(path: &Path) -> std::io::Result<()> {
    let mode = match fs::metadata(path) {
        Ok(found) => found.permissions().mode(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & OF_OTHERS == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), mode = %format_args!("{:04o}", mode & 0o7777), "closed to others");
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OF_OTHERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_there_is_narrowed_and_the_rest_is_made_so() {
        let dir = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (dir.path().join("data"), dir.path().join("elsewhere"));
        fs::create_dir_all(data.join("images/layers")).unwrap();
        for other in ["mine", "volumes-of-another"] {
            fs::create_dir_all(data.join(other)).unwrap();
        }
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, data.join("pods")).unwrap();
        fs::write(data.join("store.redb"), "").unwrap();
        for (path, mode) in [
            (&data, 0o755),
            (&data.join("images"), 0o2755),
            (&data.join("store.redb"), 0o644),
            (&elsewhere, 0o755),
        ] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        prepare(&data).unwrap();
        assert_eq!(mode(&data), 0o755, "that is for others to say");
        assert_eq!((mode(&data.join("images")), mode(&data.join("images/layers"))), (0o2700, 0o755));
        assert_eq!((mode(&data.join("store.redb")), mode(&elsewhere)), (0o600, 0o700));
        assert_eq!(
            (mode(&data.join("volumes-local")), mode(&data.join("volumes-of-another"))),
            (0o700, 0o700)
        );
        assert_eq!(mode(&data.join("mine")), 0o755);

        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(data.join("images"), Some(1000), None).unwrap();
            let refused = prepare(&data).unwrap_err().to_string();
            assert!(
                refused.contains("images belongs to another user (uid 1000): run `chown root "),
                "{refused}"
            );
            std::os::unix::fs::chown(data.join("images"), Some(0), None).unwrap();
        }
        fs::set_permissions(&data, Permissions::from_mode(0o775)).unwrap();
        let refused = prepare(&data).unwrap_err().to_string();
        assert!(refused.starts_with("others may write to the data directory"), "{refused}");
        assert!(refused.contains("(mode 0775): run `chmod go-w "), "{refused}");
    }
}
