//! The API as the simulated cluster has it: two control planes' real registries on one store in memory.
//!
//! Nothing happens in it by itself: a registry commits, and learns of what others have committed, when
//! its [`Driver`] is told to. What is really stored is followed beside the registries, change by
//! change; all checks are made on that.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_control::pki::Pki;
use proa_control::registry::{Caller, DeleteOptions, Registry, RegistryConfig, WriteOptions};
use proa_control::shell::perform::{Done, Performer};
use proa_control::store::memory::{Fault, Memory};
use proa_control::store::{Backend, Catalog, Driver, Limits, Object, Revision, WindowLimits};
use proa_control::write::ambient::Ambient;
use proa_control::write::stages::StagesConfig;
use proa_kinds::{Durability, Kind, Part, built_in};
use proa_logic::world::plan::{Change, Guard, Reference, Verb};
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::random::Random;

/// API version and kind, namespace, name.
pub type Id = (String, String, String);

/// What came of a request of a controller: the kind and the revision of what was written.
pub type Written = Result<Option<(String, u64)>, Refusal>;

/// One change, as a watch shows it.
pub struct Entry {
    pub revision: u64,
    pub kind: String,
    pub deleted: bool,
    pub object: Value,
}

pub struct Api {
    runtime: Runtime,
    memory: Memory,
    /// One for each control plane.
    servers: Vec<Server>,
    /// Tells what is really stored.
    follower: Box<dyn Backend>,
    /// The kind that each resource holds.
    kinds: BTreeMap<String, Arc<Kind>>,
    outside: Arc<Outside>,
    /// Requests that are under way.
    waiting: Arc<AtomicUsize>,
    pub objects: BTreeMap<Id, Value>,
    pub log: Vec<Entry>,
    /// When the simulation began.
    pub began: Timestamp,
    pub now: Timestamp,
    /// What has come about, and how often.
    pub met: BTreeMap<&'static str, u64>,
}

struct Server {
    registry: Registry,
    driver: Driver,
}

/// The time and chance of all writes.
struct Outside(Mutex<(Timestamp, Random)>);

impl Ambient for Outside {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }

    fn random(&self) -> u128 {
        let random = &mut self.0.lock().unwrap().1;
        u128::from(random.next()) << 64 | u128::from(random.next())
    }
}

/// The follower indexes nothing.
struct NoFields;

impl Catalog for NoFields {}

/// Signs certificates. What is in them decides nothing.
static PKI: LazyLock<Arc<Pki>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    Arc::new(Pki::open(dir.path(), &["localhost".to_owned()], "https://localhost", now).unwrap())
});

pub fn kind_name(api_version: &str, kind: &str) -> String {
    format!("{api_version} {kind}")
}

