//! The way of every write, where it could be left half done.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use proa_api::Refusal;
use proa_kinds::{Kind, Part, built_in};
use serde_json::{Value, json};

use super::ambient::Machine;
use super::request::{Caller, DeleteOptions, WriteOptions};
use super::stage::{Attempt, Stage, Verdict};
use crate::registry::{Registry, RegistryConfig};
use crate::store::backend::{Batch, Planned};
use crate::store::memory::Memory;
use crate::store::{Change, Key, Limits, QueueLimits, Settle};

struct World {
    registry: Registry,
    caller: Caller,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        World::with(RegistryConfig::default()).await
    }

    async fn with(config: RegistryConfig) -> World {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("store.redb"), built_in::table(), config).unwrap();
        let world = World { registry, caller: Caller::system("test"), _dir: dir };
        world.create("Namespace", json!({"metadata": {"name": "default"}})).await.unwrap();
        world
    }

    fn kind(&self, kind: &str) -> Arc<Kind> {
        self.registry.kinds().by_kind("v1", kind).unwrap().clone()
    }

    async fn create(&self, kind: &str, body: Value) -> Result<Value, Refusal> {
        let (row, options) = (self.kind(kind), WriteOptions::default());
        self.registry.create(&self.caller, &row, "default", body, &options).await.map(|made| made.value())
    }

    async fn service(&self, name: &str, spec: Value) -> Result<Value, Refusal> {
        self.create("Service", json!({"metadata": {"name": name}, "spec": spec})).await
    }

    async fn delete_service(&self, name: &str) -> Result<(), Refusal> {
        let (row, options) = (self.kind("Service"), DeleteOptions::default());
        self.registry.delete(&self.caller, &row, "default", name, &options).await.map(|_| ())
    }

    fn services(&self) -> Vec<Value> {
        self.registry.collection("services").all(None).iter().map(|service| service.value()).collect()
    }
}

/// Waits as its name says once, so that a request can be left in the middle of a stage.
struct Slow;

impl Stage for Slow {
    fn name(&self) -> &'static str {
        "Slow"
    }

    fn concerns(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, _attempt: &'a Attempt<'_>, _new: &'a mut Value) -> Verdict<'a> {
        Verdict::Later(Box::pin(async {
            tokio::task::yield_now().await;
            Ok(())
        }))
    }

    fn validate<'a>(&'a self, _attempt: &'a Attempt<'_>, _new: &'a Value) -> Verdict<'a> {
        Verdict::Later(Box::pin(async {
            tokio::task::yield_now().await;
            Ok(())
        }))
    }
}

/// Polls a request so often, with everything else going on between, and leaves it then. True if it
/// was over before.
async fn left_after(polls: usize, request: impl Future) -> bool {
    let mut request = pin!(request);
    for _ in 0..polls {
        if request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test]
async fn a_request_that_is_left_anywhere_leaves_no_address_given_twice_and_none_lost() {
    let spec =
        json!({"type": "NodePort", "clusterIP": "10.43.7.7", "ports": [{"port": 80, "nodePort": 30077}]});
    let mut was_over = false;
    let mut polls = 0;
    while !was_over {
        let world = World::new().await;
        world.registry.add_stage(Arc::new(Slow));
        was_over = left_after(polls, world.service("left", spec.clone())).await;
        polls += 1;
        // Whoever comes next gets the same addresses, or none; never do both have them.
        let next = world.service("next", spec.clone()).await;
        let holders: Vec<Value> =
            world.services().into_iter().filter(|s| s["spec"]["clusterIP"] == "10.43.7.7").collect();
        assert_eq!(holders.len(), 1, "after {polls} polls: {next:?}");
        // The one who has them gives them back with its end, however it came to them.
        let holder = holders[0]["metadata"]["name"].as_str().unwrap().to_owned();
        world.delete_service(&holder).await.unwrap();
        let last = world.service("last", spec.clone()).await;
        if polls > 1 && holder == "next" {
            // The one that was left may still have come between.
            continue;
        }
        last.unwrap();
    }
    assert!(polls > 3, "the request was left in its middle");
}

#[tokio::test]
async fn addresses_of_many_at_once_differ() {
    let world = World::new().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let requests = (0..40).map(|n| {
        let spec = spec.clone();
        let world = &world;
        async move { world.service(&format!("s{n}"), spec).await.unwrap() }
    });
    let made = futures::future::join_all(requests).await;
    let distinct = |pointer: &str| {
        made.iter().map(|s| s.pointer(pointer).unwrap().to_string()).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((distinct("/spec/clusterIP"), distinct("/spec/ports/0/nodePort")), (40, 40));
}

/// Another control plane on the same store, which makes a Service between the decision of one of this
/// one's writes and its commit.
struct Elsewhere {
    memory: Memory,
    service: Value,
    done: AtomicBool,
}

impl Stage for Elsewhere {
    fn name(&self) -> &'static str {
        "Elsewhere"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.kind == "Service"
    }

    fn settle(&self, _attempt: &Attempt<'_>, _new: Option<&Value>) -> Option<Settle> {
        if self.done.swap(true, Ordering::Relaxed) {
            return None;
        }
        let (memory, service) = (self.memory.clone(), self.service.clone());
        Some(Box::new(move |live, _| {
            let draft = live.encode(Key::new("services", "default", "theirs"), &service);
            let planned = Planned { change: Change::Put(draft), previous: None, lazy: false };
            memory.backend().commit(Batch { changes: vec![planned], ..Batch::default() }).unwrap();
            Ok(Vec::new())
        }))
    }
}

#[tokio::test]
async fn what_another_control_plane_takes_meanwhile_is_given_to_nobody_else() {
    let spec = json!({"clusterIP": "10.43.7.7", "ports": [{"port": 80}]});
    for wanted in ["10.43.7.7", "10.43.7.8"] {
        let memory = Memory::default();
        let (config, machine) = (RegistryConfig::default(), Arc::new(Machine));
        let (registry, driver) =
            Registry::driven(memory.backend(), built_in::table(), config, machine).unwrap();
        tokio::spawn(driver.run());
        let world = World { registry, caller: Caller::system("test"), _dir: tempfile::tempdir().unwrap() };
        world.create("Namespace", json!({"metadata": {"name": "default"}})).await.unwrap();
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "theirs", "namespace": "default", "uid": "theirs"}, "spec": &spec,
        });
        let elsewhere = Arc::new(Elsewhere { memory, service, done: AtomicBool::new(false) });
        world.registry.add_stage(elsewhere.clone());
        let mut own = spec.clone();
        own["clusterIP"] = wanted.into();
        let made = world.service("ours", own).await;
        assert!(elsewhere.done.load(Ordering::Relaxed));
        assert_eq!(world.services().len(), 1 + usize::from(made.is_ok()));
        match made {
            Ok(made) => assert_eq!(made["spec"]["clusterIP"], "10.43.7.8", "it was decided again"),
            Err(refusal) => assert_eq!((wanted, refusal.code()), ("10.43.7.7", 422), "{refusal}"),
        }
    }
}

