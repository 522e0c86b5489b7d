//! What of the store is needed, and by whom: records, pods, and containers that run.

use std::collections::BTreeSet;

use super::error::ImageError;
use super::layout::{Layout, hex};
use super::recognize;
use super::record::Content;

/// What records and pods need, by the digests without their kind.
#[derive(Default)]
pub(super) struct Needed {
    /// Below `blobs` and `layers`.
    pub(super) names: BTreeSet<String>,
    /// Wasm files, for their compiled forms.
    pub(super) wasm: BTreeSet<String>,
}

/// What some record needs, or an image with one of these manifests, or a container that runs.
pub(super) fn needed(layout: &Layout, manifests: &BTreeSet<String>) -> Result<Needed, ImageError> {
    let mut needed = Needed::default();
    for image in layout.records() {
        needed.names.extend(recognize::files_of(layout, &image.digest)?);
        if let Content::Wasm { digest, .. } = &image.content {
            needed.wasm.insert(hex(digest).to_owned());
        }
    }
    for manifest in manifests {
        // One that is not here any more needs nothing.
        needed.names.extend(recognize::files_of(layout, manifest).unwrap_or_default());
    }
    needed.names.extend(mounted_layers(layout));
    Ok(needed)
}

/// The layers that containers' roots are overlays of, by the digests of their chains. Containers
/// have mount namespaces of their own, so each namespace of the node is looked into once.
pub(super) fn mounted_layers(layout: &Layout) -> BTreeSet<String> {
    let prefix = format!("{}/", layout.layers().display());
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = process.path();
        // A process that ends meanwhile holds nothing.
        let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { continue };
        if seen.insert(namespace) {
            let mounts = std::fs::read_to_string(process.join("mounts")).unwrap_or_default();
            let names = mounts.split(prefix.as_str()).skip(1);
            found.extend(names.map(|name| name.chars().take_while(char::is_ascii_hexdigit).collect()));
        }
    }
    found
}

/// How the names of all files begin that are made of a Wasm file (`engine/wasm.rs`).
pub(super) fn compiled_prefix(digest: &str) -> String {
    format!("{}-", hex(digest))
}

/// The digest of a Wasm file, without its kind, from the name of what was made of it.
pub(super) fn compiled_digest(name: &str) -> Option<&str> {
    name.split_once('-').map(|(digest, _)| digest)
}
