//! What this node and its containers use of CPU and memory, under the kubelet's paths:
//! `/metrics/resource` and `/stats/summary`; and how this program itself fares: `/metrics`.
//!
//! Nothing is measured unless somebody asks; an answer is read from `/proc` and from the cgroups of
//! the containers that run. What is told of CPU are counters: who wants to know how fast they grow
//! asks twice. Reference: <https://kubernetes.io/docs/reference/instrumentation/node-metrics/>.

mod read;
mod summary;
mod text;

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::node::shown_pods::ShownPods;
use read::Sample;

/// The text format of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Server {
    pods: ShownPods,
    /// What the last summary was made of: how fast counters grow is told against it.
    before: Arc<Mutex<Option<Sample>>>,
}

/// The routes.
pub fn router(pods: ShownPods) -> Router {
    Router::new()
        .route("/metrics", get(async || ([(header::CONTENT_TYPE, TEXT)], restarts())))
        .route("/metrics/resource", get(resource))
        .route("/stats/summary", get(stats))
        .with_state(Server { pods, before: Arc::default() })
}

/// How often long-lived tasks of this process were started again.
fn restarts() -> String {
    let name = "proa_task_restarts_total";
    let mut text = format!(
        "# HELP {name} Times that a long-lived task has failed and was started again.\n# TYPE {name} counter\n"
    );
    for (task, count) in proa_supervise::counts() {
        let _ = writeln!(text, "{name}{{task=\"{task}\"}} {count}");
    }
    text
}

async fn resource(State(server): State<Server>) -> Response {
    match sample(server.pods).await {
        Ok(sample) => ([(header::CONTENT_TYPE, TEXT)], text::write(&sample)).into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn stats(State(server): State<Server>) -> Response {
    let sample = match sample(server.pods).await {
        Ok(sample) => sample,
        Err(failure) => return failure.into_response(),
    };
    let mut before = server.before.lock().unwrap_or_else(PoisonError::into_inner);
    let body = summary::write(&sample, before.as_ref()).to_string();
    *before = Some(sample);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The files of hundreds of containers are not read on a thread that others wait for.
async fn sample(pods: ShownPods) -> Result<Sample, (StatusCode, String)> {
    let read = tokio::task::spawn_blocking(move || read::sample(&pods)).await;
    read.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