fn name_of(kind: &Kind) -> String {
    kind_name(&kind.api_version(), &kind.kind)
}

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Api {
    pub fn new(now: Timestamp, seed: u64, servers: usize) -> Self {
        let memory = Memory::default();
        let mut follower = memory.backend();
        follower.load(&NoFields).unwrap();
        let outside = Arc::new(Outside(Mutex::new((now, Random(!seed)))));
        let servers = (0..servers).map(|_| Server::start(&memory, &outside)).collect();
        let table = built_in::table();
        Api {
            runtime: Builder::new_current_thread().enable_time().start_paused(true).build().unwrap(),
            memory,
            servers,
            follower,
            kinds: table.stored().map(|kind| (kind.resource().to_string(), kind.clone())).collect(),
            outside,
            waiting: Arc::default(),
            objects: BTreeMap::new(),
            log: Vec::new(),
            began: now,
            now,
            met: BTreeMap::new(),
        }
    }

    /// Notes that something worth a simulation has come about.
    pub fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// The last writes, for people.
    pub fn tail(&self, count: usize) -> String {
        let kept: Vec<&Entry> = self.log.iter().filter(|e| !e.kind.ends_with("Lease")).collect();
        let lines = kept[kept.len().saturating_sub(count)..].iter().map(|e| {
            let (o, gone) = (&e.object, if e.deleted { "gone" } else { "" });
            let short = |v: &Value| v.to_string().chars().take(300).collect::<String>();
            let spec =
                [&o["spec"]["replicas"], &o["spec"]["nodeName"], &o["spec"]["taints"]].map(short).join(" ");
            let meta = &o["metadata"];
            format!(
                "{} {} {} {gone} generation {} deleted {} spec {spec} status {}",
                e.revision,
                e.kind,
                text(o, "/metadata/name"),
                meta["generation"],
                meta["deletionTimestamp"],
                short(&o["status"])
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn time(&self) -> String {
        Timestamp::from_second(self.now.as_second()).unwrap().to_string()
    }

    pub fn list<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let from = (kind.to_owned(), String::new(), String::new());
        self.objects.range(from..).take_while(move |((k, _, _), _)| k == kind).map(|(_, o)| o)
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// What a control plane reads from.
    pub fn registry(&self, server: usize) -> &Registry {
        &self.servers[server].registry
    }

    /// Where a watch can be waited for.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The kinds that are stored.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }

    fn kind(&self, api_version: &str, kind: &str) -> Arc<Kind> {
        let found = self.kinds.values().find(|k| k.kind == kind && k.api_version() == api_version);
        found.expect("a kind that is stored").clone()
    }

    /// Makes the next commit that has something durable fail.
    pub fn fail(&mut self, fault: Fault) {
        self.memory.fail([Some(fault)]);
    }

    /// The next request is decided on without knowing what the other server has just written.
    pub fn lag(&mut self) {
        self.memory.lag(true);
    }

    /// What has come about by now.
    pub fn end(self) -> BTreeMap<&'static str, u64> {
        let mut met = self.met;
        let counts = self.memory.counts();
        for (what, times) in [
            ("a commit is refused", counts.refused),
            ("an answer is lost", counts.unanswered),
            ("a commit is outdated", counts.outdated),
        ] {
            if times > 0 {
                met.insert(what, times);
            }
        }
        met
    }

    /// Lets the next so many commits pass and then fails.
    pub fn fail_after(&mut self, commits: usize) {
        self.memory.fail((0..commits).map(|_| None).chain([Some(Fault::Refused)]));
    }

    /// Starts what a plan asks for, and does not wait for it.
    pub fn start(&mut self, server: usize, user: &str, verb: &Verb) -> JoinHandle<Done> {
        let request = self.request(server, user, verb);
        let running = self.begin(request);
        self.idle();
        running
    }

    /// Lets everybody do what they can without a server. Only then does the clock go on.
    fn idle(&self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }

    /// What has come of a request that was started, once it is over.
    pub fn answer(&mut self, request: JoinHandle<Done>) -> Result<Written, JoinHandle<Done>> {
        if !request.is_finished() {
            return Err(request);
        }
        let done = self.runtime.block_on(request).expect("no request panics");
        Ok(written(done))
    }

    /// Does what a plan asks for.
    pub fn perform(&mut self, server: usize, user: &str, verb: &Verb) -> Written {
        let request = self.request(server, user, verb);
        written(self.ask(server, request))
    }

    fn request(&self, server: usize, user: &str, verb: &Verb) -> impl Future<Output = Done> + use<> {
        let registry = self.servers[server].registry.clone();
        let performer =
            Performer { registry, caller: Arc::new(Caller::system(user)), pki: Some(PKI.clone()) };
        let verb = verb.clone();
        async move { performer.perform(&verb).await }
    }

    fn begin<T: Send + 'static>(
        &mut self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.outside.0.lock().unwrap().0 = self.now;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = self.waiting.clone();
        self.runtime.spawn(async move {
            let done = Box::pin(request).await;
            waiting.fetch_sub(1, Ordering::Relaxed);
            done
        })
    }

    /// Waits for a request, and lets its server work.
    fn ask<T: Send + 'static>(
        &mut self,
        server: usize,
        request: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut running = self.begin(request);
        let driver = &mut self.servers[server].driver;
        let done = self.runtime.block_on(async {
            loop {
                tokio::select! {
                    biased;
                    done = &mut running => return done.expect("no request panics"),
                    () = driver.asked() => assert!(driver.turn(), "nobody closes it"),
                }
            }
        });
        self.follow();
        done
    }

    /// A server commits what waits, and learns of what others have committed.
    pub fn turn(&mut self, server: usize) {
        self.memory.lag(false);
        self.servers[server].driver.turn();
        self.follow();
    }

    /// All requests that are under way come to their end.
    pub fn flush(&mut self) {
        while self.waiting.load(Ordering::Relaxed) > 0 {
            self.catch_up();
            self.idle();
        }
    }

    /// Every server commits what waits, and learns of all that is stored.
    pub fn catch_up(&mut self) {
        (0..self.servers.len()).for_each(|server| self.turn(server));
    }

    /// A server dies, with or without committing what waits, and comes back.
    pub fn restart(&mut self, server: usize, commits: bool) {
        if commits {
            self.turn(server);
        }
        self.servers[server] = Server::start(&self.memory, &self.outside);
        self.flush();
    }

    /// The machine that stores everything dies, and all servers with it. What was acknowledged is there
    /// afterwards.
    pub fn crash(&mut self) {
        self.memory.crash();
        let servers = self.servers.len();
        self.servers = (0..servers).map(|_| Server::start(&self.memory, &self.outside)).collect();
        self.follower = self.memory.backend();
        let loaded = self.follower.load(&NoFields).unwrap();
        let before = std::mem::take(&mut self.objects);
        for object in loaded.objects.into_values().flatten() {
            let kind = self.kinds[&*object.key.resource].clone();
            let id = id(&kind, &object);
            let value = object.value();
            if kind.durability == Durability::Immediate {
                assert_eq!(before.get(&id), Some(&value), "a crash has changed it");
            }
            self.objects.insert(id, value);
        }
        for id in before.into_keys().filter(|id| !id.0.ends_with(" Lease")) {
            assert!(self.objects.contains_key(&id), "a crash has lost {id:?}");
        }
        self.flush();
        self.meet("a crash loses what is not durable");
    }

    /// Follows what is stored.
    fn follow(&mut self) {
        self.memory.lag(false);
        for told in self.follower.others(Revision::MAX).unwrap() {
            let kind = self.kinds[&*told.key.resource].clone();
            let (revision, name) = (told.revision, name_of(&kind));
            let id = (name.clone(), told.key.namespace.to_string(), told.key.name.to_string());
            let Some(object) = told.object.map(|object| object.value()) else {
                let object = self.objects.remove(&id).expect("what goes was there");
                if name == "v1 Namespace" {
                    let left = self.objects.keys().find(|(_, namespace, _)| *namespace == id.2);
                    assert!(left.is_none(), "the namespace goes before {left:?}");
                }
                self.log.push(Entry { revision, kind: name, deleted: true, object });
                continue;
            };
            let before = self.objects.insert(id, object.clone());
            let node = text(&object, "/spec/nodeName").to_owned();
            if name == "v1 Pod" && before.is_some_and(|b| text(&b, "/spec/nodeName") != node) {
                self.check_bound(&object, &node);
            }
            self.log.push(Entry { revision, kind: name, deleted: false, object });
        }
    }

    /// At rest, every server shows what is stored.
    pub fn check_servers(&mut self) {
        self.catch_up();
        for server in &self.servers {
            let stored = self.kinds.values().flat_map(|kind| {
                let all = server.registry.collection(&kind.resource().to_string()).all(None);
                all.into_iter().map(|object| (id(kind, &object), object.value()))
            });
            assert_eq!(stored.collect::<BTreeMap<_, _>>(), self.objects);
        }
    }
}

impl Server {
    fn start(memory: &Memory, outside: &Arc<Outside>) -> Server {
        let stages = StagesConfig { token_volumes: false, ..StagesConfig::default() };
        let defaults = Limits::default();
        // Nothing goes by the clock of the machine. Watches that are far behind have to begin anew.
        let never = Duration::from_secs(86_400);
        let window = WindowLimits { age: never, events: 8, ..defaults.window };
        let limits = Limits { window, maintenance_interval: never, ..defaults };
        let config = RegistryConfig { stages, limits };
        let (registry, driver) =
            Registry::driven(memory.backend(), built_in::table(), config, outside.clone()).unwrap();
        Server { registry, driver }
    }
}

/// What the nodes, users and operators do. They do it again until they know what has come of it.
impl Api {
    fn insist<F: Future<Output = Result<T, Refusal>> + Send + 'static, T: Send + 'static>(
        &mut self,
        request: impl Fn(Registry) -> F,
    ) -> (Result<T, Refusal>, usize) {
        for attempt in 0.. {
            let server = self.outside.random() as usize % self.servers.len();
            // Whoever asks may know more than this server does.
            self.turn(server);
            let registry = self.servers[server].registry.clone();
            match self.ask(server, request(registry)) {
                Err(refusal) if refusal.code() >= 500 && attempt < 10 => {}
                done => return (done, attempt),
            }
        }
        unreachable!("the last attempt is answered")
    }

    pub fn create(
        &mut self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        body: Value,
    ) -> Result<(), Refusal> {
        self.create_as(Caller::system("user"), api_version, kind, namespace, body)
    }

    pub fn create_as(
        &mut self,
        caller: Caller,
        api_version: &str,
        kind: &str,
        namespace: &str,
        mut body: Value,
    ) -> Result<(), Refusal> {
        let row = self.kind(api_version, kind);
        body["apiVersion"] = api_version.into();
        body["kind"] = kind.into();
        let (created, attempts) = self.insist(|registry| {
            let (caller, row) = (caller.clone(), row.clone());
            let (namespace, body) = (namespace.to_owned(), body.clone());
            async move { registry.create(&caller, &row, &namespace, body, &WriteOptions::default()).await }
        });
        match created {
            Err(refusal) if refusal.code() == 409 && attempts > 0 => Ok(()),
            done => done.map(drop),
        }
    }

    /// Changes of an object what is different in `new`. One that is gone meanwhile needs no change.
    pub fn update(&mut self, target: &Reference, part: Part, new: Value) -> Result<(), Refusal> {
        let row = self.kind(&target.api_version, &target.kind);
        let Some(old) = self.objects.get(&id_of(target)) else { return Ok(()) };
        let change = Change::Merge(difference(old, &new));
        let (updated, _) = self.insist(|registry| {
            let (target, row, part, change) = (target.clone(), row.clone(), part.clone(), change.clone());
            async move {
                let kind = row.clone();
                let apply = move |current: &Value| {
                    Guard::NONE.check(&target.uid, kind.resource(), current)?;
                    Ok(change.apply(current))
                };
                let (caller, options) = (Caller::system("user"), WriteOptions::default());
                registry.patch(&caller, &row, &target.namespace, &target.name, part, apply, &options).await
            }
        });
        match updated {
            Err(refusal) if refusal.code() == 404 => Ok(()),
            done => done.map(drop),
        }
    }

    pub fn delete(&mut self, target: &Reference, propagation: Option<&str>, grace: Option<i64>) {
        let row = self.kind(&target.api_version, &target.kind);
        let options = DeleteOptions {
            grace_period_seconds: grace,
            propagation_policy: propagation.map(str::to_owned),
            uid: Some(target.uid.to_string()),
            ..DeleteOptions::default()
        };
        let (deleted, _) = self.insist(|registry| {
            let (target, row, options) = (target.clone(), row.clone(), options.clone());
            async move {
                let caller = Caller::system("user");
                registry.delete(&caller, &row, &target.namespace, &target.name, &options).await
            }
        });
        // It may be gone, or be another one by now.
        assert!(deleted.as_ref().err().is_none_or(|r| [404, 409].contains(&r.code())), "{deleted:?}");
    }

    /// An operator evicts a pod, once.
    pub fn evict(&mut self, pod: &Reference) -> Result<(), Refusal> {
        let server = self.outside.random() as usize % self.servers.len();
        self.turn(server);
        let (registry, pod) = (self.servers[server].registry.clone(), pod.clone());
        self.ask(server, async move {
            let (caller, options) = (Caller::system("operator"), WriteOptions::default());
            registry.evict(&caller, &pod.namespace, &pod.name, &json!({}), &options).await
        })
    }

    /// Writes a Lease of a control plane as its candidate does; true if it is written.
    pub fn write_lease(&mut self, server: usize, namespace: &str, name: &str, lease: Value) -> bool {
        let row = self.kind("coordination.k8s.io/v1", "Lease");
        let (registry, namespace, name) =
            (self.servers[server].registry.clone(), namespace.to_owned(), name.to_owned());
        let is_new = lease["metadata"]["resourceVersion"].is_null();
        let done = self.ask(server, async move {
            let (caller, options) = (Caller::system("candidate"), WriteOptions::default());
            match is_new {
                true => registry.create(&caller, &row, &namespace, lease, &options).await,
                false => registry.update(&caller, &row, &namespace, &name, Part::Main, lease, &options).await,
            }
        });
        if done.as_ref().is_err_and(|refusal| refusal.code() == 409) {
            self.meet("a Lease is lost to another");
        }
        done.is_ok()
    }
}

fn written(done: Done) -> Written {
    Ok(done?.map(|(kind, object)| (name_of(&kind), object.revision)))
}

fn id(kind: &Kind, object: &Object) -> Id {
    (name_of(kind), object.key.namespace.to_string(), object.key.name.to_string())
}

fn id_of(reference: &Reference) -> Id {
    (
        kind_name(&reference.api_version, &reference.kind),
        reference.namespace.to_string(),
        reference.name.to_string(),
    )
}

/// The merge patch that makes `new` of `old`.
fn difference(old: &Value, new: &Value) -> Value {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut patch = Map::new();
    for (name, value) in after {
        match before.get(name) {
            Some(same) if same == value => {}
            Some(other) => drop(patch.insert(name.clone(), difference(other, value))),
            None => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch.into()
}

/// The reference to an object.
pub fn reference(object: &Value) -> Reference {
    let mut reference = Reference::named(
        text(object, "/apiVersion"),
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    );
    reference.uid = text(object, "/metadata/uid").into();
    reference
}
