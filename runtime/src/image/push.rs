//! Sends images to registries.

use bytes::Bytes;
use oci_client::RegistryOperation;

use super::layout::Layout;
use super::pull::{authentication, client, explain};
use super::{Credentials, Image, ImageError, Progress, at, reference};

pub(super) async fn push(
    layout: &Layout,
    image: &Image,
    credentials: &[Credentials],
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), ImageError> {
    let name = &image.reference;
    let target = reference::parse(name)?;
    let client = client(&target)?;
    let auth = authentication(&target, credentials);
    let failed = |e| explain(name, &e);
    client.auth(&target, &auth, RegistryOperation::Push).await.map_err(failed)?;
    client.store_auth_if_needed(target.resolve_registry(), &auth).await;
    let manifest = layout.manifest(&image.digest)?;
    let mut done_bytes = 0;
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        if !client.blob_exists(&target, &descriptor.digest).await.map_err(failed)? {
            let path = layout.blob(&descriptor.digest)?;
            let bytes = tokio::fs::read(&path).await.map_err(at(&path))?;
            client.push_blob(&target, Bytes::from(bytes), &descriptor.digest).await.map_err(failed)?;
        }
        done_bytes += descriptor.size.max(0).unsigned_abs();
        progress(Progress { done_bytes, total_bytes: image.size_bytes });
    }
    let bytes = layout.read_blob(&image.digest)?;
    let media_type = manifest.media_type.as_deref().unwrap_or("application/vnd.oci.image.manifest.v1+json");
    let media_type = media_type.parse().map_err(|_| ImageError::malformed("bad manifest media type"))?;
    client.push_manifest_raw(&target, bytes, media_type).await.map_err(failed)?;
    Ok(())
}
