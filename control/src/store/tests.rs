//! The store under conflicts, restarts, crashes and churn.

mod others;

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

struct Plain;

impl Catalog for Plain {
    fn is_lazy(&self, resource: &str) -> bool {
        resource == "leases"
    }

    fn goes_ahead(&self, key: &Key) -> bool {
        &*key.name == "leader"
    }

    fn time_to_live(&self, resource: &str) -> Option<Duration> {
        (resource == "events").then_some(Duration::from_millis(20))
    }

    fn fields(&self, _resource: &str, object: &Value) -> Fields {
        vec![("spec.color".into(), object["spec"]["color"].as_str().unwrap_or_default().to_owned())]
    }
}

fn open(dir: &Path) -> Store {
    open_with(dir, Limits::default())
}

fn open_with(dir: &Path, limits: Limits) -> Store {
    Store::open(&dir.join("store.redb"), Arc::new(Plain), limits).unwrap()
}

fn key(resource: &str, name: &str) -> Key {
    Key::new(resource, "default", name)
}

fn put(resource: &str, name: &str, spec: Value, expect: Expect) -> Write {
    let value = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
    let key = key(resource, name);
    let fields = Plain.fields(resource, &value);
    Write { change: Change::Put(Draft::encode(key, &value, fields)), expect }
}

fn delete(resource: &str, name: &str, revision: Revision) -> Write {
    Write { change: Change::Delete(key(resource, name)), expect: Expect::Revision(revision) }
}

/// What a store shows of one resource.
fn state(store: &Store, resource: &str) -> Vec<(String, Revision, Value)> {
    let mut state = Vec::new();
    store.collection(resource).visit(
        None,
        None,
        || 0,
        |object| {
            let value = object.value();
            assert_eq!(value["metadata"]["resourceVersion"], object.revision.to_string());
            state.push((object.key.name.to_string(), object.revision, value["spec"].clone()));
            true
        },
    );
    state
}

#[tokio::test]
async fn a_write_happens_only_if_what_it_expects_is_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let made = store.write(put("pods", "a", json!({}), Expect::Absent)).await.unwrap();
    let again = store.write(put("pods", "a", json!({}), Expect::Absent)).await;
    assert!(matches!(again, Err(WriteError::Conflict(Some(there))) if there.revision == made.revision));
    let stale = store.write(put("pods", "a", json!({}), Expect::Revision(made.revision + 1))).await;
    assert!(matches!(stale, Err(WriteError::Conflict(_))));
    assert!(matches!(store.write(delete("pods", "b", 1)).await, Err(WriteError::Conflict(None))));
    let changed =
        store.write(put("pods", "a", json!({"x": 1}), Expect::Revision(made.revision))).await.unwrap();
    assert!(changed.revision > made.revision);
    let gone = store.write(delete("pods", "a", changed.revision)).await.unwrap();
    assert_eq!(gone.value()["metadata"]["resourceVersion"], gone.revision.to_string());
    assert!(state(&store, "pods").is_empty());
    assert_eq!(store.revision(), gone.revision);
}

#[tokio::test]
async fn one_of_many_racing_creates_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let races: Vec<_> = (0..40)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store.write(put("pods", "a", json!({"n": n}), Expect::Absent)).await.is_ok()
            })
        })
        .collect();
    let mut winners = 0;
    for race in races {
        winners += usize::from(race.await.unwrap());
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn all_is_there_after_a_restart_and_watches_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let a = store.write(put("pods", "a", json!({"color": "red"}), Expect::Absent)).await.unwrap();
    let b = store.write(put("pods", "b", json!({}), Expect::Absent)).await.unwrap();
    let a2 =
        store.write(put("pods", "a", json!({"color": "blue"}), Expect::Revision(a.revision))).await.unwrap();
    store.write(delete("pods", "b", b.revision)).await.unwrap();
    store.write(put("leases", "l", json!({"n": 1}), Expect::Absent)).await.unwrap();
    let (before, revision) = (state(&store, "pods"), store.revision());
    let leases = state(&store, "leases");
    let published = || store.revision();
    let (events, _) = store.collection("pods").events_after(a.revision, 100, published).unwrap();
    let events = format!("{events:?}");
    store.close().await.unwrap();
    assert!(matches!(store.write(delete("pods", "a", a2.revision)).await, Err(WriteError::Closed)));
    drop(store);

    let store = open(dir.path());
    assert_eq!(state(&store, "pods"), before);
    assert_eq!(state(&store, "leases"), leases, "a lazy write was lost by closing");
    assert_eq!(store.revision(), revision, "a clean restart wastes no revisions");
    let pods = store.collection("pods");
    let (again, _) = pods.events_after(a.revision, 100, || store.revision()).unwrap();
    assert_eq!(format!("{again:?}"), events);
    assert_eq!(again[1].previous.as_ref().unwrap().field("spec.color"), Some("red"));
    assert!(store.collection("leases").events_after(a.revision, 1, || 0).is_err());
    let next = store.write(put("pods", "c", json!({}), Expect::Absent)).await.unwrap();
    assert_eq!(next.revision, revision + 1);
}

