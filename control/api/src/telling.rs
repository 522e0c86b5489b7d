//! Which news become Events of their own, and which count up one that is there or are left out.
//!
//! Many Events that differ only in their text become one, and an object that keeps causing them is told
//! of less often, as by the recorder of client-go
//! (<https://pkg.go.dev/k8s.io/client-go/tools/record#EventCorrelator>).

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::names::NAMESPACE_DEFAULT;

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

/// What makes two news the same. `A` is what they are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct News<A> {
    /// Who tells.
    pub component: Cow<'static, str>,
    /// What it is about: an object, or a part of one.
    pub about: A,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: Cow<'static, str>,
    /// For people. Empty for the Event that stands for many texts.
    pub message: String,
}

/// One Event as it is to be written.
#[derive(Clone, Debug)]
pub struct Entry<A> {
    /// By which it is known.
    pub id: News<A>,
    /// For people.
    pub message: String,
    /// How often it has happened.
    pub count: i32,
    /// When it happened first, and when last.
    pub first: Timestamp,
    /// See `first`.
    pub last: Timestamp,
}

impl<A> Entry<A> {
    /// The name of the Event about an object of this name.
    pub fn name(&self, object: &str) -> String {
        format!("{object}.{:016x}", self.first.as_nanosecond())
    }

    /// The Event about this object. `host` is the node that tells, empty if none does.
    pub fn event(&self, about: ObjectReference, host: &str) -> Event {
        let component = self.id.component.clone().into_owned();
        let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
        let source_host = Some(host.to_owned()).filter(|host| !host.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(self.name(about.name.as_deref().unwrap_or_default())),
                namespace: Some(namespace.unwrap_or_else(|| NAMESPACE_DEFAULT.to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(self.id.reason.clone().into_owned()),
            message: Some(self.message.clone()),
            type_: Some(if self.id.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(self.count),
            first_timestamp: Some(Time(self.first)),
            last_timestamp: Some(Time(self.last)),
            source: Some(EventSource { component: Some(component.clone()), host: source_host }),
            reporting_component: Some(component),
            reporting_instance: Some(host.to_owned()),
            ..Event::default()
        }
    }

    /// What changes of an Event that is there when it has happened again: a merge patch.
    pub fn again(&self) -> Value {
        json!({"count": self.count, "lastTimestamp": Time(self.last), "message": self.message})
    }
}

/// What has been told lately.
#[derive(Debug)]
pub struct Ledger<A> {
    events: BTreeMap<News<A>, Entry<A>>,
    /// Per object and reason: when the window began and how many texts it has seen.
    texts: BTreeMap<News<A>, (Timestamp, u32)>,
    /// Per teller and object: what is left of the burst, and since when.
    budgets: BTreeMap<(Cow<'static, str>, String), (f64, Timestamp)>,
}

impl<A> Default for Ledger<A> {
    fn default() -> Self {
        Ledger { events: BTreeMap::new(), texts: BTreeMap::new(), budgets: BTreeMap::new() }
    }
}

impl<A: Clone + Ord> Ledger<A> {
    /// Takes news that an object with this uid has caused. Gives what is to be written, if anything: a
    /// new Event if its count is 1.
    pub fn enter(&mut self, news: News<A>, uid: &str, now: Timestamp) -> Option<Entry<A>> {
        if !self.spend((news.component.clone(), uid.to_owned()), now) {
            return None;
        }
        self.shrink();
        let mut message = news.message.clone();
        let id = if self.events.contains_key(&news) {
            news
        } else {
            let many = News { message: String::new(), ..news.clone() };
            let (began, texts) = self.texts.entry(many.clone()).or_insert((now, 0));
            if now.duration_since(*began) > WINDOW {
                (*began, *texts) = (now, 0);
            }
            *texts += 1;
            if *texts > DISTINCT_TEXTS {
                message = format!("(combined from similar events): {message}");
                many
            } else {
                news
            }
        };
        let entry = self.events.entry(id.clone()).or_insert_with(|| Entry {
            id,
            message: String::new(),
            count: 0,
            first: now,
            last: now,
        });
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.message = message;
        Some(entry.clone())
    }

    /// It could not be written: the next of its kind is new.
    pub fn forget(&mut self, id: &News<A>) {
        self.events.remove(id);
    }

    fn spend(&mut self, whose: (Cow<'static, str>, String), now: Timestamp) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn news(message: &str) -> News<&'static str> {
        News {
            component: "test".into(),
            about: "p",
            warning: true,
            reason: "Failed".into(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn repeats_count_up_and_many_texts_become_one() {
        let now = Timestamp::UNIX_EPOCH;
        let mut ledger = Ledger::default();
        let first = ledger.enter(news("a"), "u", now).unwrap();
        let second = ledger.enter(news("a"), "u", now + SignedDuration::from_secs(1)).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.name("p"), second.name("p"));
        let mut last = second;
        for text in 0..14 {
            last = ledger.enter(news(&text.to_string()), "u", now).unwrap();
        }
        assert_eq!(last.message, "(combined from similar events): 13");
        assert_eq!(last.count, 5);
        ledger.forget(&last.id);
        assert_eq!(ledger.enter(news("15"), "u", now).unwrap().count, 1);
    }

    #[test]
    fn an_object_that_keeps_causing_events_is_told_of_less() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut ledger = Ledger::default();
        let told = (0..100).filter(|_| ledger.enter(news("a"), "u", now).is_some()).count();
        assert_eq!(told, 25);
        assert!(ledger.enter(news("a"), "v", now).is_some(), "of others as before");
        now += SignedDuration::from_secs(301);
        assert!(ledger.enter(news("a"), "u", now).is_some());
        assert!(ledger.enter(news("a"), "u", now).is_none());
    }
}
