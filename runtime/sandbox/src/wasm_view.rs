//! How a Wasm guest sees its container's mounts.
//!
//! WASI gives a guest directories and nothing else. So a mount of a single file is put over a file
//! of the same name in a directory: in the volume that the guest sees there, or else in a directory
//! made for it. Called by `wasm`; the covering itself, and the making of the file that is covered, is
//! done by the container's process in a root of its own, where no link is followed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::protocol::Mount;
use crate::wasm_config::{FileOverlay, Preopen};

/// What the guest is given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Directories.
    pub preopens: Vec<Preopen>,
    /// Files that are put over others.
    pub files: Vec<FileOverlay>,
}

/// Works it out, and makes in `scratch` the directories that are needed for it.
pub fn view(mounts: &[Mount], scratch: &Path) -> Result<View, String> {
    let mut view = View::default();
    let (files, directories): (Vec<_>, Vec<_>) =
        mounts.iter().partition(|mount| Path::new(&mount.source).is_file());
    for mount in directories {
        let Mount { source, target, read_only, .. } = mount.clone();
        view.preopens.push(Preopen { source, target, read_only });
    }
    for mount in files {
        let Mount { source, target, read_only, .. } = mount.clone();
        match target.as_str() {
            // Read by name lookups, which the guest's process does for it.
            "/etc/resolv.conf" | "/etc/hosts" => view.files.push(FileOverlay { source, target, read_only }),
            // WASI has no host name; `HOSTNAME` tells it.
            "/etc/hostname" => {}
            _ => {
                let point = view
                    .point(mount, scratch)
                    .map_err(|why| format!("mount {target} of a Wasm container: {why}"))?;
                view.files.push(FileOverlay { source, target: point.display().to_string(), read_only });
            }
        }
    }
    Ok(view)
}

impl View {
    /// The file on the node that is covered for a mount of a single file.
    fn point(&mut self, mount: &Mount, scratch: &Path) -> Result<PathBuf, String> {
        let target = Path::new("/").join(&mount.target);
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err("not the name of a file".to_owned());
        };
        let made = |preopen: &Preopen| Path::new(&preopen.source).starts_with(scratch);
        let at_parent = self.preopens.iter().position(|p| Path::new(&p.target) == parent);
        let index = match at_parent {
            Some(index) => index,
            None if self.preopens.iter().any(|p| !made(p) && target.starts_with(&p.target)) => {
                return Err("a file in a volume must lie in its topmost directory".to_owned());
            }
            None => {
                let directory = scratch.join(self.preopens.len().to_string());
                fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
                let source = directory.display().to_string();
                self.preopens.push(Preopen { source, target: parent.display().to_string(), read_only: true });
                self.preopens.len() - 1
            }
        };
        let preopen = &mut self.preopens[index];
        let point = Path::new(&preopen.source).join(name);
        if made(preopen) {
            preopen.read_only &= mount.read_only;
        } else if preopen.read_only && fs::symlink_metadata(&point).is_err() {
            return Err(format!("{} is read-only", parent.display()));
        }
        Ok(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_files_lie_in_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        let (scratch, volume) = (dir.path().join("scratch"), dir.path().join("volume"));
        fs::create_dir_all(&volume).expect("a volume");
        let file = dir.path().join("file");
        fs::write(&file, "text").expect("a file");
        let mount = |source: &Path, target: &str, read_only| Mount {
            source: source.display().to_string(),
            target: target.to_owned(),
            read_only,
            recursive_read_only: false,
        };
        let seen = view(
            &[
                mount(&file, "/etc/hosts", false),
                mount(&file, "/etc/hostname", false),
                mount(&file, "/cfg/a", true),
                mount(&file, "/dev/termination-log", false),
                mount(&volume, "/data", false),
                mount(&file, "/data/b", true),
                mount(&file, "/cfg/c", true),
                mount(&volume, "/dev/shm", false),
            ],
            &scratch,
        )
        .expect("a view");
        let preopens: Vec<_> = seen.preopens.iter().map(|p| (p.target.as_str(), p.read_only)).collect();
        assert_eq!(preopens, [("/data", false), ("/dev/shm", false), ("/cfg", true), ("/dev", false)]);
        let covered: Vec<_> = seen.files.iter().map(|f| Path::new(&f.target)).collect();
        let made = |n: &str, name: &str| scratch.join(n).join(name);
        assert_eq!(
            covered,
            [
                Path::new("/etc/hosts"),
                &made("2", "a"),
                &made("3", "termination-log"),
                &volume.join("b"),
                &made("2", "c"),
            ]
        );
        for (mounts, why) in [
            (vec![mount(&volume, "/data", false), mount(&file, "/data/x/b", true)], "topmost directory"),
            (vec![mount(&volume, "/data", true), mount(&file, "/data/new", true)], "/data is read-only"),
            (vec![mount(&file, "/", true)], "not the name of a file"),
        ] {
            let error = view(&mounts, &scratch).expect_err("a refusal");
            assert!(error.contains(why), "{error}");
        }
    }
}
