//! Fetches images from registries by the OCI distribution protocol.

use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::io::AsyncWrite;

use super::layout::{Layout, NewBlob};
use super::{Credentials, Image, ImageError, Progress, recognize, reference};

/// This node's architecture in the image specification's (Go's) spelling.
pub(super) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// No manifest or configuration is larger.
pub(super) const METADATA_LIMIT_BYTES: u64 = 8 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn pull(
    layout: &Layout,
    name: &str,
    credentials: &[Credentials],
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Image, ImageError> {
    let reference = reference::parse(name)?;
    let client = client(&reference)?;
    let failed = |e: OciDistributionError| explain(name, &e);
    let (manifest, digest) =
        manifest(&client, layout, &reference, credentials).await.map_err(|e| match e {
            Failure::Registry(e) => failed(e),
            Failure::Image(e) => e,
        })?;
    let blobs: Vec<&OciDescriptor> = manifest.layers.iter().chain([&manifest.config]).collect();
    let total_bytes = blobs.iter().map(|b| b.size.max(0).unsigned_abs()).sum();
    let done_bytes = AtomicU64::new(0);
    for descriptor in blobs {
        let path = layout.blob(&descriptor.digest)?;
        if path.is_file() {
            done_bytes.fetch_add(descriptor.size.max(0).unsigned_abs(), Ordering::Relaxed);
            continue;
        }
        let mut blob = Incoming {
            blob: layout.new_blob()?,
            limit_bytes: descriptor.size.max(0).unsigned_abs(),
            done_bytes: &done_bytes,
            total_bytes,
            progress,
        };
        client.pull_blob(&reference, descriptor, &mut blob).await.map_err(failed)?;
        layout.finish_blob(blob.blob, Some(&descriptor.digest))?;
    }
    // Unpacking is the disk's and the CPU's work: not on the threads that serve everything else.
    let (layout, name) = (layout.clone(), name.to_owned());
    let task = tokio::task::spawn_blocking(move || recognize::install(&layout, &name, &digest));
    task.await.map_err(|e| ImageError::malformed(format!("unpacking failed: {e}")))?
}

/// A client for the registry of `reference`. Registries on loopback are spoken to in plain HTTP,
/// as everywhere; all others with TLS.
pub(super) fn client(reference: &Reference) -> Result<Client, ImageError> {
    let registry = reference.resolve_registry();
    let protocol =
        if reference::is_loopback(registry) { ClientProtocol::Http } else { ClientProtocol::Https };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("proa/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|e| explain(&reference.whole(), &e))
}

pub(super) fn authentication(reference: &Reference, credentials: &[Credentials]) -> RegistryAuth {
    let registries = [reference.registry(), reference.resolve_registry()];
    match credentials.iter().find(|c| registries.contains(&c.registry.as_str())) {
        Some(found) => RegistryAuth::Basic(found.username.clone(), found.password.clone()),
        None => RegistryAuth::Anonymous,
    }
}

enum Failure {
    Registry(OciDistributionError),
    Image(ImageError),
}

/// The manifest for this node, its bytes kept as a blob, and their digest.
async fn manifest(
    client: &Client,
    layout: &Layout,
    reference: &Reference,
    credentials: &[Credentials],
) -> Result<(oci_client::manifest::OciImageManifest, String), Failure> {
    let accepted = [
        OCI_IMAGE_MEDIA_TYPE,
        IMAGE_MANIFEST_MEDIA_TYPE,
        OCI_IMAGE_INDEX_MEDIA_TYPE,
        IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    ];
    let auth = authentication(reference, credentials);
    let mut wanted = reference.clone();
    // An index leads to a manifest; an index in an index is no image.
    for _ in 0..2 {
        let (bytes, _) =
            client.pull_manifest_raw(&wanted, &auth, &accepted).await.map_err(Failure::Registry)?;
        let digest = layout.put_blob(&bytes).map_err(Failure::Image)?;
        if wanted.digest().is_some_and(|expected| expected != digest) {
            let text = format!("the manifest of {wanted} does not match its digest: it is {digest}");
            return Err(Failure::Image(ImageError::Malformed(text)));
        }
        let parsed = serde_json::from_slice(&bytes)
            .map_err(|e| Failure::Image(ImageError::Malformed(format!("manifest of {wanted}: {e}"))))?;
        match parsed {
            OciManifest::Image(manifest) => return Ok((manifest, digest)),
            OciManifest::ImageIndex(index) => {
                let chosen = choose(&index.manifests).ok_or_else(|| {
                    let text = format!(
                        "no match for platform in manifest: {reference} has no image for linux/{ARCHITECTURE} and none for wasi/wasm"
                    );
                    Failure::Image(ImageError::Platform(text))
                })?;
                wanted = reference.clone_with_digest(chosen);
            }
        }
    }
    Err(Failure::Image(ImageError::Malformed(format!("{reference} is an index of indexes"))))
}

/// The digest of the entry of an index that this node runs: its own platform before Wasm.
pub(super) fn choose(entries: &[ImageIndexEntry]) -> Option<String> {
    let platform = |entry: &ImageIndexEntry| {
        entry.platform.as_ref().map(|p| (p.os.to_string(), p.architecture.to_string()))
    };
    let native =
        |e: &&ImageIndexEntry| platform(e).is_some_and(|(os, arch)| os == "linux" && arch == ARCHITECTURE);
    let wasm = |e: &&ImageIndexEntry| platform(e).is_some_and(|(_, arch)| arch == "wasm");
    let unnamed = |e: &&ImageIndexEntry| entries.len() == 1 && e.platform.is_none();
    entries
        .iter()
        .find(native)
        .or_else(|| entries.iter().find(wasm))
        .or_else(|| entries.iter().find(unnamed))
        .map(|entry| entry.digest.clone())
}

/// The registry's refusal in the words that Kubernetes users know.
pub(super) fn explain(reference: &str, error: &OciDistributionError) -> ImageError {
    use oci_client::errors::OciErrorCode;
    match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            ImageError::Unauthorized(reference.to_owned())
        }
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => ImageError::NotFound(reference.to_owned()),
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|e| {
                matches!(
                    e.code,
                    OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
                )
            }) =>
        {
            ImageError::NotFound(reference.to_owned())
        }
        OciDistributionError::RegistryError { envelope, .. }
            if envelope
                .errors
                .iter()
                .any(|e| matches!(e.code, OciErrorCode::Denied | OciErrorCode::Unauthorized)) =>
        {
            ImageError::Unauthorized(reference.to_owned())
        }
        other => {
            let mut message = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                message.push_str(&format!(": {error}"));
                cause = error.source();
            }
            ImageError::Registry { reference: reference.to_owned(), message }
        }
    }
}

/// A blob being written: at most as many bytes as its descriptor promised.
struct Incoming<'a> {
    blob: NewBlob,
    limit_bytes: u64,
    done_bytes: &'a AtomicU64,
    total_bytes: u64,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl AsyncWrite for Incoming<'_> {
    /// Writes to the page cache, in the chunks the network gives; too short to need a thread.
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.blob.size_bytes() + bytes.len() as u64 > self.limit_bytes {
            return Poll::Ready(Err(std::io::Error::other("the blob is larger than its descriptor says")));
        }
        let written = self.blob.write(bytes)?;
        let done_bytes = self.done_bytes.fetch_add(written as u64, Ordering::Relaxed) + written as u64;
        (self.progress)(Progress { done_bytes, total_bytes: self.total_bytes });
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.blob.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_flush(cx)
    }
}
