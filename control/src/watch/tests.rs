//! Watches: what they show, when they end, and that they miss nothing.

use std::collections::BTreeMap;
use std::path::Path;

use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::store::{Catalog, Change, Draft, Expect, Key, Limits, WindowLimits, Write};

struct Plain;

impl Catalog for Plain {}

fn open(dir: &Path, limits: Limits) -> Store {
    Store::open(&dir.join("store.redb"), Arc::new(Plain), limits).unwrap()
}

const MANNER: Manner = Manner {
    bookmarks: false,
    initial_events_end: false,
    timeout: None,
    bookmark_interval: BOOKMARK_INTERVAL,
};

/// Makes, changes or removes (no labels) an object.
async fn set(store: &Store, name: &str, labels: Option<Value>) -> Revision {
    let there = store.collection("pods").get("default", name);
    let expect = there.map_or(Expect::Absent, |there| Expect::Revision(there.revision));
    let key = Key::new("pods", "default", name);
    let change = match labels {
        None => Change::Delete(key),
        Some(labels) => {
            let value = json!({"metadata": {"name": name, "uid": name, "labels": labels}});
            Change::Put(Draft::encode(key, &value, Vec::new()))
        }
    };
    store.write(Write { change, expect }).await.unwrap().revision
}

fn selecting(labels: &str) -> Selection {
    Selection { labels: Selector::parse(labels).unwrap(), ..Selection::default() }
}

async fn next(stream: &mut WatchStream) -> String {
    match tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("an item in time") {
        Some(WatchItem::Event(kind, object, line)) => {
            let line: Value = serde_json::from_slice(&line.bytes()).unwrap();
            assert_eq!(line["type"], kind.word());
            assert_eq!(line["object"], object.value());
            assert_eq!(line["object"]["metadata"]["resourceVersion"], object.revision.to_string());
            format!("{} {} {}", kind.word(), object.key.name, line["object"]["metadata"]["labels"])
        }
        Some(WatchItem::Bookmark(_, end)) => format!("BOOKMARK {end}"),
        Some(WatchItem::Error(refusal)) => refusal.to_string(),
        None => "END".to_owned(),
    }
}

#[tokio::test]
async fn selections_are_entered_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Limits::default());
    set(&store, "a", Some(json!({"x": "1"}))).await;
    set(&store, "b", Some(json!({"x": "2"}))).await;
    let manner = Manner { initial_events_end: true, ..MANNER };
    let mut one = watch(&store, "pods", selecting("x=1"), Start::State, manner).unwrap();
    set(&store, "b", Some(json!({"x": "1"}))).await;
    set(&store, "a", Some(json!({"x": "1", "y": ""}))).await;
    set(&store, "a", Some(json!({"x": "2"}))).await;
    set(&store, "a", None).await;
    set(&store, "b", None).await;
    for expected in [
        "ADDED a {\"x\":\"1\"}",
        "BOOKMARK true",
        "ADDED b {\"x\":\"1\"}",
        "MODIFIED a {\"x\":\"1\",\"y\":\"\"}",
        "DELETED a {\"x\":\"1\",\"y\":\"\"}",
        "DELETED b {\"x\":\"1\"}",
    ] {
        assert_eq!(next(&mut one).await, expected);
    }
    let mut other = Selection { namespace: Some("other".to_owned()), ..Selection::default() };
    other.labels = Selector::everything();
    let mut empty = watch(&store, "pods", other, Start::After(1), MANNER).unwrap();
    store.close().await.unwrap();
    assert_eq!(next(&mut empty).await, "END");
}

#[tokio::test]
async fn a_watch_starts_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let window = WindowLimits { events: 3, ..Limits::default().window };
    let store = open(dir.path(), Limits { window, ..Limits::default() });
    let mut revisions = Vec::new();
    for n in 0..6 {
        revisions.push(set(&store, "a", Some(json!({"n": n.to_string()}))).await);
    }
    let all = Selection::default;
    let Err(old) = watch(&store, "pods", all(), Start::After(revisions[0]), MANNER) else {
        panic!("too old")
    };
    assert_eq!(old.code(), 410);
    assert_eq!(old.to_string(), format!("too old resource version: {} ({})", revisions[0], revisions[2]));
    let Err(new) = watch(&store, "pods", all(), Start::After(1000), MANNER) else { panic!("too new") };
    assert_eq!((new.code(), new.reason()), (504, "Timeout"));
    let mut stream = watch(&store, "pods", all(), Start::After(revisions[2]), MANNER).unwrap();
    for n in 3..6 {
        assert_eq!(next(&mut stream).await, format!("MODIFIED a {{\"n\":\"{n}\"}}"));
    }
    // One that is not read falls out of the window and is told so; nobody waits for it.
    for n in 0..10 {
        set(&store, "b", Some(json!({"n": n.to_string()}))).await;
    }
    assert!(next(&mut stream).await.starts_with("too old resource version"));
    assert_eq!(next(&mut stream).await, "END");
}

