//! The node's HTTP server, with the paths of the kubelet's: `/healthz`, `/pods`,
//! `/containerLogs/{namespace}/{pod}/{container}`, and what `metrics`, `pod_proxy` and
//! `streams::serve` serve.
//!
//! Called by the API server, over a router in the same process or over TLS.
//! It does not authenticate: who serves it does.

use std::collections::HashMap;
use std::io;
use std::path::{self, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use proa_api::shares::Shares;
use serde_json::json;

use crate::node::descriptors::{self, Allowed};
use crate::node::paths::Paths;
use crate::node::shown_pods::{Shown, ShownPods};
use crate::pod::observed::{parse_id, reason};
use crate::server::logs::notice::Notices;
use crate::server::logs::read::{self, Following, Options};
use crate::server::metrics;

/// Status code and text.
type Refusal = (StatusCode, String);

#[derive(Clone)]
struct Server {
    pods: ShownPods,
    paths: Paths,
    /// Logs that are being read, by the pod's uid: each takes descriptors.
    logs: Arc<Shares<String>>,
    /// For those who follow a log; without an instance nobody can.
    notices: Arc<io::Result<Notices>>,
}

/// The routes.
pub fn router(pods: ShownPods, paths: Paths) -> Router {
    let allowed = Allowed::of(descriptors::limit());
    // A quarter may be one pod's.
    let logs = allowed.logs;
    let streams = crate::server::streams::serve::router(pods.clone(), paths.clone(), &allowed);
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods_list))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .with_state(Server {
            pods: pods.clone(),
            paths,
            logs: Shares::new(logs, logs / 4),
            notices: Arc::new(Notices::start()),
        })
        .merge(metrics::router(pods.clone()))
        .merge(crate::server::pod_proxy::router(pods))
        .merge(streams)
}

