//! Sends images to registries.
//!
//! Only ever at the command line, by the node's administrator.

use std::time::Duration;

use bytes::Bytes;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use super::error::{ImageError, at, shown, with_causes};
use super::layout::Layout;
use super::record::Image;
use super::reference;
use super::transfer::{Credentials, Progress, fitting};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn push(
    layout: &Layout,
    image: &Image,
    credentials: &[Credentials],
    insecure: &[String],
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), ImageError> {
    let name = &image.reference;
    let target = reference::parse(name)?;
    let failed = |error| explain(name, &error);
    let client = client(&target, insecure).map_err(failed)?;
    let auth = authentication(&target, credentials);
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

fn client(target: &Reference, insecure: &[String]) -> Result<Client, OciDistributionError> {
    let is_plain = reference::is_plain(target.resolve_registry(), insecure);
    Client::try_from(ClientConfig {
        protocol: if is_plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("proa/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

fn authentication(target: &Reference, credentials: &[Credentials]) -> RegistryAuth {
    match fitting(target, credentials).into_iter().next() {
        Some(found) => RegistryAuth::Basic(found.username, found.password),
        None => RegistryAuth::Anonymous,
    }
}

fn explain(name: &str, error: &OciDistributionError) -> ImageError {
    let message = match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            return ImageError::Unauthorized(name.to_owned());
        }
        other => with_causes(other),
    };
    ImageError::Push { reference: name.to_owned(), message: shown(&message) }
}
