//! The recorder: writes what the controllers have to tell as Events.
//!
//! Fed by the executor over a bounded channel; a full channel drops the news, because Events are
//! no reason to hold anything up. Repeats count up the Event that is there. Many Events that
//! differ only in their text become one, and an object that keeps causing them is told of less
//! often, as in the stock recorder.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::names::NAMESPACE_DEFAULT;
use proa_kinds::Kind;
use proa_logic::world::plan::{Change, Reference};
use serde_json::json;
use tokio::sync::mpsc;

use crate::registry::{Caller, Registry, Target, WriteOptions};

const CHANNEL: usize = 4096;
/// Events remembered for counting up; beyond this the oldest half is forgotten.
const REMEMBERED: usize = 4096;
/// So many texts of one reason for one object are told one by one.
const DISTINCT_TEXTS: u32 = 10;
/// The window in which they are counted.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// So many Events about one object may come at once.
const BURST: f64 = 25.0;
/// After that, one in so many seconds.
const REFILL_SECONDS: f64 = 300.0;

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
        let Some(entry) = ledger.enter(note, Timestamp::now()) else { continue };
        write_one(&registry, &kind, &mut ledger, entry).await;
    }
}

async fn write_one(registry: &Registry, kind: &Arc<Kind>, ledger: &mut Ledger, entry: Entry) {
    let caller = Caller::system(&entry.id.component);
    let options = WriteOptions::default();
    if entry.count > 1 {
        let change = Change::Merge(json!({
            "count": entry.count, "lastTimestamp": Time(entry.last), "message": entry.message,
        }));
        let apply = move |current: &serde_json::Value| Ok(change.apply(current));
        let patch =
            registry.patch(&caller, kind, &entry.namespace, &entry.name, Target::Main, apply, &options);
        match patch.await {
            Ok(_) => return,
            Err(refusal) if refusal.code() == 404 => {}
            Err(refusal) => {
                tracing::debug!(%refusal, "an event was refused");
                return;
            }
        }
    }
    if let Err(refusal) = registry.create(&caller, kind, &entry.namespace, entry.body(), &options).await {
        tracing::debug!(%refusal, "an event was refused");
        ledger.events.remove(&entry.id);
    }
}

/// What makes two notes the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    component: Cow<'static, str>,
    about: Reference,
    warning: bool,
    reason: &'static str,
    /// Empty for the Event that stands for many texts.
    message: String,
}

/// One Event as it is to be written.
#[derive(Clone, Debug)]
struct Entry {
    id: Id,
    namespace: String,
    name: String,
    message: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

/// What has been told lately.
#[derive(Debug, Default)]
struct Ledger {
    events: BTreeMap<Id, Entry>,
    /// Per object and reason: when the window began and how many texts it has seen.
    texts: BTreeMap<Id, (Timestamp, u32)>,
    /// Per teller and object: what is left of the burst, and since when.
    budgets: BTreeMap<(Cow<'static, str>, Arc<str>), (f64, Timestamp)>,
}

impl Ledger {
    fn enter(&mut self, note: Note, now: Timestamp) -> Option<Entry> {
        if !self.spend((note.component.clone(), note.about.uid.clone()), now) {
            return None;
        }
        self.shrink();
        let mut id = Id {
            component: note.component,
            about: note.about,
            warning: note.warning,
            reason: note.reason,
            message: String::new(),
        };
        let mut message = note.message;
        let told = Id { message: message.clone(), ..id.clone() };
        if self.events.contains_key(&told) {
            id = told;
        } else {
            let (began, texts) = self.texts.entry(id.clone()).or_insert((now, 0));
            if now.duration_since(*began) > WINDOW {
                (*began, *texts) = (now, 0);
            }
            *texts += 1;
            if *texts > DISTINCT_TEXTS {
                message = format!("(combined from similar events): {message}");
            } else {
                id = told;
            }
        }
        let entry = self.events.entry(id.clone()).or_insert_with(|| new_entry(id, now));
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.message = message;
        Some(entry.clone())
    }

    fn spend(&mut self, whose: (Cow<'static, str>, Arc<str>), now: Timestamp) -> bool {
        let (left, since) = self.budgets.entry(whose).or_insert((BURST, now));
        let seconds = now.duration_since(*since).as_secs_f64().max(0.0);
        *left = (*left + seconds / REFILL_SECONDS).min(BURST);
        *since = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    fn shrink(&mut self) {
        if self.events.len() > REMEMBERED {
            let mut times: Vec<Timestamp> = self.events.values().map(|e| e.last).collect();
            times.sort();
            let middle = times[times.len() / 2];
            self.events.retain(|_, e| e.last > middle);
        }
        if self.texts.len() > REMEMBERED {
            self.texts.clear();
        }
        if self.budgets.len() > 4 * REMEMBERED {
            self.budgets.retain(|_, (left, _)| *left < BURST - 1.0);
        }
        if self.budgets.len() > 4 * REMEMBERED {
            self.budgets.clear();
        }
    }
}

fn new_entry(id: Id, now: Timestamp) -> Entry {
    let namespace = if id.about.namespace.is_empty() { NAMESPACE_DEFAULT } else { &id.about.namespace };
    Entry {
        namespace: namespace.to_owned(),
        name: format!("{}.{:x}", id.about.name, now.as_nanosecond()),
        id,
        message: String::new(),
        count: 0,
        first: now,
        last: now,
    }
}

impl Entry {
    fn body(&self) -> serde_json::Value {
        let about = &self.id.about;
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": self.name, "namespace": self.namespace },
            "involvedObject": {
                "apiVersion": &*about.api_version, "kind": &*about.kind, "name": &*about.name,
                "namespace": &*about.namespace, "uid": &*about.uid,
            },
            "type": if self.id.warning { "Warning" } else { "Normal" },
            "reason": self.id.reason,
            "message": self.message,
            "count": self.count,
            "firstTimestamp": Time(self.first),
            "lastTimestamp": Time(self.last),
            "source": { "component": self.id.component },
            "reportingComponent": self.id.component,
            "reportingInstance": "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let about = Reference::named("v1", "Pod", "default", "p");
        Note { component: "test".into(), about, warning: true, reason: "Failed", message: message.to_owned() }
    }

    #[test]
    fn repeats_count_up_and_many_texts_become_one() {
        let now = Timestamp::UNIX_EPOCH;
        let mut ledger = Ledger::default();
        let first = ledger.enter(note("a"), now).unwrap();
        let second = ledger.enter(note("a"), now).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.name, second.name);
        let mut last = second;
        for text in 0..14 {
            last = ledger.enter(note(&text.to_string()), now).unwrap();
        }
        assert_eq!(last.message, "(combined from similar events): 13");
        assert_eq!(last.count, 5);
    }

    #[test]
    fn an_object_that_keeps_causing_events_is_told_of_less() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut ledger = Ledger::default();
        let told = (0..100).filter(|_| ledger.enter(note("a"), now).is_some()).count();
        assert_eq!(told, 25);
        now += SignedDuration::from_secs(301);
        assert!(ledger.enter(note("a"), now).is_some());
        assert!(ledger.enter(note("a"), now).is_none());
    }
}
