//! Gets the image of a container under its pull policy, with the Events that users know.
//!
//! Source: <https://kubernetes.io/docs/concepts/containers/images/>.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::away::away;
use crate::backoff::go_duration;
use crate::event::report;
use crate::image::{Image, ImageError, Progress, normalize};
use crate::node::host::Host;
use crate::pod::observed::{field_path, reason};

/// How often a long pull tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// How often it is seen to that there is room for what it brings.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// What to do about an image that was made here and cannot be pulled.
const LOCAL_HINT: &str = "; an image of this name is on the node: with imagePullPolicy IfNotPresent or Never it is used \
     without asking a registry";

/// Why there is no image: a waiting reason and a message.
pub type Refused = (&'static str, String);

/// The image of a container: the one the node has, or one that is pulled now.
pub async fn ensure(host: &Host, pod: &Pod, container: &Container) -> Result<Image, Refused> {
    let name = container.image.as_deref().unwrap_or_default();
    let path = field_path(pod, &container.name);
    let tell = |warning, reason, text| host.recorder.report(pod, report(path.clone(), warning, reason, text));
    if let Err(error) = normalize(name) {
        let text = format!("Failed to apply default image tag \"{name}\": {error}");
        return Err((reason::INVALID_IMAGE_NAME, text));
    }
    let (images, asked) = (host.images.clone(), name.to_owned());
    let local = away(move || images.get(&asked)).await;
    match (pull_policy(container, name), &local) {
        ("Never", None) => {
            let text = format!("Container image \"{name}\" is not present with pull policy of Never");
            return Err((reason::ERR_IMAGE_NEVER_PULL, text));
        }
        ("Never" | "IfNotPresent", Some(image)) => {
            tell(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
            return Ok(image.clone());
        }
        _ => {}
    }
    let is_here = local.is_some();
    tell(false, "Pulling", format!("Pulling image \"{name}\""));
    let begun = Instant::now();
    match pull(host, pod, name, &tell).await {
        Ok(image) => {
            host.foreign.remove(&image.reference);
            let took = go_duration(begun.elapsed());
            let size = image.size_bytes;
            tell(
                false,
                "Pulled",
                format!(
                    "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {size} bytes."
                ),
            );
            if image.devices_left_out > 0 {
                let count = image.devices_left_out;
                let text = format!(
                    "Left out {count} device nodes of image \"{name}\": containers have the node's devices only"
                );
                tell(true, "DevicesLeftOut", text);
            }
            Ok(image)
        }
        Err(error) => {
            note_platform(host, name, &error).await;
            let hint = if is_here { LOCAL_HINT } else { "" };
            let text = format!("failed to pull image \"{name}\": {error}{hint}");
            tell(true, "Failed", format!("Failed to pull image \"{name}\": {error}{hint}"));
            let reason = match error {
                ImageError::InvalidName(_) => reason::INVALID_IMAGE_NAME,
                ImageError::Platform(_) => reason::IMAGE_PLATFORM_MISMATCH,
                _ => reason::ERR_IMAGE_PULL,
            };
            Err((reason, text))
        }
    }
}

/// Tells the scheduler, before the pod is given up and replaced, that the image has nothing for this
/// node's platform.
async fn note_platform(host: &Host, name: &str, error: &ImageError) {
    let (ImageError::Platform(_), Ok(full)) = (error, normalize(name)) else { return };
    host.foreign.add(&full, Instant::now());
    if let Err(error) = host.foreign.publish(&host.client, &host.config.node_name).await {
        // The next heartbeat of the node tells it.
        tracing::warn!(%error, image = full, "the node could not show an image without a manifest for it");
    }
}

/// The policy; without one, an image of tag `latest` is always asked for.
fn pull_policy<'a>(container: &'a Container, name: &str) -> &'a str {
    match container.image_pull_policy.as_deref() {
        Some(policy) => policy,
        None if normalize(name).is_ok_and(|full| full.ends_with(":latest")) => "Always",
        None => "IfNotPresent",
    }
}

async fn pull(
    host: &Host,
    pod: &Pod,
    name: &str,
    tell: &(dyn Fn(bool, &'static str, String) + Sync),
) -> Result<Image, ImageError> {
    let refused = |message| ImageError::Registry { reference: name.to_owned(), message };
    let room = || match host.disk.shortage() {
        Some(shortage) => Err(refused(format!(
            "the node is low on resource: {}. {}",
            shortage.resource.name(),
            shortage.amounts()
        ))),
        None => Ok(()),
    };
    room()?;
    let credentials = host.objects.credentials(pod).await.map_err(refused)?;
    let latest: Mutex<Option<Progress>> = Mutex::new(None);
    let progress = |progress: Progress| {
        if let Ok(mut latest) = latest.lock() {
            *latest = Some(progress);
        }
    };
    let owner = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut pulled = std::pin::pin!(host.images.pull(name, owner, &credentials, true, &progress));
    let mut told = Instant::now();
    loop {
        match tokio::time::timeout(ROOM_EVERY, &mut pulled).await {
            Ok(done) => return done,
            Err(_) => {
                // Given up, it leaves nothing of what has not come whole.
                room()?;
                if told.elapsed() < PROGRESS_EVERY {
                    continue;
                }
                told = Instant::now();
                let so_far = latest.lock().ok().and_then(|latest| *latest);
                if let Some(Progress { done_bytes, total_bytes }) = so_far.filter(|p| p.total_bytes > 0) {
                    let (done, total) = (done_bytes >> 20, total_bytes >> 20);
                    let percent = done_bytes * 100 / total_bytes;
                    let text = format!("Pulling image \"{name}\": {done} of {total} MiB ({percent}%)");
                    tell(false, "Pulling", text);
                }
            }
        }
    }
}