#[tokio::test]
async fn more_writes_than_may_wait_are_told_to_come_again() {
    let queue = QueueLimits { writes: 4096, bytes: 10_000 };
    let limits = Limits { queue, ..Limits::default() };
    let world = World::with(RegistryConfig { limits, ..RegistryConfig::default() }).await;
    let large = json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(10_000)}});
    let refusal = world.create("ConfigMap", large).await.unwrap_err();
    let retry = refusal.0.details.as_ref().and_then(|details| details.retry_after_seconds);
    assert_eq!((refusal.code(), retry), (429, Some(1)), "{refusal}");
    world.create("ConfigMap", json!({"metadata": {"name": "small"}})).await.unwrap();
}

struct Panics;

impl Stage for Panics {
    fn name(&self) -> &'static str {
        "Panics"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.kind == "ConfigMap"
    }

    fn validate<'a>(&'a self, _attempt: &'a Attempt<'_>, _new: &'a Value) -> Verdict<'a> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_stage_that_panics_fails_its_write_alone() {
    let world = World::new().await;
    world.registry.add_stage(Arc::new(Panics));
    let refusal = world.create("ConfigMap", json!({"metadata": {"name": "c"}})).await.unwrap_err();
    assert_eq!(refusal.code(), 500);
    world.create("Secret", json!({"metadata": {"name": "s"}})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_one_object_all_get_through() {
    let world = World::new().await;
    world.create("ConfigMap", json!({"metadata": {"name": "one"}, "data": {}})).await.unwrap();
    let row = world.kind("ConfigMap");
    let writers: Vec<_> = (0..100)
        .map(|n| {
            let (registry, row, caller) = (world.registry.clone(), row.clone(), world.caller.clone());
            tokio::spawn(async move {
                let change = move |old: &Value| {
                    let mut new = old.clone();
                    new["data"][format!("k{n}")] = "v".into();
                    Ok(new)
                };
                let options = WriteOptions::default();
                registry.patch(&caller, &row, "default", "one", Part::Main, change, &options).await
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().expect("a client that names no version is not told of others");
    }
    let one = world.registry.get(&row, "default", "one").unwrap().value();
    assert_eq!(one["data"].as_object().unwrap().len(), 100);
}

#[tokio::test]
async fn what_names_no_object_replaces_none() {
    let world = World::new().await;
    world.create("ConfigMap", json!({"metadata": {"name": "one"}, "data": {"a": "b"}})).await.unwrap();
    let (row, options) = (world.kind("ConfigMap"), WriteOptions::default());
    let nameless = |_: &Value| Ok(json!({"metadata": {}}));
    let patched =
        world.registry.patch(&world.caller, &row, "default", "one", Part::Main, nameless, &options).await;
    assert_eq!(patched.unwrap_err().code(), 400);
    assert_eq!(world.registry.get(&row, "default", "one").unwrap().value()["data"]["a"], "b");
}
