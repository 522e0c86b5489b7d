//! Makes images without Docker: of a root directory, or of a `.wasm` file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_client::manifest::{
    IMAGE_LAYER_GZIP_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::{ImageError, at};
use super::layout::{Layout, NewBlob, digest_text};
use super::recognize;
use super::record::Image;

/// What the configuration of a packed image says.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Directories that are written to.
    pub volumes: Vec<String>,
}

pub(super) fn pack(
    layout: &Layout,
    source: &Path,
    reference: &str,
    options: &PackOptions,
) -> Result<Image, ImageError> {
    let (config, config_type, layer) = if source.is_dir() {
        pack_rootfs(layout, source, options)?
    } else if options == &PackOptions::default() {
        pack_wasm(layout, source)?
    } else {
        pack_wasm_with(layout, source, options)?
    };
    let (digest, size) = layout.put_json(&config)?;
    let manifest = OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        config: descriptor(config_type, digest, size),
        layers: vec![layer],
        ..OciImageManifest::default()
    };
    let (digest, _) = layout.put_json(&manifest)?;
    recognize::install(layout, reference, &digest, false)
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
    // Equal trees make equal images: times are left out, names are sorted.
    let layer = pack_layer(layout, source, |tar| append_sorted(tar, source, Path::new("")))?;
    let platform = (super::platform::ARCHITECTURE, "linux");
    Ok(image_of(platform, layer, &options.entrypoint, options))
}

/// A `.wasm` file in a root file system of its own, for platform `wasi/wasm`: the Wasm artifact's
/// configuration has no place for an environment or a command.
fn pack_wasm_with(layout: &Layout, source: &Path, options: &PackOptions) -> Result<Packed, ImageError> {
    wasm_head(source)?;
    if !options.entrypoint.is_empty() {
        return Err(ImageError::malformed(
            "the entry point of a .wasm file is the file itself: give its arguments with --cmd",
        ));
    }
    if !options.volumes.is_empty() {
        return Err(ImageError::malformed("a .wasm file has no directories that could be a --volume"));
    }
    let is_number = |part: &str| part.parse::<u32>().is_ok();
    if !options.user.is_empty() && !options.user.splitn(2, ':').all(is_number) {
        return Err(ImageError::malformed(format!(
            "--user {:?}: a .wasm file brings no /etc/passwd in which a name could be looked up, give numbers",
            options.user
        )));
    }
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}.wasm");
    let layer =
        pack_layer(layout, source, |tar| tar.append_path_with_name(source, &name).map_err(at(source)))?;
    Ok(image_of(("wasm", "wasip1"), layer, &[format!("/{name}")], options))
}

/// A layer as its descriptor, and the digest of its plain tar.
type PackedLayer = (OciDescriptor, String);
type Tar = tar::Builder<Hashed<flate2::write::GzEncoder<NewBlob>>>;

fn pack_layer(
    layout: &Layout,
    source: &Path,
    fill: impl FnOnce(&mut Tar) -> Result<(), ImageError>,
) -> Result<PackedLayer, ImageError> {
    let gzip = flate2::write::GzEncoder::new(layout.new_blob()?, flate2::Compression::default());
    let mut tar = tar::Builder::new(Hashed { inner: gzip, hash: Sha256::new() });
    tar.follow_symlinks(false);
    tar.mode(tar::HeaderMode::Deterministic);
    fill(&mut tar)?;
    let hashed = tar.into_inner().map_err(at(source))?;
    let diff_id = digest_text(hashed.hash);
    let blob = hashed.inner.finish().map_err(at(source))?;
    let (digest, size) = layout.finish_blob(blob, None)?;
    Ok((descriptor(IMAGE_LAYER_GZIP_MEDIA_TYPE, digest, size), diff_id))
}

fn image_of(
    (architecture, os): (&str, &str),
    (layer, diff_id): PackedLayer,
    entrypoint: &[String],
    options: &PackOptions,
) -> Packed {
    let volumes: BTreeMap<&str, Value> = options.volumes.iter().map(|v| (v.as_str(), json!({}))).collect();
    let config = json!({
        "architecture": architecture,
        "os": os,
        "config": {
            "Entrypoint": entrypoint,
            "Cmd": options.cmd,
            "Env": options.env,
            "WorkingDir": options.working_dir,
            "User": options.user,
            "Volumes": volumes,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    (config, "application/vnd.oci.image.config.v1+json", layer)
}

/// The first bytes of a WebAssembly file.
fn wasm_head(source: &Path) -> Result<[u8; 8], ImageError> {
    let mut head = [0; 8];
    File::open(source).and_then(|mut f| f.read_exact(&mut head)).map_err(at(source))?;
    if &head[..4] != b"\0asm" {
        return Err(ImageError::malformed(format!(
            "{} is neither a directory nor a WebAssembly file",
            source.display()
        )));
    }
    Ok(head)
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
        append(tar, &path, &inside).map_err(at(&path))?;
        if entry.file_type().map_err(at(&path))?.is_dir() {
            append_sorted(tar, source, &inside)?;
        }
    }
    Ok(())
}

/// One file of any kind with its mode and owner, which make a difference in a container.
fn append<W: Write>(tar: &mut tar::Builder<W>, path: &Path, inside: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    let kind = metadata.file_type();
    let mut header = tar::Header::new_gnu();
    header.set_metadata_in_mode(&metadata, tar::HeaderMode::Deterministic);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    if kind.is_file() {
        return tar.append_data(&mut header, inside, File::open(path)?.take(metadata.len()));
    }
    header.set_size(0);
    if kind.is_symlink() {
        return tar.append_link(&mut header, inside, std::fs::read_link(path)?);
    }
    if kind.is_socket() {
        return Err(io::Error::other("a socket cannot be part of an image"));
    }
    let number = |part: u64| u32::try_from(part).map_err(io::Error::other);
    if kind.is_char_device() || kind.is_block_device() {
        header.set_device_major(number(nix::sys::stat::major(metadata.rdev()))?)?;
        header.set_device_minor(number(nix::sys::stat::minor(metadata.rdev()))?)?;
    }
    tar.append_data(&mut header, inside, io::empty())
}

/// The CNCF Wasm artifact: a configuration that names platform and layers, one bare layer.
fn pack_wasm(layout: &Layout, source: &Path) -> Result<Packed, ImageError> {
    let head = wasm_head(source)?;
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
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
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
