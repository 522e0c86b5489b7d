//! Fetches an image from its registry into the store, and unpacks it.
//!
//! Runs in a process of its own (`fetch.rs`).

use std::io::Write;
use std::time::Duration;

use oci_client::Reference;
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, OciManifest,
};
use tokio::time::Instant;

use super::error::{ImageError, at};
use super::layout::{Layout, METADATA_LIMIT_BYTES, hex_of};
use super::record::Image;
use super::registry::Registry;
use super::transfer::{Credentials, Progress};
use super::{platform, recognize, reference};
use crate::backoff::go_duration;

/// Who sends less than so much …
const LEAST_BYTES: usize = 64 << 10;
/// … in this time is not waited for: others want the place.
const LEAST_TIME: Duration = Duration::from_secs(30);

const ACCEPTED: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// Pulls the image of this full name. `go_on` hears the digest of its manifest before anything that
/// the manifest names is fetched.
pub(super) async fn pull(
    layout: &Layout,
    name: &str,
    credentials: &[Credentials],
    insecure: &[String],
    go_on: &(dyn Fn(&str) -> Result<(), ImageError> + Send + Sync),
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Image, ImageError> {
    let reference = reference::parse(name)?;
    let mut given = credentials.iter();
    let (registry, (manifest, digest)) = loop {
        let registry = Registry::new(&reference, given.next(), insecure)?;
        match manifest(&registry, layout, &reference).await {
            // Some registries do not say that there is what they do not show.
            Err(ImageError::Unauthorized(_) | ImageError::NotFound(_)) if given.len() > 0 => {}
            found => break (registry, found?),
        }
    };
    go_on(&digest)?;
    let total_bytes = recognize::transfer_bytes(&manifest)?;
    if u64::try_from(manifest.config.size).is_ok_and(|size| size > METADATA_LIMIT_BYTES) {
        let text = format!("the image's configuration is larger than {} MiB", METADATA_LIMIT_BYTES >> 20);
        return Err(ImageError::Malformed(text));
    }
    let mut done_bytes = 0;
    let mut pace = Pace::default();
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        if !layout.blob(&descriptor.digest)?.is_file() {
            let before = done_bytes;
            let tell = |bytes| progress(Progress { done_bytes: before + bytes, total_bytes });
            blob(&registry, layout, descriptor, &mut pace, &tell).await?;
        }
        done_bytes += descriptor.size.max(0).unsigned_abs();
    }
    recognize::install(layout, name, &digest, true)
}

/// What is waited for, on all of one pull's blobs: no less than [`LEAST_BYTES`] in [`LEAST_TIME`]. What is
/// done with the bytes takes the time that it takes.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, String> {
        let begun = Instant::now();
        let next = tokio::time::timeout(LEAST_TIME.saturating_sub(self.waited), next).await;
        self.waited += begun.elapsed();
        next.map_err(|_| {
            format!("it sends less than {} KiB in {}", LEAST_BYTES >> 10, go_duration(LEAST_TIME))
        })
    }

    fn received(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= LEAST_BYTES {
            *self = Self::default();
        }
    }
}

/// Fetches one blob, at most as many bytes as its descriptor promises.
async fn blob(
    registry: &Registry,
    layout: &Layout,
    descriptor: &OciDescriptor,
    pace: &mut Pace,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), ImageError> {
    let limit_bytes = descriptor.size.max(0).unsigned_abs();
    let path = layout.blob(&descriptor.digest)?;
    let mut response = registry.blob(&descriptor.digest).await?;
    let mut blob = layout.new_blob()?;
    loop {
        let next = pace.wait(response.chunk()).await.map_err(|message| registry.refused(message))?;
        let Some(chunk) = next.map_err(|error| registry.failed(error))? else { break };
        pace.received(chunk.len());
        if blob.size_bytes() + chunk.len() as u64 > limit_bytes {
            let text = format!("blob {} is larger than its descriptor says", descriptor.digest);
            return Err(ImageError::Malformed(text));
        }
        blob.write_all(&chunk).map_err(at(&path))?;
        progress(blob.size_bytes());
    }
    layout.finish_blob(blob, Some(&descriptor.digest))?;
    Ok(())
}

