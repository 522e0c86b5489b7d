//! The recorder: writes what the controllers have to tell as Events.
//!
//! Fed by the executor over a bounded channel; a full channel drops the news, because Events are
//! no reason to hold anything up. What becomes an Event of its own says [`proa_api::telling`].

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use proa_api::telling::{Entry, Ledger, News};
use proa_kinds::{Kind, Part};
use proa_logic::world::plan::{Change, Reference};
use tokio::sync::mpsc;

use crate::registry::{Caller, Registry, WriteOptions};

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
    /// A recorder and the end that a [`Writer`] reads.
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

/// Writes notes as Events.
pub struct Writer {
    registry: Registry,
    notes: mpsc::Receiver<Note>,
    ledger: Ledger<Reference>,
}

impl Writer {
    /// Nothing written yet.
    pub fn new(registry: Registry, notes: mpsc::Receiver<Note>) -> Self {
        Writer { registry, notes, ledger: Ledger::default() }
    }

    /// Writes until every [`Recorder`] is gone.
    pub async fn run(&mut self) {
        let Some(kind) = self.registry.kinds().by_kind("v1", "Event").cloned() else { return };
        while let Some(note) = self.notes.recv().await {
            let Note { component, about, warning, reason, message } = note;
            let uid = about.uid.clone();
            let news = News { component, about, warning, reason: reason.into(), message };
            let Some(entry) = self.ledger.enter(news, &uid, Timestamp::now()) else { continue };
            self.write(&kind, entry).await;
        }
    }

    async fn write(&mut self, kind: &Arc<Kind>, entry: Entry<Reference>) {
        let caller = Caller::system(&entry.id.component);
        let options = WriteOptions::default();
        let event = entry.event(reference(&entry.id.about), "");
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        if entry.count > 1 {
            let change = Change::Merge(entry.again());
            let apply = move |current: &serde_json::Value| Ok(change.apply(current));
            let name = entry.name(&entry.id.about.name);
            match self.registry.patch(&caller, kind, namespace, &name, Part::Main, apply, &options).await {
                Ok(_) => return,
                Err(refusal) if refusal.code() == 404 => {}
                Err(refusal) => return tracing::debug!(%refusal, "an event was refused"),
            }
        }
        let Ok(body) = serde_json::to_value(&event) else { return };
        if let Err(refusal) = self.registry.create(&caller, kind, namespace, body, &options).await {
            tracing::debug!(%refusal, "an event was refused");
            self.ledger.forget(&entry.id);
        }
    }
}

fn reference(about: &Reference) -> ObjectReference {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    ObjectReference {
        api_version: text(&about.api_version),
        kind: text(&about.kind),
        name: text(&about.name),
        namespace: text(&about.namespace),
        uid: text(&about.uid),
        ..ObjectReference::default()
    }
}
