//! What an image is, from its manifest and configuration.
//!
//! Wasm comes in four wrappings: the CNCF artifact and the older layer types hold the bare file
//! as their one layer; a `wasi/wasm` platform image and any image whose entry point ends in
//! `.wasm` hold it in a root file system.
//! <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use oci_client::manifest::OciImageManifest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::error::{ImageError, at};
use super::layout::{Layout, digest_text, hex};
use super::limits::LIMIT_BYTES;
use super::record::{Content, Image, ImageConfig};
use super::tree::Tree;
use super::unpack;
use super::unpack::{Budget, Layer};

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
    volumes: Option<BTreeMap<String, IgnoredAny>>,
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

/// Layers that overlayfs can mount at a time.
const LIMIT_LAYERS: usize = 500;

/// The bytes of an image as transferred, if they may be: what its descriptors say is the
/// registry's word.
pub(super) fn transfer_bytes(manifest: &OciImageManifest) -> Result<u64, ImageError> {
    if manifest.layers.len() > LIMIT_LAYERS {
        return Err(ImageError::malformed(format!("the image has more than {LIMIT_LAYERS} layers")));
    }
    let sizes = manifest.layers.iter().chain([&manifest.config]).map(|d| u64::try_from(d.size).ok());
    let sum = sizes.into_iter().try_fold(0u64, |sum, size| sum.checked_add(size?));
    sum.filter(|sum| *sum <= LIMIT_BYTES)
        .ok_or_else(|| ImageError::malformed(format!("the image is larger than {} GiB", LIMIT_BYTES >> 30)))
}

/// Unpacks an image whose blobs are all in the store, and records it under `reference`. `pulled` if
/// it was fetched by that name.
pub(super) fn install(
    layout: &Layout,
    reference: &str,
    digest: &str,
    pulled: bool,
) -> Result<Image, ImageError> {
    if let Some(known) = layout.record(reference).filter(|known| known.digest == digest && known.is_whole()) {
        let known = Image { pulled, ..known };
        layout.record_image(&known)?;
        return Ok(known);
    }
    let manifest = layout.manifest(digest)?;
    let size_bytes = transfer_bytes(&manifest)?;
    let mut budget = Budget::new();
    let (config, content) = if is_wasm_artifact(&manifest) {
        (ImageConfig::default(), bare_wasm(layout, &manifest)?)
    } else {
        root_file_system(layout, &manifest, &mut budget)?
    };
    let image = Image {
        reference: reference.to_owned(),
        id: manifest.config.digest.clone(),
        digest: digest.to_owned(),
        size_bytes,
        config,
        content,
        pulled,
        devices_left_out: budget.devices_left_out,
    };
    layout.record_image(&image)?;
    Ok(image)
}

/// The names below `blobs` and `layers` of what an image with this manifest has in the store.
pub(super) fn files_of(layout: &Layout, digest: &str) -> Result<BTreeSet<String>, ImageError> {
    let manifest = layout.manifest(digest)?;
    let digests = manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest.as_str());
    let mut names: BTreeSet<String> = digests.chain([digest]).map(hex).map(str::to_owned).collect();
    // That of Wasm may be anything, and has no layers.
    let file = config_file(layout, &manifest).unwrap_or_default();
    let diff_ids = file.rootfs.map(|r| r.diff_ids).unwrap_or_default();
    names.extend(chain_ids(&diff_ids).iter().map(|chain_id| hex(chain_id).to_owned()));
    Ok(names)
}

/// Of each layer, what names it together with those below.
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain_ids: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        chain_ids.push(match chain_ids.last() {
            Some(below) => digest_text(Sha256::new_with_prefix(format!("{below} {diff_id}"))),
            None => diff_id.clone(),
        });
    }
    chain_ids
}

fn bare_wasm(layout: &Layout, manifest: &OciImageManifest) -> Result<Content, ImageError> {
    let is_wasm = |media_type: &str| WASM_LAYERS.contains(&media_type);
    // Such as the files of a Spin application: what they are for would be missing without a word.
    if let Some(other) = manifest.layers.iter().find(|l| !is_wasm(&l.media_type)) {
        return Err(ImageError::malformed(format!(
            "the Wasm image has a layer of type {}, which is not served: \
             it must have exactly one layer, of type application/wasm",
            other.media_type
        )));
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(ImageError::malformed(format!(
            "a Wasm image must have exactly one layer of type application/wasm, this one has {}",
            manifest.layers.len()
        )));
    };
    Ok(Content::Wasm { module: layout.blob(&layer.digest)?, digest: layer.digest.clone() })
}

fn root_file_system(
    layout: &Layout,
    manifest: &OciImageManifest,
    budget: &mut Budget,
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
    let chain_ids = chain_ids(&diff_ids);
    for ((descriptor, diff_id), chain_id) in manifest.layers.iter().zip(&diff_ids).zip(&chain_ids) {
        let blob = layout.blob(&descriptor.digest)?;
        let layer = Layer { blob: &blob, diff_id, chain_id, below: &layers };
        let unpacked = unpack::unpack(layout, &layer, budget)?;
        layers.push(unpacked);
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
        volumes: execution.volumes.unwrap_or_default().into_keys().collect(),
    }
}

/// Finds the entry point in the root file system that the layers make.
fn wasm_in_layers(layers: &[PathBuf], working_dir: &str, program: &str) -> Result<Content, ImageError> {
    let inside = Path::new("/").join(working_dir).join(program);
    let found = Tree::new(layers).file(&inside).map_err(at(&inside))?;
    let missing =
        || ImageError::malformed(format!("the image's entry point {program} is not a file in its layers"));
    let (path, mut file) = found.ok_or_else(missing)?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(at(&path))?;
    Ok(Content::Wasm { module: path, digest: digest_text(hash) })
}
