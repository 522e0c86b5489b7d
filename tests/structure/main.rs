//! How the source is laid out: imports run one way, and files are short.
//!
//! A file imports another when it names something that is defined there, whatever the path it names
//! it by: `use`, a path in the code, or a re-export on the way. Tests are left out.

mod dependencies;
mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;

/// A file over this wants to be two, if it is not a table.
const MOST_LINES: usize = 600;

#[test]
fn no_files_import_each_other() {
    let mut circles = String::new();
    for root in crates() {
        for circle in Crate::read(&root).circles() {
            circles += &format!("{circle}\n");
        }
    }
    assert!(circles.is_empty(), "these files import each other:\n{circles}");
}

#[test]
fn no_file_is_long() {
    let mut long = Vec::new();
    for root in crates().into_iter().chain([PathBuf::from("tests")]) {
        each_file(&root, &mut |file| {
            let lines = fs::read_to_string(file).expect("a source file").lines().count();
            if lines > MOST_LINES {
                long.push(format!("{} has {lines} lines", file.display()));
            }
        });
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The folders with a `Cargo.toml`, the examples' guests left out.
fn crates() -> Vec<PathBuf> {
    let manifest = fs::read_to_string("Cargo.toml").expect("the manifest");
    let members =
        manifest.lines().find_map(|line| line.strip_prefix("members = [")).expect("the members in one line");
    let members = members.trim_end_matches(']').split(',').map(|member| member.trim().trim_matches('"'));
    members.chain(["."]).map(|member| Path::new(member).join("src")).collect()
}

fn each_file(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            each_file(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path);
        }
    }
}
