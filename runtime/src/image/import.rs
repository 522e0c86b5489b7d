//! Takes in images from files: OCI layouts, `docker save` archives, bare Wasm.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_client::manifest::{
    IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, OciManifest,
};
use serde::Deserialize;

use super::archive::Metered;
use super::error::{ImageError, at};
use super::layout::{Layout, METADATA_LIMIT_BYTES, hex_of, read_limited};
use super::limits::LIMIT_BYTES;
use super::pack::{self, PackOptions};
use super::record::Image;
use super::{archive, platform, recognize, reference};

/// The annotations in which an OCI layout's index tells an image's name.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Indexes inside the index of a layout: one for the platforms of an image is usual.
const NESTED_INDEXES: usize = 2;

/// One image of a `docker save` archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn import(layout: &Layout, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    if source.is_dir() {
        return import_dir(layout, source, name);
    }
    let mut magic = [0; 4];
    File::open(source).and_then(|mut f| f.read(&mut magic)).map_err(at(source))?;
    if &magic == b"\0asm" {
        let name = name.ok_or_else(|| ImageError::malformed("a .wasm file needs a name: -t NAME"))?;
        return Ok(vec![pack::pack(layout, source, name, &PackOptions::default())?]);
    }
    let unpacked = layout.temporary_dir()?;
    flatten(source, unpacked.path())?;
    import_dir(layout, unpacked.path(), name)
}

/// Writes an archive's plain files below `target`. Both archive formats hold nothing else that
/// matters; links and climbing names are left out.
fn flatten(source: &Path, target: &Path) -> Result<(), ImageError> {
    let not_tar =
        |e: io::Error| ImageError::malformed(format!("{} is no image archive: {e}", source.display()));
    let stream = Metered::new(archive::open(source)?, LIMIT_BYTES);
    archive::for_each_entry(stream, |entry| {
        if entry.header().entry_type().is_file() {
            entry.unpack_in(target)?;
        }
        Ok(())
    })
    .map_err(not_tar)
}

fn import_dir(layout: &Layout, dir: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    if dir.join("index.json").is_file() {
        return import_oci(layout, dir, name);
    }
    if dir.join("manifest.json").is_file() {
        return import_saved(layout, dir, name);
    }
    Err(ImageError::malformed(format!(
        "{} holds neither index.json (OCI layout) nor manifest.json (docker archive)",
        dir.display()
    )))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ImageError> {
    let bytes = read_limited(path, METADATA_LIMIT_BYTES).map_err(at(path))?;
    serde_json::from_slice(&bytes).map_err(|e| ImageError::malformed(format!("{}: {e}", path.display())))
}

fn blob_in(dir: &Path, digest: &str) -> Result<PathBuf, ImageError> {
    Ok(dir.join("blobs/sha256").join(hex_of(digest)?))
}

fn copy_blob(layout: &Layout, from: &Path, expected: Option<&str>) -> Result<(String, u64), ImageError> {
    let mut blob = layout.new_blob()?;
    let mut file = File::open(from).map_err(at(from))?;
    io::copy(&mut file, &mut blob).map_err(at(from))?;
    layout.finish_blob(blob, expected)
}

fn import_oci(layout: &Layout, dir: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        digest: String,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let index: Index = read_json(&dir.join("index.json"))?;
    let mut images = Vec::new();
    for entry in &index.manifests {
        let own_name = NAME_ANNOTATIONS.iter().find_map(|a| entry.annotations.get(*a));
        let name = match (name, own_name) {
            (Some(name), _) => name.to_owned(),
            (None, Some(own)) => reference::normalize(own)?,
            (None, None) => {
                return Err(ImageError::malformed("the layout names no image: give a name with -t NAME"));
            }
        };
        let digest = take_manifest(layout, dir, &entry.digest, NESTED_INDEXES)?;
        images.push(recognize::install(layout, &name, &digest, false)?);
    }
    Ok(images)
}

/// Copies a manifest and all it refers to; of an index, the manifest for this node. `deeper` more
/// indexes may lie inside.
fn take_manifest(layout: &Layout, dir: &Path, digest: &str, deeper: usize) -> Result<String, ImageError> {
    match read_json(&blob_in(dir, digest)?)? {
        OciManifest::ImageIndex(index) => {
            let chosen = platform::choose(&index.manifests)
                .ok_or_else(|| ImageError::malformed("no image for this node's platform in the index"))?;
            let deeper = deeper.checked_sub(1);
            let deeper = deeper.ok_or_else(|| ImageError::malformed("indexes are nested too deeply"))?;
            take_manifest(layout, dir, chosen, deeper)
        }
        OciManifest::Image(manifest) => {
            for descriptor in manifest.layers.iter().chain([&manifest.config]) {
                copy_blob(layout, &blob_in(dir, &descriptor.digest)?, Some(&descriptor.digest))?;
            }
            Ok(copy_blob(layout, &blob_in(dir, digest)?, Some(digest))?.0)
        }
    }
}

fn import_saved(layout: &Layout, dir: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let saved: Vec<Saved> = read_json(&dir.join("manifest.json"))?;
    let mut images = Vec::new();
    for image in saved {
        let (digest, size) = copy_blob(layout, &member(dir, &image.config)?, None)?;
        let descriptor = |media_type: &str, digest: String, size: u64| OciDescriptor {
            media_type: media_type.to_owned(),
            digest,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let config = descriptor("application/vnd.oci.image.config.v1+json", digest, size);
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (digest, size) = copy_blob(layout, &member(dir, layer)?, None)?;
            layers.push(descriptor(IMAGE_LAYER_MEDIA_TYPE, digest, size));
        }
        let manifest = OciImageManifest {
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            config,
            layers,
            ..OciImageManifest::default()
        };
        let (digest, _) = layout.put_json(&manifest)?;
        let names = match name {
            Some(name) => vec![name.to_owned()],
            None => image.repo_tags.unwrap_or_default(),
        };
        if names.is_empty() {
            return Err(ImageError::malformed("the archive names no image: give a name with -t NAME"));
        }
        for name in names {
            images.push(recognize::install(layout, &reference::normalize(&name)?, &digest, false)?);
        }
    }
    Ok(images)
}

/// A member of an unpacked archive, by the name its manifest gives.
fn member(dir: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if plain { Ok(dir.join(name)) } else { Err(ImageError::malformed(format!("bad member name {name}"))) }
}
