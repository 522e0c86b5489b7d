//! The recorder: writes what the controllers have to tell as Events.
//!
//! Fed by the executor over a bounded channel; a full channel drops the news, because Events are
//! no reason to hold anything up. What becomes an Event of its own says [`proa_api::telling`].

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::names::NAMESPACE_DEFAULT;
use proa_api::telling::{Entry, Ledger, News};
use proa_kinds::Kind;
use proa_logic::world::plan::{Change, Reference};
use serde_json::json;
use tokio::sync::mpsc;

use crate::registry::{Caller, Registry, Target, WriteOptions};

const CHANNEL: usize = 4096;

/// Something to tell.
#[derive(Clone, Debug)]
pub struct Note {
    /// Who tells.
    pub component: Cow<'static, str>,
    /// The object.
    pub about: Reference,
    /// `Warning` or `Normal`.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Takes notes from anywhere.
#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    /// A recorder and the end that [`write`] reads.
    pub fn new() -> (Self, mpsc::Receiver<Note>) {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        (Recorder(sender), receiver)
    }

    /// Takes a note, or drops it if too many wait.
    pub fn note(&self, note: Note) {
        if let Err(error) = self.0.try_send(note) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

/// Writes notes as Events until every [`Recorder`] is gone.
pub async fn write(registry: Registry, mut notes: mpsc::Receiver<Note>) {
    let Some(kind) = registry.kinds().by_kind("v1", "Event").cloned() else { return };
    let mut ledger = Ledger::default();
    while let Some(note) = notes.recv().await {
        let Note { component, about, warning, reason, message } = note;
        let uid = about.uid.clone();
        let news = News { component, about, warning, reason: reason.into(), message };
        let Some(entry) = ledger.enter(news, &uid, Timestamp::now()) else { continue };
        write_one(&registry, &kind, &mut ledger, entry).await;
    }
}

async fn write_one(
    registry: &Registry,
    kind: &Arc<Kind>,
    ledger: &mut Ledger<Reference>,
    entry: Entry<Reference>,
) {
    let caller = Caller::system(&entry.id.component);
    let options = WriteOptions::default();
    let namespace = namespace(&entry.id.about);
    if entry.count > 1 {
        let change = Change::Merge(json!({
            "count": entry.count, "lastTimestamp": Time(entry.last), "message": entry.message,
        }));
        let apply = move |current: &serde_json::Value| Ok(change.apply(current));
        let name = entry.name(&entry.id.about.name);
        match registry.patch(&caller, kind, namespace, &name, Target::Main, apply, &options).await {
            Ok(_) => return,
            Err(refusal) if refusal.code() == 404 => {}
            Err(refusal) => {
                tracing::debug!(%refusal, "an event was refused");
                return;
            }
        }
    }
    if let Err(refusal) = registry.create(&caller, kind, namespace, body(&entry), &options).await {
        tracing::debug!(%refusal, "an event was refused");
        ledger.forget(&entry.id);
    }
}

fn namespace(about: &Reference) -> &str {
    if about.namespace.is_empty() { NAMESPACE_DEFAULT } else { &about.namespace }
}

fn body(entry: &Entry<Reference>) -> serde_json::Value {
    let about = &entry.id.about;
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": entry.name(&about.name), "namespace": namespace(about) },
        "involvedObject": {
            "apiVersion": &*about.api_version, "kind": &*about.kind, "name": &*about.name,
            "namespace": &*about.namespace, "uid": &*about.uid,
        },
        "type": if entry.id.warning { "Warning" } else { "Normal" },
        "reason": entry.id.reason,
        "message": entry.message,
        "count": entry.count,
        "firstTimestamp": Time(entry.first),
        "lastTimestamp": Time(entry.last),
        "source": { "component": entry.id.component },
        "reportingComponent": entry.id.component,
        "reportingInstance": "",
    })
}