#[tokio::test]
async fn an_empty_store_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).revision();
    assert_eq!(open(dir.path()).revision(), first);
}

#[tokio::test]
async fn a_second_process_and_another_version_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(dir.path());
    let Err(error) = Store::open(&path, Arc::new(Plain), Limits::default()) else { panic!("opened twice") };
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    drop(store);
    {
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
        write.open_table(meta).unwrap().insert("format", 77).unwrap();
        write.commit().unwrap();
    }
    let Err(error) = Store::open(&path, Arc::new(Plain), Limits::default()) else {
        panic!("opened format 77")
    };
    assert!(error.to_string().contains("has format 77, but this version of proa reads format 1"), "{error}");
}

#[tokio::test]
async fn past_states_can_be_listed_within_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut states = Vec::new();
    let mut revisions = std::collections::BTreeMap::new();
    for n in 0..60u32 {
        let name = format!("p{}", n * 7 % 10);
        let write = match revisions.get(&name) {
            None => put("pods", &name, json!({"n": n}), Expect::Absent),
            Some(revision) if n % 3 == 0 => delete("pods", &name, *revision),
            Some(revision) => put("pods", &name, json!({"n": n}), Expect::Revision(*revision)),
        };
        let deletes = matches!(write.change, Change::Delete(_));
        let made = store.write(write).await.unwrap();
        if deletes {
            revisions.remove(&name)
        } else {
            revisions.insert(name, made.revision)
        };
        states.push((made.revision, state(&store, "pods")));
    }
    for (revision, expected) in states {
        let mut seen = Vec::new();
        let pods = store.collection("pods");
        pods.visit_at(revision, None, None, |object| {
            seen.push((object.key.name.to_string(), object.revision, object.value()["spec"].clone()));
            true
        })
        .unwrap();
        assert_eq!(seen, expected, "at {revision}");
    }
}

#[tokio::test]
async fn the_file_stays_small_under_churn() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        disk: DiskLimits { age: Duration::from_millis(50), ..Limits::default().disk },
        ..Limits::default()
    };
    let store = open_with(dir.path(), limits);
    let text = "x".repeat(3000);
    let mut live = 0;
    for round in 0..12 {
        let writes: Vec<_> = (0..1000)
            .map(|n| {
                let (store, text, name) = (store.clone(), text.clone(), format!("p{n}"));
                tokio::spawn(async move {
                    let there = store.collection("pods").get("default", &name);
                    let expect = there.map_or(Expect::Absent, |there| Expect::Revision(there.revision));
                    let spec = json!({"round": round, "text": text});
                    store.write(put("pods", &name, spec, expect)).await.unwrap().bytes.len()
                })
            })
            .collect();
        live = 0;
        for write in writes {
            live += write.await.unwrap();
        }
    }
    tokio::time::sleep(limits.disk.age * 2).await;
    store.maintain().await.unwrap();
    let size = || std::fs::metadata(dir.path().join("store.redb")).unwrap().len();
    let (before, most) = (state(&store, "pods"), size());
    assert!(most < 9 * live as u64, "the file has {most} bytes for {live} live ones");
    drop(store);
    let store = open_with(dir.path(), limits);
    assert_eq!(state(&store, "pods"), before);
    assert!(size() < 3 * live as u64, "the file has {} bytes for {live} live ones", size());
}

