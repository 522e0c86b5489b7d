//! Makes images without Docker: of a root directory, or of a `.wasm` file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use oci_client::manifest::{
    IMAGE_LAYER_GZIP_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::layout::{Layout, digest_text};
use super::{Image, ImageError, at, recognize};

/// What the configuration of a packed image says.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub cmd: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User and group.
    pub user: String,
}

pub(super) fn pack(
    layout: &Layout,
    source: &Path,
    reference: &str,
    options: &PackOptions,
) -> Result<Image, ImageError> {
    let (config, config_type, layer) =
        if source.is_dir() { pack_rootfs(layout, source, options)? } else { pack_wasm(layout, source)? };
    let (digest, size) = layout.put_json(&config)?;
    let manifest = OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        config: descriptor(config_type, digest, size),
        layers: vec![layer],
        ..OciImageManifest::default()
    };
    let (digest, _) = layout.put_json(&manifest)?;
    recognize::install(layout, reference, &digest)
}

fn descriptor(media_type: &str, digest: String, size_bytes: u64) -> OciDescriptor {
    OciDescriptor {
        media_type: media_type.to_owned(),
        digest,
        size: i64::try_from(size_bytes).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

type Packed = (Value, &'static str, OciDescriptor);

fn pack_rootfs(layout: &Layout, source: &Path, options: &PackOptions) -> Result<Packed, ImageError> {
    let blob = layout.new_blob()?;
    let gzip = flate2::write::GzEncoder::new(blob, flate2::Compression::default());
    let mut tar = tar::Builder::new(Hashed { inner: gzip, hash: Sha256::new() });
    tar.follow_symlinks(false);
    // Equal trees make equal images: times are left out, names are sorted.
    tar.mode(tar::HeaderMode::Deterministic);
    append_sorted(&mut tar, source, Path::new(""))?;
    let hashed = tar.into_inner().map_err(at(source))?;
    let diff_id = digest_text(hashed.hash);
    let blob = hashed.inner.finish().map_err(at(source))?;
    let (digest, size) = layout.finish_blob(blob, None)?;
    let config = json!({
        "architecture": super::pull::ARCHITECTURE,
        "os": "linux",
        "config": {
            "Entrypoint": options.entrypoint,
            "Cmd": options.cmd,
            "Env": options.env,
            "WorkingDir": options.working_dir,
            "User": options.user,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let layer = descriptor(IMAGE_LAYER_GZIP_MEDIA_TYPE, digest, size);
    Ok((config, "application/vnd.oci.image.config.v1+json", layer))
}

fn append_sorted<W: Write>(
    tar: &mut tar::Builder<W>,
    source: &Path,
    inside: &Path,
) -> Result<(), ImageError> {
    let dir = source.join(inside);
    let entries = std::fs::read_dir(&dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut entries = entries.map_err(at(&dir))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let inside = inside.join(entry.file_name());
        let path = entry.path();
        tar.append_path_with_name(&path, &inside).map_err(at(&path))?;
        if entry.file_type().map_err(at(&path))?.is_dir() {
            append_sorted(tar, source, &inside)?;
        }
    }
    Ok(())
}

/// The CNCF Wasm artifact: a configuration that names platform and layers, one bare layer.
fn pack_wasm(layout: &Layout, source: &Path) -> Result<Packed, ImageError> {
    let mut head = [0; 8];
    File::open(source).and_then(|mut f| f.read_exact(&mut head)).map_err(at(source))?;
    if &head[..4] != b"\0asm" {
        return Err(ImageError::malformed(format!(
            "{} is neither a directory nor a WebAssembly file",
            source.display()
        )));
    }
    let is_component = head[6] != 0; // the layer field of the binary format's version
    let mut blob = layout.new_blob()?;
    let mut file = File::open(source).map_err(at(source))?;
    io::copy(&mut file, &mut blob).map_err(at(source))?;
    let (digest, size) = layout.finish_blob(blob, None)?;
    let mut config = json!({
        "architecture": "wasm",
        "os": if is_component { "wasip2" } else { "wasip1" },
        "layerDigests": [digest],
    });
    if is_component {
        let bytes = std::fs::read(source).map_err(at(source))?;
        config["component"] = component_interface(&bytes)?;
    }
    Ok((config, recognize::WASM_CONFIG, descriptor("application/wasm", digest, size)))
}

/// The names of a component's imports and exports.
fn component_interface(bytes: &[u8]) -> Result<Value, ImageError> {
    use wasmparser::{Parser, Payload};
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0usize);
    let broken = |e: wasmparser::BinaryReaderError| ImageError::malformed(format!("broken component: {e}"));
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.0.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.0.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(json!({ "imports": imports, "exports": exports }))
}

struct Hashed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
