//! What the documents say of the tree is true: every path they name exists, every promise names a
//! test or says that it is pending.

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn exists(path: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()
}

#[test]
fn the_paths_in_architecture_exist() {
    let text = read("ARCHITECTURE.md");
    let paths: Vec<&str> =
        quoted(&text).into_iter().filter(|q| q.contains('/') && !q.contains(' ')).collect();
    assert!(paths.len() > 15, "the table of the way of the data is there: {paths:?}");
    for path in paths {
        assert!(exists(path), "ARCHITECTURE.md names {path}, which is not there");
    }
}

#[test]
fn the_paths_in_the_how_tos_exist() {
    let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("docs/");
    for entry in docs.flatten() {
        let name = format!("docs/{}", entry.file_name().to_string_lossy());
        for path in quoted(&read(&name)).into_iter().filter(|q| q.ends_with(".rs")) {
            assert!(exists(path), "{name} names {path}, which is not there");
        }
    }
}

#[test]
fn every_promise_names_its_test() {
    let text = read("PROMISES.md");
    let rows: Vec<&str> =
        text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| promise")).collect();
    assert!(!rows.is_empty());
    for row in rows {
        let holder = row.trim_end_matches([' ', '|']).rsplit('|').next().expect("two columns").trim();
        let tests = quoted(holder);
        assert!(holder == "pending" || !tests.is_empty(), "{row}");
        for test in tests {
            assert!(exists(test), "PROMISES.md names {test}, which is not there");
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "examples/busy-wasm/README.md",
        "examples/hello-wasm/README.md",
        "examples/together/README.md",
    ] {
        let text = read(document);
        let base = Path::new(document).parent().expect("a parent");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.starts_with("http") {
                assert!(exists(&base.join(link).to_string_lossy()), "{document} links to {link}");
            }
        }
    }
}