#[tokio::test]
async fn lazy_writes_do_not_touch_the_disk_until_something_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let changed = || std::fs::metadata(dir.path().join("store.redb")).unwrap().modified().unwrap();
    let before = changed();
    let mut revision =
        store.write(put("leases", "l", json!({"n": 0}), Expect::Absent)).await.unwrap().revision;
    for n in 1..100 {
        let renewed = put("leases", "l", json!({"n": n}), Expect::Revision(revision));
        revision = store.write(renewed).await.unwrap().revision;
    }
    assert_eq!(changed(), before);
    store.maintain().await.unwrap();
    assert_ne!(changed(), before);
}

#[tokio::test]
async fn what_lives_for_a_time_goes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let made = store.write(put("events", "e", json!({}), Expect::Absent)).await.unwrap();
    store.write(put("pods", "p", json!({}), Expect::Absent)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    store.maintain().await.unwrap();
    assert_eq!((state(&store, "events").len(), state(&store, "pods").len()), (0, 1));
    let (events, _) = store.collection("events").events_after(made.revision, 9, || 0).unwrap();
    assert_eq!(events[0].kind, EventKind::Deleted);
    drop(store);
    assert!(state(&open(dir.path()), "events").is_empty());
}

const FULL_DISK: &str = "PROA_TEST_STORE_FULL_DISK";

/// Run by the test below in a process of its own, because the limit is the whole process's.
#[test]
fn child_with_a_full_disk() {
    let Some(dir) = std::env::var_os(FULL_DISK) else { return };
    let dir = Path::new(&dir);
    let limit_file_size = |bytes: u64| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: plain system calls without pointers that outlive them.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(dir);
        let text = "x".repeat(100_000);
        store.write(put("pods", "kept", json!({"n": 1}), Expect::Absent)).await.unwrap();
        limit_file_size(std::fs::metadata(dir.join("store.redb")).unwrap().len() + 300_000);
        let mut n = 0;
        let fault = loop {
            match store.write(put("pods", &format!("p{n}"), json!({"text": text}), Expect::Absent)).await {
                Ok(_) => n += 1,
                Err(fault) => break fault,
            }
        };
        assert!(matches!(fault, WriteError::Fault(_)), "{fault}");
        let failed = format!("p{n}");
        assert!(store.collection("pods").get("default", &failed).is_none());
        assert!(store.collection("pods").get("default", "kept").is_some(), "reads go on");
        limit_file_size(libc::RLIM_INFINITY);
        let there = store.collection("pods").get("default", "kept").unwrap();
        store.write(put("pods", "kept", json!({"n": 2}), Expect::Revision(there.revision))).await.unwrap();
        let before = state(&store, "pods");
        assert_eq!(before.len(), n + 1);
        drop(store);
        assert_eq!(state(&open(dir), "pods"), before);
    });
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::child_with_a_full_disk", "--exact", "--nocapture"])
        .env(FULL_DISK, dir.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

const CHILD: &str = "PROA_TEST_STORE_CHILD";

/// Run by the test below in a process of its own: writes until it is killed, and says what was
/// acknowledged.
#[test]
fn child_that_writes() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&dir));
        let start = store.revision();
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0.. {
                        let name = format!("t{task}-{}", n % 5);
                        let there = store.collection("pods").get("default", &name);
                        let write = match &there {
                            None => put("pods", &name, json!({"n": n}), Expect::Absent),
                            Some(there) if n % 11 == 10 => delete("pods", &name, there.revision),
                            Some(there) => {
                                put("pods", &name, json!({"n": n}), Expect::Revision(there.revision))
                            }
                        };
                        let deletes = matches!(write.change, Change::Delete(_));
                        let made = store.write(write).await.unwrap();
                        assert!(made.revision > start);
                        let what = if deletes { "gone".to_owned() } else { n.to_string() };
                        let line = format!("\nack {name} {} {what}\n", made.revision);
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                        let lease = store.collection("leases").get("default", &name);
                        let expect = lease.map_or(Expect::Absent, |lease| Expect::Revision(lease.revision));
                        store.write(put("leases", &name, json!({}), expect)).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut highest = 0;
    let mut newest = std::collections::BTreeMap::new();
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::tests::child_that_writes", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // After a number of writes that differs from round to round.
        let patience = 80 + round * round * 74;
        let mut seen = 0;
        let mut read = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["ack", name, revision, what] = words[..] else { return };
            let revision: Revision = revision.parse().unwrap();
            newest.insert(name.to_owned(), (revision, what.to_owned()));
        };
        for line in lines.by_ref().map_while(Result::ok) {
            read(&line);
            seen += 1;
            if seen == patience {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= patience, "the child died by itself");
        let store = open(dir.path());
        for (name, (revision, what)) in &newest {
            let there = store.collection("pods").get("default", name);
            // The last write of a name may have been committed and not been said.
            match there {
                Some(there) if there.revision > *revision => {}
                Some(there) => assert_eq!(
                    (there.revision, there.value()["spec"]["n"].to_string()),
                    (*revision, what.clone())
                ),
                None => assert!(
                    what == "gone"
                        || store
                            .collection("pods")
                            .events_after(*revision, 100, || 0)
                            .unwrap()
                            .0
                            .iter()
                            .any(|event| *event.object.key.name == **name),
                    "{name} is lost"
                ),
            }
        }
        assert!(store.revision() > highest, "a revision is handed out twice");
        highest = newest.values().map(|(revision, _)| *revision).max().unwrap_or(0);
        assert!(store.revision() >= highest);
    }
}