/// However much is written meanwhile: versions that the window has forgotten are gone.
#[tokio::test]
async fn a_watch_that_is_not_read_keeps_little() {
    let dir = tempfile::tempdir().unwrap();
    let window = WindowLimits { events: 100, ..Limits::default().window };
    let store = open(dir.path(), Limits { window, ..Limits::default() });
    let large = |n: usize| Some(json!({ "x": format!("{n}{}", "x".repeat(5_000)) }));
    let from = set(&store, "a", large(0)).await;
    let mut versions = Vec::new();
    let mut stream = watch(&store, "pods", Selection::default(), Start::After(from), MANNER).unwrap();
    for n in 0..50 {
        set(&store, "a", large(n)).await;
        versions.push(Arc::downgrade(&store.collection("pods").get("default", "a").unwrap()));
    }
    assert!(next(&mut stream).await.starts_with("MODIFIED a"));
    for _ in 0..110 {
        set(&store, "b", Some(json!({}))).await;
    }
    let kept = versions.iter().filter(|version| version.upgrade().is_some()).count();
    assert!(kept < 5, "{kept} versions are kept");
}

/// That of the first state which has not been read is told.
#[tokio::test]
async fn a_first_state_counts_until_it_has_been_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Limits::default());
    let mut sizes = Vec::new();
    for name in ["a", "b", "c"] {
        set(&store, name, Some(json!({ "x": name }))).await;
        sizes.push(cost(&store.collection("pods").get("default", name).unwrap()));
    }
    let mut stream = watch(&store, "pods", Selection::default(), Start::State, MANNER).unwrap();
    let first = stream.first_bytes();
    for read in 0..=3 {
        assert_eq!(first.load(Ordering::Relaxed), sizes[read..].iter().sum::<usize>());
        if read < 3 {
            next(&mut stream).await;
        }
    }
}

#[tokio::test]
async fn bookmarks_come_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Limits::default());
    let bookmark_interval = Duration::from_millis(5);
    let timeout = Some(Duration::from_millis(500));
    let manner = Manner { bookmarks: true, timeout, bookmark_interval, ..MANNER };
    let stream = watch(&store, "pods", Selection::default(), Start::State, manner).unwrap();
    let items: Vec<String> = stream.map(|item| format!("{item:?}")).collect().await;
    assert!(items.len() > 1 && items.iter().all(|item| item == "Bookmark(1, false)"), "{items:?}");
    let timeout = Some(Duration::from_millis(1));
    let manner = Manner { timeout, ..MANNER };
    let silent = watch(&store, "pods", Selection::default(), Start::State, manner).unwrap();
    assert_eq!(silent.count().await, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever lists and then follows the changes, from anywhere and across a restart, ends up
    /// with the final state, for every selection.
    #[test]
    fn list_and_watch_give_the_final_list(
        steps in prop::collection::vec((0..6u8, prop::option::weighted(0.75, 0..3u8)), 1..60),
        restart_at in 0..60usize,
        list_at in 0..60usize,
        wanted in 0..3u8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut store = open(dir.path(), Limits::default());
            let labels = format!("x={wanted}");
            let select = Selector::parse(&labels).unwrap();
            let mut seen: Option<(BTreeMap<String, Revision>, Revision)> = None;
            for (at, (name, label)) in steps.iter().enumerate() {
                if at == list_at.min(steps.len() - 1) {
                    let mut listed = BTreeMap::new();
                    let revision = store.collection("pods").visit(None, None, || store.revision(), |object| {
                        if select.matches(Some(&object.labels)) {
                            listed.insert(object.key.name.to_string(), object.revision);
                        }
                        true
                    });
                    seen = Some((listed, revision));
                }
                if at == restart_at {
                    store.close().await.unwrap();
                    drop(store);
                    store = open(dir.path(), Limits::default());
                }
                let name = format!("p{name}");
                let there = store.collection("pods").get("default", &name).is_some();
                if there || label.is_some() {
                    set(&store, &name, label.map(|label| json!({"x": label.to_string()}))).await;
                }
            }
            let (mut seen, from) = seen.expect("the list is made within the steps");
            let manner = Manner { bookmarks: true, bookmark_interval: Duration::from_millis(1), ..MANNER };
            let stream = watch(&store, "pods", selecting(&labels), Start::After(from), manner).unwrap();
            let mut last = from;
            let mut events = std::pin::pin!(stream);
            while let Some(item) = events.next().await {
                let (kind, object) = match &item {
                    WatchItem::Event(kind, object, _) => (kind, object),
                    WatchItem::Bookmark(revision, _) if *revision < store.revision() => continue,
                    WatchItem::Bookmark(..) => break,
                    WatchItem::Error(_) => panic!("{item:?}"),
                };
                assert!(object.revision > last, "events are out of order");
                last = object.revision;
                let known = seen.contains_key(&*object.key.name);
                match kind {
                    EventKind::Added => assert!(!known),
                    EventKind::Modified | EventKind::Deleted => assert!(known),
                }
                match kind {
                    EventKind::Deleted => seen.remove(&*object.key.name),
                    _ => seen.insert(object.key.name.to_string(), object.revision),
                };
            }
            let mut end = BTreeMap::new();
            store.collection("pods").visit(None, None, || 0, |object| {
                if select.matches(Some(&object.labels)) {
                    end.insert(object.key.name.to_string(), object.revision);
                }
                true
            });
            assert_eq!(seen, end);
        });
    }
}
