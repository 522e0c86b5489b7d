//! Writes the files of a volume in one step, as the kubelet lays them out: the files lie in a
//! directory named by time, `..data` is a link to it, and the visible names are links through
//! `..data`. An update makes a new directory and moves one link.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use jiff::Timestamp;

use super::content::File;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes the volume in `dir` hold these files and no others. Does nothing if it does already.
pub fn write(dir: &Path, files: &[File], group: Option<u32>) -> io::Result<()> {
    for file in files {
        check(&file.path)?;
    }
    let old = std::fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| holds(&dir.join(old), files)) {
        return link_names(dir, files);
    }
    remove_versions(dir, old.as_deref())?;
    let name = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let next = dir.join(&name);
    std::fs::DirBuilder::new().mode(0o755).create(&next)?;
    for file in files {
        write_one(&next, file, group)?;
    }
    let moved = dir.join(DATA_NEXT);
    let _ = std::fs::remove_file(&moved);
    symlink(&name, &moved)?;
    std::fs::rename(&moved, dir.join(DATA))?;
    remove_versions(dir, Some(Path::new(&name)))?;
    link_names(dir, files)
}

/// Removes all directories of files but the one that is kept. Others are there if they could not be
/// finished, for want of space for one.
fn remove_versions(dir: &Path, kept: Option<&Path>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b"..") && entry.file_type()?.is_dir() && kept != Some(Path::new(&name))
        {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A path from an API object must stay in its volume. The API server refuses others; this is
/// the last door.
fn check(path: &str) -> io::Result<()> {
    let plain = |part| matches!(part, Component::Normal(_));
    if path.is_empty() || path.starts_with("..") || !Path::new(path).components().all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}")));
    }
    Ok(())
}

fn write_one(dir: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let path = dir.join(&file.path);
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.write(true).create_new(true).mode(0o600).open(&path)?;
    io::Write::write_all(&mut open, &file.bytes)?;
    // The group of the pod's volumes may always read.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    if file.owner.is_some() || group.is_some() {
        chown(&path, file.owner, group)?;
    }
    open.set_permissions(std::fs::Permissions::from_mode(mode))
}

fn holds(dir: &Path, files: &[File]) -> bool {
    let same = |file: &File| std::fs::read(dir.join(&file.path)).is_ok_and(|bytes| bytes == file.bytes);
    files.iter().all(same) && count(dir).is_ok_and(|count| count == files.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

/// The names that containers see: the first part of each path. A `subPath` that names no file has been made
/// a directory, which stays.
fn link_names(dir: &Path, files: &[File]) -> io::Result<()> {
    let first = |file: &File| file.path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = files.iter().map(first).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_symlink() && !name.starts_with("..") && !wanted.contains(&name) {
            std::fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), mode: 0o640, owner: None, bytes: text.as_bytes().to_vec() }
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .map(|name| if name.starts_with("..2") { "..time".to_owned() } else { name })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_update_moves_one_link_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, &[file("a", "1"), file("x/y", "2")], None).unwrap();
        assert_eq!(listing(dir), ["..data", "..time", "a", "x"]);
        assert_eq!(std::fs::read_to_string(dir.join("x/y")).unwrap(), "2");
        assert_eq!(std::fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let before = std::fs::read_link(dir.join(DATA)).unwrap();
        write(dir, &[file("a", "1"), file("x/y", "2")], None).unwrap();
        assert_eq!(std::fs::read_link(dir.join(DATA)).unwrap(), before, "nothing changed");
        write(dir, &[file("a", "3")], None).unwrap();
        assert_eq!(listing(dir), ["..data", "..time", "a"]);
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
    }

    #[test]
    fn what_is_no_link_stays_and_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, &[file("a", "1")], None).unwrap();
        // A subPath that names no key, and a write that ended early.
        std::fs::create_dir(dir.join("typo")).unwrap();
        std::fs::create_dir(dir.join("..2000_01_01_00_00_00.0")).unwrap();
        for text in ["2", "3"] {
            write(dir, &[file("a", text), file("b", text)], None).unwrap();
            assert_eq!(listing(dir), ["..data", "..time", "a", "b", "typo"]);
        }
        write(dir, &[file("a", "3"), file("b/c/../../../x", "")], None).unwrap_err();
        write(dir, &[file("a", "4"), file("a/b", "")], None).unwrap_err();
        write(dir, &[file("a", "3")], None).unwrap();
        assert_eq!(listing(dir), ["..data", "..time", "a", "typo"]);
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
    }

    #[test]
    fn no_path_leaves_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "", "..", "a/../../x", "..data"] {
            assert!(write(dir.path(), &[file(path, "")], None).is_err(), "{path}");
        }
    }
}