/// Whoever decides must not lose that by what others write, however much that is.
#[tokio::test]
async fn what_all_hangs_on_goes_before_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let queue = QueueLimits { writes: 3, ..QueueLimits::default() };
    let store = open_with(dir.path(), Limits { queue, ..Limits::default() });
    let (go, may_go) = mpsc::channel();
    let (busy, is_busy) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let wait: Settle = Box::new(move |_, _| {
        busy.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
        Ok(Vec::new())
    });
    let first = store.write_and_settle(put("pods", "first", json!({}), Expect::Absent), vec![wait]);
    let then = async {
        // The writer has begun with the first one: what comes now waits.
        while is_busy.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waiting = ["a", "b"].map(|name| put("pods", name, json!({}), Expect::Absent));
        let waiting = futures::future::join_all(waiting.map(|write| store.write(write)));
        let ahead = async {
            let more = store.write(put("pods", "c", json!({}), Expect::Absent)).await;
            assert!(matches!(more, Err(WriteError::Busy)));
            let ahead = store.write(put("leases", "leader", json!({}), Expect::Absent));
            let (ahead, ()) = tokio::join!(ahead, async { go.send(()).unwrap() });
            ahead.unwrap().revision
        };
        let (waiting, ahead) = tokio::join!(waiting, ahead);
        assert!(waiting.into_iter().all(|written| written.unwrap().revision > ahead));
    };
    let (first, ()) = tokio::join!(first, then);
    first.unwrap();
}

/// A store of this many objects, closed; its bytes.
async fn written_store(dir: &Path, objects: u32) -> Vec<u8> {
    let store = open(dir);
    for n in 0..objects {
        let text = json!({"text": "x".repeat(500)});
        store.write(put("pods", &format!("p{n}"), text, Expect::Absent)).await.unwrap();
    }
    store.close().await.unwrap();
    std::fs::read(dir.join("store.redb")).unwrap()
}

#[tokio::test]
async fn damage_is_told_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written_store(dir.path(), 40).await;
    let path = dir.path().join("store.redb");
    let mut state = 7u64;
    let mut random = |length: usize| -> Vec<u8> {
        let mut next = || {
            // Knuth's constants: the same bytes at every run.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..length).map(|_| next()).collect()
    };
    let open_with = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Store::open(&path, Arc::new(Plain), Limits::default()).map(drop).map_err(|error| error.to_string())
    };
    let told = |bytes: &[u8], what: &str| {
        let said = open_with(bytes).expect_err(what);
        assert!(said.contains("store.redb") && said.lines().count() == 1, "{what}: {said}");
    };
    // Empty, cut off, or something else.
    told(&[], "an empty file");
    for length in [1, 9, 100, 4096, whole.len() / 2, whole.len() - 4096] {
        told(&whole[..length], "a file that was cut off");
    }
    for length in [10, 5000, 1 << 20] {
        told(&random(length), "random bytes");
        told(&[&whole[..9], &random(length)].concat(), "random bytes after a true beginning");
    }
    // A page here or there: what is free or is a second copy may be lost without harm.
    let mut harmed = 0;
    for page in 0..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..][..4096].copy_from_slice(&random(4096));
        harmed += usize::from(open_with(&bytes).is_err());
    }
    assert!(harmed > 0);
    open_with(&whole).expect("a whole one");
}
