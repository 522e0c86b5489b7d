//! Watches as a client sees them: lines of JSON on an answer that does not end.
//!
//! The registry selects and encodes; lines of whole objects are shared by all watchers, only
//! tables and metadata are written per watcher.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Response, StatusCode};
use proa_api::Refusal;
use proa_kinds::Kind;
use serde_json::{Value, json};

use super::api::{Api, Call};
use super::frames;
use super::negotiate::{Encoding, Form};
use super::present::Presentation;
use super::respond;
use crate::store::EventKind;
use crate::watch::{WatchItem, WatchStream, bookmark};

/// Answers a watch.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    if form.encoding != Encoding::Json {
        return Err(Refusal::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let options = call.query.watch_options()?;
    let (items, first) = begun(api.registry.watch(kind, call.path.namespace.as_deref(), options))?;
    // It counts as a list does, until it has been read.
    let mut counted = call.held.count(first.load(Ordering::Relaxed))?;

    let table = api.registry.kinds();
    let row = table.by_plural(&kind.group, &kind.version, &kind.plural).cloned();
    let kind = row.ok_or_else(Refusal::no_such_path)?;
    let mut with_columns = true;
    let lines = items.map(move |item| {
        counted.shrink_to(first.load(Ordering::Relaxed));
        let is_event = matches!(item, WatchItem::Event(..) | WatchItem::Bookmark(..));
        let line = write_line(&kind, &item, &form, with_columns);
        with_columns &= !is_event;
        Ok::<_, Infallible>(line)
    });
    // A server that stops ends its watches; clients start them again elsewhere or later.
    let lines = lines.take_until(api.shutdown.clone().cancelled_owned());
    let mut response = respond::bytes(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = Body::from_stream(lines);
    if frames::asked(call) { frames::watch(call, response).await } else { Ok(response) }
}

/// A watch, also one that starts too far back: of that the stock server tells in an event, where
/// clients look for it because it also stands there when a watch falls behind.
fn begun(
    watch: Result<WatchStream, Refusal>,
) -> Result<(impl Stream<Item = WatchItem>, Arc<AtomicUsize>), Refusal> {
    match watch {
        Ok(items) => {
            let first = items.first_bytes();
            Ok((items.left_stream(), first))
        }
        Err(refusal) if refusal.code() == StatusCode::GONE => {
            Ok((stream::iter([WatchItem::Error(refusal)]).right_stream(), Arc::default()))
        }
        Err(refusal) => Err(refusal),
    }
}

fn write_line(kind: &Kind, item: &WatchItem, form: &Presentation, with_columns: bool) -> Bytes {
    match item {
        WatchItem::Event(_, _, line) if form.form == Form::Whole => line.bytes(),
        WatchItem::Event(event, object, _) => {
            let type_ = match event {
                EventKind::Added => "ADDED",
                EventKind::Modified => "MODIFIED",
                EventKind::Deleted => "DELETED",
            };
            framed(type_, &form.shaped(kind, object, with_columns))
        }
        WatchItem::Bookmark(revision, initial_events_end) => {
            let object = bookmark(&kind.api_version(), &kind.kind, *revision, *initial_events_end);
            framed("BOOKMARK", shaped_bookmark(object, form.form).to_string().as_bytes())
        }
        WatchItem::Error(refusal) => {
            let status = serde_json::to_vec(&refusal.0).unwrap_or_default();
            framed("ERROR", &status)
        }
    }
}

/// A bookmark in the form of the watch's other events.
fn shaped_bookmark(object: Value, form: Form) -> Value {
    let metadata = object["metadata"].clone();
    match form {
        Form::Whole => object,
        Form::Metadata(version) => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
        }),
        Form::Table(version) => json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": { "resourceVersion": metadata["resourceVersion"] },
            "columnDefinitions": null,
            "rows": [{ "cells": [], "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            } }],
        }),
    }
}

fn framed(type_: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(type_.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_too_far_back_is_an_event_and_a_bad_one_a_refusal() {
        let items: Vec<WatchItem> = begun(Err(Refusal::expired("old"))).unwrap().0.collect().await;
        assert!(matches!(&items[..], [WatchItem::Error(refusal)] if refusal.code() == 410));
        assert!(begun(Err(Refusal::bad_request("x"))).is_err_and(|refusal| refusal.code() == 400));
    }
}
