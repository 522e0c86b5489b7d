//! Links the binary at a fixed address, and says what it was built from.
//!
//! Every pod has a process of this file. In a relocatable one each of them would have two
//! megabytes of its own just for relocated pointers; in a fixed one these pages are shared.

use std::env;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the program is made of: a change of it makes another build.
const SOURCES: [&str; 8] =
    ["build.rs", "Cargo.toml", "Cargo.lock", "src", "control", "runtime", "dns", "ingress"];

fn main() {
    println!("cargo:rustc-link-arg-bin=proa=-no-pie");
    for path in SOURCES {
        println!("cargo:rerun-if-changed={path}");
    }
    // Where there is no git, or no repository, these stay empty.
    if let Some(log) = said("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = said("git", &["rev-parse", "HEAD"]).unwrap_or_default();
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    let state = match changed.as_deref() {
        _ if commit.is_empty() => "",
        Some("") => "clean",
        _ => "dirty",
    };
    let compiler = said(&env::var("RUSTC").unwrap_or("rustc".to_owned()), &["--version"]);
    println!("cargo:rustc-env=PROA_GIT_COMMIT={commit}");
    println!("cargo:rustc-env=PROA_GIT_TREE_STATE={state}");
    println!("cargo:rustc-env=PROA_BUILD_SECONDS={}", seconds());
    println!("cargo:rustc-env=PROA_COMPILER={}", compiler.unwrap_or_default());
}

/// Now, or the time that a reproducible build is told.
fn seconds() -> u64 {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let told = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    told.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// What a program says, if it is there and goes well.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
