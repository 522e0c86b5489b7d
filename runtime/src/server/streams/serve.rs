//! The requests that become streams, with the kubelet's paths and parameters:
//! `/exec/{namespace}/{pod}/{container}`, `/attach/…`, `/portForward/{namespace}/{pod}`.
//!
//! Merged into the node's HTTP server. A request is refused with a text while it is still HTTP;
//! once it has been upgraded, what goes wrong is told on its stream for errors.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use proa_sandbox::protocol;

use super::forward;
use super::open::Open;
use super::remote::{self, Talk};
use super::upgrade::{self, Wanted};
use crate::engine::{EngineError, OpenError, Sandbox};
use crate::node::descriptors::Allowed;
use crate::node::paths::Paths;
use crate::node::shown_pods::{Shown, ShownPods};
use crate::pod::observed::all_containers;

/// Status code and text.
type Refusal = (StatusCode, String);
/// Parameters, in order.
type Parameters = Query<Vec<(String, String)>>;
/// Namespace, pod, container.
type ContainerPath = Path<(String, String, String)>;

#[derive(Clone)]
struct Server {
    pods: ShownPods,
    paths: Paths,
    open: Open,
}

/// The routes.
pub fn router(pods: ShownPods, paths: Paths, allowed: &Allowed) -> Router {
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", get(exec).post(exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach).post(attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward).post(port_forward))
        .with_state(Server { pods, paths, open: Open::new(allowed) })
}

async fn exec(server: State<Server>, path: ContainerPath, query: Parameters, request: Request) -> Response {
    let command: Vec<String> =
        query.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect();
    if command.is_empty() {
        let text = "you must specify at least one command for the container".to_owned();
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    talk(&server, &path, &query, request, Talk::Exec(command))
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn attach(server: State<Server>, path: ContainerPath, query: Parameters, request: Request) -> Response {
    talk(&server, &path, &query, request, Talk::Attach).await.unwrap_or_else(IntoResponse::into_response)
}

async fn talk(
    server: &Server,
    path: &ContainerPath,
    query: &Parameters,
    request: Request,
    talk: Talk,
) -> Result<Response, Refusal> {
    let Path((namespace, pod, container)) = path;
    let shown = find(server, namespace, pod)?;
    let id = running(&shown, container)?;
    let sandbox = sandbox(server, &shown).await?;
    let flag = |name: &str| {
        query.iter().any(|(known, value)| known == name && matches!(value.as_str(), "1" | "true"))
    };
    let (stdin, stdout, mut stderr) = (flag("input"), flag("output"), flag("error"));
    let declared = all_containers(&shown.pod).find(|(_, c)| c.name == *container).map(|(_, c)| c);
    let tty = match &talk {
        Talk::Exec(_) => flag("tty"),
        // Whatever the client believes, the container has one or not.
        Talk::Attach => declared.is_some_and(|c| c.tty == Some(true)),
    };
    // A terminal has one output.
    stderr &= !tty;
    if !(stdin || stdout || stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr".to_owned();
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let ask = match &talk {
        Talk::Exec(args) => protocol::Request::Command { id, args: args.clone(), stdin, stdout, stderr, tty },
        Talk::Attach => protocol::Request::Attach { id, stdin, stdout, stderr },
    };
    let share = server.open.take(&shown, &request)?;
    // A client that asks for a terminal opens a stream for its sizes.
    let wanted = Wanted { stdin, stdout, stderr, resize: flag("tty") };
    upgrade::streams(request, wanted, move |streams, version| async move {
        remote::run(&sandbox, ask, talk, streams, version).await;
        drop(share);
    })
    .await
}

async fn port_forward(
    State(server): State<Server>,
    Path((namespace, pod)): Path<(String, String)>,
    query: Parameters,
    request: Request,
) -> Response {
    match forwarded(&server, &namespace, &pod, &query, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn forwarded(
    server: &Server,
    namespace: &str,
    pod: &str,
    query: &Parameters,
    request: Request,
) -> Result<Response, Refusal> {
    let shown = find(server, namespace, pod)?;
    let sandbox = sandbox(server, &shown).await?;
    let mut ports = Vec::new();
    for (_, value) in query.iter().filter(|(name, _)| name == "port") {
        for text in value.split(',') {
            let wrong = |_| (StatusCode::BAD_REQUEST, format!("unable to parse {text:?} as a port"));
            ports.push(text.parse::<u16>().map_err(wrong)?);
        }
    }
    let share = server.open.take(&shown, &request)?;
    let uid = shown.pod.metadata.uid.clone().unwrap_or_default();
    let connections = Arc::clone(&server.open.connections);
    let name = format!("{pod}_{namespace}");
    let pod = Arc::new(forward::Pod { name, uid, sandbox, connections, _share: share });
    upgrade::ports(request, pod, ports).await
}

fn find(server: &Server, namespace: &str, pod: &str) -> Result<Arc<Shown>, Refusal> {
    let shown = server.pods.get(namespace, pod);
    shown.ok_or_else(|| (StatusCode::NOT_FOUND, "pod does not exist".to_owned()))
}

/// The id of a container's run in its sandbox, if it runs.
fn running(shown: &Shown, container: &str) -> Result<String, Refusal> {
    let status = shown.container(container);
    let runs = status.filter(|s| s.state.as_ref().is_some_and(|state| state.running.is_some()));
    let id = runs.and_then(|status| status.container_id.as_deref()).and_then(|id| id.rsplit('/').next());
    id.map(str::to_owned)
        .ok_or_else(|| (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})")))
}

async fn sandbox(server: &Server, shown: &Shown) -> Result<Sandbox, Refusal> {
    let uid = shown.pod.metadata.uid.as_deref().unwrap_or_default();
    Sandbox::adopt(&server.paths.sandbox(uid)).await.map_err(|error| {
        let text = match error {
            // Between the end of a pod's containers and the status that says so.
            EngineError::Gone { .. } => OpenError::Ended.to_string(),
            other => other.to_string(),
        };
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}
