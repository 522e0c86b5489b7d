//! The steps of a stop: hook, signal, last words, removal, and telling the API server.
//!
//! Called by a pod's worker in tasks of their own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, DeleteParams, Preconditions};
use proa_api::signals;
use proa_sandbox::protocol::{ContainerState, Event, Reply, Request};

use crate::away::away;
use crate::engine::{self, Sandbox};
use crate::event::report;
use crate::node::host::Host;
use crate::pod::last_words;
use crate::pod::observed::{all_containers, field_path, parse_id};
use crate::pod::probe::check::{Check, Target};
use crate::server::logs::last_text;
use crate::volume::mount;

/// Lines and bytes of the log that stand in for a message (`FallbackToLogsOnError`).
const FALLBACK_LINES: u64 = 80;
const FALLBACK_BYTES: usize = 2048;
/// Between SIGTERM and SIGKILL for containers whose pod nobody knows any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Calls a container's preStop hook, if it has one, within the grace period.
pub async fn pre_stop(
    host: &Host,
    pod: &Pod,
    container: &Container,
    target: Target,
    ip: IpAddr,
    grace: Duration,
) {
    let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    let called = match Check::of_hook(hook, container, ip) {
        Ok(check) => tokio::time::timeout(grace, check.run(&target, grace))
            .await
            .unwrap_or_else(|_| Err("the grace period is over".to_owned())),
        Err(message) => Err(message),
    };
    if let Err(message) = called {
        let path = field_path(pod, &container.name);
        let text = format!("PreStopHook failed: {message}");
        host.recorder.report(pod, report(path, true, "FailedPreStopHook", text));
    }
}

/// Sends the stop signal: the container's own, the image's, or SIGTERM.
pub async fn terminate(host: &Host, container: &Container, target: Target) {
    let own = container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    let (images, image) = (host.images.clone(), container.image.clone());
    let of_image = move || images.get(image.as_deref()?)?.config.stop_signal;
    let named = if own.is_some() { own } else { away(of_image).await };
    let number = named.as_deref().map(signals::number);
    if number == Some(None) {
        tracing::warn!(
            signal = named,
            container = container.name,
            "there is no such signal: SIGTERM is sent"
        );
    }
    send(target, number.flatten().unwrap_or(libc::SIGTERM), false).await;
}

/// Sends SIGKILL to every process of a container.
pub async fn kill(target: Target) {
    send(target, libc::SIGKILL, true).await;
}

/// Gives an ended run the message that its container left, or the end of its log if it asks for
/// that.
pub async fn add_last_words(host: &Host, pod: &Pod, state: &mut ContainerState) {
    let Some(exit) = state.exit.as_mut().filter(|exit| exit.message.is_empty()) else { return };
    let Some((name, attempt)) = parse_id(&state.id) else { return };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let container = all_containers(pod).find(|(_, c)| c.name == name).map(|(_, c)| c);
    let policy = container.and_then(|c| c.termination_message_policy.as_deref());
    let wants_log = policy == Some("FallbackToLogsOnError") && exit.code != 0;
    let log = wants_log.then(|| host.paths.log(pod, name, attempt));
    let left = host.paths.termination_log(uid, &state.id);
    let read = move || {
        let of_log = || Some(last_text(&log?, FALLBACK_LINES, FALLBACK_BYTES));
        last_words::read(&left).or_else(of_log).unwrap_or_default()
    };
    exit.message = away(read).await;
}

/// Removes all that a pod has on this node but its logs. Nothing to remove is success.
pub async fn tear_down(host: &Host, pod: &Pod, sandbox: Option<Sandbox>) -> Result<(), String> {
    remove_from_node(host, pod.metadata.uid.as_deref().unwrap_or_default(), sandbox).await
}

/// The same for a pod of which only the uid is known.
pub async fn remove_from_node(host: &Host, uid: &str, sandbox: Option<Sandbox>) -> Result<(), String> {
    stop_sandbox(&host.paths.sandbox(uid), sandbox).await?;
    let layers = mount::remove(host.paths.pod_containers(uid)).await;
    layers.map_err(|error| format!("remove writable layers: {error}"))?;
    host.network.detach(uid).await.map_err(|error| error.to_string())?;
    let volumes = mount::remove(host.paths.pod_volumes(uid)).await;
    volumes.map_err(|error| format!("remove volumes: {error}"))
}

/// Gives the containers of a pod of which only the sandbox's directory is known the time to end by
/// themselves that the kubelet gives such containers.
pub async fn end_gently(dir: &std::path::Path) {
    let Ok(sandbox) = Sandbox::adopt(dir).await else { return };
    let Ok(Reply::Containers { containers, .. }) = sandbox.request(Request::List).await else { return };
    let running = containers.into_iter().filter(|state| state.exit.is_none()).map(|state| state.id);
    let mut running: BTreeSet<String> = running.collect();
    for id in &running {
        send(Target { sandbox: sandbox.clone(), id: id.clone() }, libc::SIGTERM, false).await;
    }
    let Ok(events) = sandbox.watch().await else { return };
    let ended = async {
        let mut events = std::pin::pin!(events);
        while !running.is_empty()
            && let Some(Event::Container(state)) = events.next().await
        {
            if state.exit.is_some() {
                running.remove(&state.id);
            }
        }
    };
    let _ = tokio::time::timeout(ORPHAN_GRACE, ended).await;
}

/// Stops a sandbox that is known, or found in its directory, and removes what it leaves.
pub async fn stop_sandbox(dir: &std::path::Path, sandbox: Option<Sandbox>) -> Result<(), String> {
    let sandbox = match sandbox {
        Some(sandbox) => Some(sandbox),
        None if dir.exists() => Sandbox::adopt(dir).await.ok(),
        None => return Ok(()),
    };
    match sandbox {
        Some(sandbox) => sandbox.stop().await.map_err(|error| error.to_string()),
        None => engine::reap(dir).await.map_err(|error| error.to_string()),
    }
}

/// Tells the API server that the pod has ended, so that it forgets it.
pub async fn release(host: &Host, pod: &Pod) -> Result<(), String> {
    let meta = &pod.metadata;
    let api = Api::<Pod>::namespaced(host.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        // It is gone, or another one of its name has taken its place.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn send(target: Target, signal: i32, all: bool) {
    let request = Request::Signal { id: target.id, signal, all };
    if let Err(error) = target.sandbox.request(request).await {
        tracing::debug!(%error, signal, "a signal was not sent");
    }
}
