//! What an image is, from its manifest and configuration.
//!
//! Wasm comes in four wrappings: the CNCF artifact and the older layer types hold the bare file
//! as their one layer; a `wasi/wasm` platform image and any image whose entry point ends in
//! `.wasm` hold it in a root file system.
//! <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use oci_client::manifest::OciImageManifest;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::layout::{Layout, digest_text};
use super::{Content, Image, ImageConfig, ImageError, at, unpack};

/// Media types of a layer that is a bare Wasm file.
const WASM_LAYERS: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
/// Configuration media type of the CNCF Wasm artifact.
pub(super) const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    os: String,
    architecture: String,
    config: Option<Execution>,
    rootfs: Option<RootFs>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    #[serde(flatten)]
    _other: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

fn is_wasm_artifact(manifest: &OciImageManifest) -> bool {
    manifest.config.media_type == WASM_CONFIG
        || manifest.layers.iter().any(|l| WASM_LAYERS.contains(&l.media_type.as_str()))
}

fn config_file(layout: &Layout, manifest: &OciImageManifest) -> Result<ConfigFile, ImageError> {
    let digest = &manifest.config.digest;
    serde_json::from_slice(&layout.read_blob(digest)?)
        .map_err(|e| ImageError::malformed(format!("image configuration {digest}: {e}")))
}

/// The digests of an image's plain layer tars; none for a Wasm artifact.
pub(super) fn diff_ids(layout: &Layout, manifest: &OciImageManifest) -> Result<Vec<String>, ImageError> {
    if is_wasm_artifact(manifest) {
        return Ok(Vec::new());
    }
    Ok(config_file(layout, manifest)?.rootfs.map(|r| r.diff_ids).unwrap_or_default())
}

/// Unpacks an image whose blobs are all in the store, and records it under `reference`.
pub(super) fn install(layout: &Layout, reference: &str, digest: &str) -> Result<Image, ImageError> {
    let manifest = layout.manifest(digest)?;
    let size_bytes: i64 = manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<i64>();
    let (config, content) = if is_wasm_artifact(&manifest) {
        (ImageConfig::default(), bare_wasm(layout, &manifest)?)
    } else {
        root_file_system(layout, &manifest)?
    };
    let image = Image {
        reference: reference.to_owned(),
        id: manifest.config.digest.clone(),
        digest: digest.to_owned(),
        size_bytes: u64::try_from(size_bytes).unwrap_or(0),
        config,
        content,
    };
    layout.record_image(&image)?;
    Ok(image)
}

fn bare_wasm(layout: &Layout, manifest: &OciImageManifest) -> Result<Content, ImageError> {
    let wasm: Vec<_> =
        manifest.layers.iter().filter(|l| WASM_LAYERS.contains(&l.media_type.as_str())).collect();
    let [layer] = wasm.as_slice() else {
        return Err(ImageError::malformed(format!(
            "a Wasm image must have exactly one layer of type application/wasm, this one has {}",
            wasm.len()
        )));
    };
    Ok(Content::Wasm { module: layout.blob(&layer.digest)?, digest: layer.digest.clone() })
}

fn root_file_system(
    layout: &Layout,
    manifest: &OciImageManifest,
) -> Result<(ImageConfig, Content), ImageError> {
    let file = config_file(layout, manifest)?;
    let diff_ids = file.rootfs.map(|r| r.diff_ids).unwrap_or_default();
    if diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::malformed(format!(
            "the image has {} layers, but its configuration names {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        layers.push(unpack::unpack(layout, &layout.blob(&layer.digest)?, diff_id)?);
    }
    let config = image_config(file.config.unwrap_or_default());
    let is_wasm_platform = file.architecture == "wasm" || file.os.starts_with("wasi");
    let program = config.entrypoint.iter().chain(&config.cmd).next();
    match program {
        Some(path) if path.ends_with(".wasm") => {
            let content = wasm_in_layers(&layers, &config.working_dir, path)?;
            Ok((config, content))
        }
        _ if is_wasm_platform => Err(ImageError::malformed(
            "the image is for platform wasi/wasm, but its entry point does not end in .wasm",
        )),
        _ => Ok((config, Content::Layers(layers))),
    }
}

fn image_config(execution: Execution) -> ImageConfig {
    let env = execution.env.unwrap_or_default();
    ImageConfig {
        entrypoint: execution.entrypoint.unwrap_or_default(),
        cmd: execution.cmd.unwrap_or_default(),
        env: env
            .iter()
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        working_dir: execution.working_dir.unwrap_or_default(),
        user: execution.user.unwrap_or_default(),
        stop_signal: execution.stop_signal.filter(|s| !s.is_empty()),
    }
}

/// Finds the entry point in the uppermost layer that has it. Links are not followed: a layer's
/// link may point anywhere on the node.
fn wasm_in_layers(layers: &[PathBuf], working_dir: &str, program: &str) -> Result<Content, ImageError> {
    let inside = Path::new("/").join(working_dir).join(program);
    let relative: PathBuf = inside.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    let climbs = inside.components().any(|c| matches!(c, Component::ParentDir));
    for layer in layers.iter().rev().filter(|_| !climbs) {
        let path = layer.join(&relative);
        let plain = path.ancestors().take_while(|p| p != layer).all(|p| !p.is_symlink());
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_file() && plain && metadata.size() > 0 {
            let mut hash = Sha256::new();
            let mut file = File::open(&path).map_err(at(&path))?;
            io::copy(&mut file, &mut hash).map_err(at(&path))?;
            return Ok(Content::Wasm { module: path, digest: digest_text(hash) });
        }
    }
    Err(ImageError::malformed(format!("the image's entry point {program} is not a file in its layers")))
}
