//! The store where others write to it too, and what keeps it fails, loses answers and crashes.

use super::*;
use crate::store::backend::{Batch, Planned};
use crate::store::memory::{Fault, Memory};

/// A store on what others write to too, whose writer works whenever it is asked.
fn on(memory: &Memory) -> Store {
    let (store, driver) = Store::driven(memory.backend(), Arc::new(Plain), Limits::default()).unwrap();
    tokio::spawn(driver.run());
    store
}

#[tokio::test]
async fn what_others_write_is_seen_and_never_written_over() {
    let memory = Memory::default();
    let (one, other) = (on(&memory), on(&memory));
    let made = one.write(put("pods", "a", json!({"n": 1}), Expect::Absent)).await.unwrap();
    let mut changed = other.collection("pods").subscribe();
    while other.collection("pods").is_empty() {
        changed.changed().await.unwrap();
    }
    assert_eq!(state(&other, "pods"), state(&one, "pods"));
    let again = other.write(put("pods", "a", json!({}), Expect::Absent)).await;
    assert!(matches!(again, Err(WriteError::Conflict(Some(there))) if there.revision == made.revision));
    let gone = other.write(delete("pods", "a", made.revision)).await.unwrap();
    let stale = one.write(put("pods", "a", json!({"n": 2}), Expect::Revision(made.revision))).await;
    assert!(matches!(stale, Err(WriteError::Conflict(None))));
    let (events, _) = one.collection("pods").events_after(made.revision, 9, || 0).unwrap();
    assert_eq!(format!("{events:?}"), format!("[DELETED pods/default/a@{}]", gone.revision));
    assert_eq!(one.revision(), other.revision());
}

/// Writes as another control plane would, in the middle of whatever this one does.
fn write_elsewhere(memory: &Memory, write: Write) {
    let mut backend = memory.backend();
    backend.load(&Plain).unwrap();
    let planned = Planned { change: write.change, previous: None, lazy: false };
    backend.commit(Batch { changes: vec![planned], ..Batch::default() }).unwrap();
}

#[tokio::test]
async fn a_write_whose_grounds_change_before_its_commit_is_not_made() {
    // What a decision asks for, and what another writer makes meanwhile.
    type Ask = fn(&Live<'_>);
    let asked: [(Ask, &str, &str); 4] = [
        (|live| drop(live.get(&key("pods", "b"))), "pods", "b"),
        (|live| drop(live.list("pods", "default")), "pods", "c"),
        (|live| live.visit("quotas", None, &mut |_| {}), "quotas", "q"),
        (|_| {}, "pods", "a"),
    ];
    for (ask, resource, name) in asked {
        let memory = Memory::default();
        let store = on(&memory);
        let elsewhere = memory.clone();
        let settle: Settle = Box::new(move |live, _| {
            ask(live);
            write_elsewhere(&elsewhere, put(resource, name, json!({"by": "another"}), Expect::Absent));
            Ok(Vec::new())
        });
        let write = put("pods", "a", json!({"by": "this"}), Expect::Absent);
        let refused = store.write_and_settle(write, vec![settle]).await;
        assert!(matches!(refused, Err(WriteError::Outdated)), "{resource} {name}: {refused:?}");
        // What it did not know, it knows when it answers.
        assert!(store.collection(resource).get("default", name).is_some());
        let elsewhere = memory.clone();
        let settle: Settle = Box::new(move |live, _| {
            ask(live);
            write_elsewhere(&elsewhere, put("secrets", "s", json!({}), Expect::Absent));
            Ok(Vec::new())
        });
        let write = put("pods", "z", json!({}), Expect::Absent);
        store.write_and_settle(write, vec![settle]).await.expect("nobody has asked for Secrets");
    }
}

#[tokio::test]
async fn a_write_is_answered_with_what_has_become_of_it_though_the_answer_was_lost() {
    let memory = Memory::default();
    let store = on(&memory);
    memory.fail([Some(Fault::Refused), Some(Fault::Unanswered), None, Some(Fault::Unanswered)]);
    let refused = store.write(put("pods", "a", json!({}), Expect::Absent)).await;
    assert!(matches!(refused, Err(WriteError::Fault(_))));
    assert!(state(&store, "pods").is_empty());
    let made = store.write(put("pods", "a", json!({}), Expect::Absent)).await.unwrap();
    assert_eq!(state(&store, "pods"), [("a".to_owned(), made.revision, json!({}))]);
    let changed = store.write(put("pods", "a", json!({"n": 2}), Expect::Revision(made.revision)));
    let gone = store.write(delete("pods", "a", changed.await.unwrap().revision)).await.unwrap();
    assert!(state(&store, "pods").is_empty());
    let (events, _) = store.collection("pods").events_after(gone.revision - 1, 9, || 0).unwrap();
    assert_eq!(format!("{events:?}"), format!("[DELETED pods/default/a@{}]", gone.revision));
}

#[tokio::test]
async fn a_crash_loses_what_was_lazy_and_nothing_else() {
    let memory = Memory::default();
    let store = on(&memory);
    let lease = store.write(put("leases", "l", json!({"n": 1}), Expect::Absent)).await.unwrap();
    store.write(put("pods", "a", json!({}), Expect::Absent)).await.unwrap();
    let renewed = put("leases", "l", json!({"n": 2}), Expect::Revision(lease.revision));
    store.write(renewed).await.unwrap();
    let last = store.write(put("leases", "m", json!({}), Expect::Absent)).await.unwrap();
    memory.crash();
    let store = on(&memory);
    assert_eq!(state(&store, "leases"), [("l".to_owned(), lease.revision, json!({"n": 1}))]);
    assert_eq!(state(&store, "pods").len(), 1);
    let next = store.write(put("pods", "b", json!({}), Expect::Absent)).await.unwrap();
    assert!(next.revision > last.revision, "a revision is handed out twice");
}