async fn pods_list(State(server): State<Server>) -> Response {
    let items: Vec<Pod> = server
        .pods
        .list()
        .iter()
        .map(|shown| Pod { status: Some(shown.status.clone()), ..Pod::clone(&shown.pod) })
        .collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

async fn container_logs(
    State(server): State<Server>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    match logs(&server, &namespace, &pod, &container, &query).await {
        Ok(body) => ([(header::CONTENT_TYPE, "text/plain")], body).into_response(),
        Err((code, message)) => (code, [(header::CONTENT_TYPE, "text/plain")], message).into_response(),
    }
}

async fn logs(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &HashMap<String, String>,
) -> Result<Body, Refusal> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let options = options(query, Timestamp::now()).map_err(bad)?;
    let not_found = |message: String| (StatusCode::NOT_FOUND, message);
    let shown = server.pods.get(namespace, pod);
    let shown = shown.ok_or_else(|| not_found(format!("pod \"{pod}\" does not exist")))?;
    if crate::pod::observed::all_containers(&shown.pod).all(|(_, c)| c.name != container) {
        return Err(not_found(format!("container \"{container}\" not found in pod \"{pod}\"")));
    }
    let (id, running) = run_to_show(&shown, pod, container, flag(query, "previous")).map_err(bad)?;
    let attempt = id.rsplit('/').next().and_then(parse_id).map(|(_, attempt)| attempt);
    let attempt =
        attempt.ok_or_else(|| bad(format!("container \"{container}\" in pod \"{pod}\" is not available")))?;
    let path: PathBuf = server.paths.log(&shown.pod, container, attempt);
    let failed = |error: io::Error| match error.kind() {
        // Nothing is written until the container writes something.
        io::ErrorKind::NotFound => {
            bad(format!("container \"{container}\" in pod \"{pod}\" has no log on this node"))
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to read the log: {error}")),
    };
    let following = match running && flag(query, "follow") {
        false => None,
        true => Some(follow(server, [namespace, pod, container], id, &path).map_err(failed)?),
    };
    let uid = shown.pod.metadata.uid.clone().unwrap_or_default();
    let share = server.logs.take(uid).ok_or_else(|| {
        (StatusCode::TOO_MANY_REQUESTS, format!("too many logs of pod \"{pod}\" are being read"))
    })?;
    let pieces = read::read(path, options, following).await.map_err(failed)?;
    Ok(Body::from_stream(pieces.inspect(move |_| {
        let _ = &share;
    })))
}

/// What tells of news in a run's log, and of its end.
fn follow(
    server: &Server,
    [namespace, pod, container]: [&str; 3],
    id: String,
    log: &path::Path,
) -> io::Result<Following<impl Fn() -> bool + Send + use<>>> {
    let notices = server.notices.as_ref().as_ref();
    let notices = notices.map_err(|error| io::Error::new(error.kind(), format!("inotify: {error}")))?;
    let (pods, at) = (server.pods.clone(), [namespace, pod, container].map(str::to_owned));
    let is_running = move || {
        let shown = pods.get(&at[0], &at[1]);
        shown.as_ref().and_then(|shown| shown.container(&at[2])).is_some_and(|status| {
            status.state.as_ref().is_some_and(|s| s.running.is_some())
                && status.container_id.as_deref() == Some(&id)
        })
    };
    let notice = notices.of(log.parent().unwrap_or(log))?;
    Ok(Following { notice, is_running, shown: server.pods.changes() })
}

/// The id of the run whose log is meant, and whether it may still write. The refusals are worded
/// as the kubelet words them.
fn run_to_show(shown: &Shown, pod: &str, container: &str, previous: bool) -> Result<(String, bool), String> {
    let about = format!("container \"{container}\" in pod \"{pod}\"");
    let status = shown.container(container).ok_or_else(|| format!("{about} is not available"))?;
    let ended = |state: &Option<ContainerState>| {
        state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.container_id.clone())
    };
    let ContainerStatus { state, last_state, container_id, .. } = status;
    if previous {
        let id = ended(last_state);
        return id.map(|id| (id, false)).ok_or_else(|| format!("previous terminated {about} not found"));
    }
    if let (Some(_), Some(id)) = (state.as_ref().and_then(|s| s.running.as_ref()), container_id) {
        return Ok((id.clone(), true));
    }
    if let Some(id) = ended(state).or_else(|| ended(last_state)) {
        return Ok((id, false));
    }
    let waiting = state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
    Err(match waiting {
        Some(reason::ERR_IMAGE_PULL) => format!("{about} is waiting to start: image can't be pulled"),
        Some(reason::IMAGE_PULL_BACK_OFF) => {
            format!("{about} is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("{about} is waiting to start: {reason}"),
        None => format!("{about} is not available"),
    })
}

fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    matches!(query.get(name).map(String::as_str), Some("true" | "1" | ""))
}

fn options(query: &HashMap<String, String>, now: Timestamp) -> Result<Options, String> {
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => {
            let number = text.parse::<u64>();
            number.map(Some).map_err(|_| format!("invalid value for {name}: \"{text}\""))
        }
    };
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(text) => {
            let time = text.parse::<Timestamp>();
            Some(time.map_err(|_| format!("invalid value for sinceTime: \"{text}\""))?)
        }
    };
    let since_seconds = number("sinceSeconds")?.and_then(|seconds| {
        let seconds = jiff::SignedDuration::try_from(Duration::from_secs(seconds)).ok()?;
        now.checked_sub(seconds).ok()
    });
    Ok(Options {
        tail_lines: number("tailLines")?,
        since: since_seconds.or(since_time),
        timestamps: flag(query, "timestamps"),
        limit_bytes: number("limitBytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    fn server(dir: &std::path::Path, statuses: serde_json::Value) -> Router {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]},
        });
        let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod).unwrap());
        let pods = ShownPods::default();
        pods.show(&pod, serde_json::from_value(json!({"containerStatuses": statuses})).unwrap());
        let paths = Paths::new(dir);
        for attempt in [0, 1] {
            let path = paths.log(&pod, "c", attempt);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("2026-01-01T00:00:00Z stdout F run {attempt}\n")).unwrap();
        }
        router(pods, paths)
    }

    async fn check(state: serde_json::Value, last: serde_json::Value, path: &str, code: u16, text: &str) {
        let dir = tempfile::tempdir().unwrap();
        let status = json!([{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 1,
            "containerID": "proa://u/c-1", "state": state, "lastState": last,
        }]);
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        let answer = server(dir.path(), status).oneshot(request).await.unwrap();
        let found = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        assert_eq!((found, std::str::from_utf8(&body).unwrap()), (code, text), "{path}");
    }

    #[tokio::test]
    async fn which_log_is_shown() {
        let ended = |n: u32| json!({"terminated": {"exitCode": 1, "containerID": format!("proa://u/c-{n}")}});
        let running = json!({"running": {}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let none = json!({});
        let path = "/containerLogs/n/p/c";
        check(running.clone(), ended(0), path, 200, "run 1\n").await;
        check(running.clone(), ended(0), "/containerLogs/n/p/c?previous=true", 200, "run 0\n").await;
        check(running.clone(), ended(0), "/containerLogs/n/p/c?tailLines=0", 200, "").await;
        check(waiting("CrashLoopBackOff"), ended(1), path, 200, "run 1\n").await;
        check(ended(1), none.clone(), "/containerLogs/n/p/c?follow=true", 200, "run 1\n").await;
        let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        check(waiting("ContainerCreating"), none.clone(), path, 400, text).await;
        let text = "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image";
        check(waiting("ImagePullBackOff"), none.clone(), path, 400, text).await;
        let text = "previous terminated container \"c\" in pod \"p\" not found";
        check(running.clone(), none.clone(), "/containerLogs/n/p/c?previous=true", 400, text).await;
        let text = "invalid value for tailLines: \"x\"";
        check(running.clone(), none.clone(), "/containerLogs/n/p/c?tailLines=x", 400, text).await;
        check(running.clone(), none.clone(), "/containerLogs/n/x/c", 404, "pod \"x\" does not exist").await;
        let text = "container \"x\" not found in pod \"p\"";
        check(running, none, "/containerLogs/n/p/x", 404, text).await;
    }
}