/// The manifest for this node, its bytes kept as a blob, and their digest.
async fn manifest(
    registry: &Registry,
    layout: &Layout,
    reference: &Reference,
) -> Result<(OciImageManifest, String), ImageError> {
    let mut wanted_digest = reference.digest().map(str::to_owned);
    // An index leads to a manifest; an index in an index is no image.
    for _ in 0..2 {
        if let Some(digest) = &wanted_digest {
            hex_of(digest)?;
        }
        let tag = reference.tag().unwrap_or("latest");
        let bytes = registry.manifest(wanted_digest.as_deref().unwrap_or(tag), &ACCEPTED).await?;
        let digest = layout.put_blob(&bytes)?;
        if let Some(wanted) = wanted_digest.filter(|wanted| *wanted != digest) {
            let text =
                format!("the manifest {wanted} of {reference} does not match its digest: it is {digest}");
            return Err(ImageError::malformed(text));
        }
        let parsed = serde_json::from_slice(&bytes)
            .map_err(|e| ImageError::malformed(format!("manifest of {reference}: {e}")))?;
        match parsed {
            OciManifest::Image(manifest) => return Ok((manifest, digest)),
            OciManifest::ImageIndex(index) => {
                let chosen = platform::choose(&index.manifests).ok_or_else(|| {
                    let architecture = platform::ARCHITECTURE;
                    ImageError::Platform(format!(
                        "no match for platform in manifest: {reference} has no image for linux/{architecture} and none for wasi/wasm"
                    ))
                })?;
                wanted_digest = Some(chosen.to_owned());
            }
        }
    }
    Err(ImageError::malformed(format!("{reference} is an index of indexes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_drips_is_not_waited_for() {
        let chunk = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
        let mut pace = Pace::default();
        // Slow, but enough.
        for _ in 0..20 {
            pace.wait(chunk(29)).await.expect("in time");
            pace.received(LEAST_BYTES);
            tokio::time::sleep(LEAST_TIME).await;
        }
        for _ in 0..5 {
            pace.wait(chunk(5)).await.expect("in time");
            pace.received(1);
        }
        let refusal = pace.wait(chunk(6)).await.expect_err("too slow");
        assert_eq!(refusal, "it sends less than 64 KiB in 30s");
    }

    /// A registry that shows this manifest to who has the password `right`, and says with which
    /// words it was asked.
    async fn registry(manifest: &'static str) -> (u16, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = std::sync::Arc::clone(&shown);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let basic = request.lines().find_map(|line| line.strip_prefix("authorization: Basic "));
                let answer = match basic {
                    Some("dTpyaWdodA==") => {
                        format!("200 OK\r\nContent-Length: {}\r\n\r\n{manifest}", manifest.len())
                    }
                    _ => {
                        "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\n\r\n"
                            .to_owned()
                    }
                };
                seen.lock().unwrap().extend(basic.map(str::to_owned));
                let answer = format!("HTTP/1.1 {}", answer.replacen("\r\n", "\r\nConnection: close\r\n", 1));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (port, shown)
    }

    #[tokio::test]
    async fn credentials_are_tried_until_one_is_let_in() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (port, shown) = registry(
            r#"{"schemaVersion": 2, "config": {"mediaType": "c", "digest": "d", "size": 2}, "layers": []}"#,
        )
        .await;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let name = format!("127.0.0.1:{port}/team/a:1");
        let with = |password: &str| Credentials {
            registry: format!("127.0.0.1:{port}"),
            username: "u".to_owned(),
            password: password.to_owned(),
        };
        let far_enough =
            |_: &str| Err(ImageError::HeldBack { reference: "a".into(), message: "come".into() });
        let pull = async |given: &[Credentials]| {
            pull(&layout, &name, given, &[], &far_enough, &|_| ()).await.expect_err("no blobs").to_string()
        };
        let all = [with("old"), with("right"), with("never")];
        assert!(pull(&all).await.ends_with("come"));
        assert_eq!(*shown.lock().unwrap(), ["dTpvbGQ=", "dTpyaWdodA=="]);
        assert_eq!(pull(&all[..1]).await, format!("failed to authorize: {name}"));
        assert_eq!(pull(&[]).await, format!("failed to authorize: {name}"));
    }
}
