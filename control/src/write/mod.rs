//! The one way of every write.
//!
//! Fed by the registry's verbs, for clients and for Proa's own parts alike. A write is an [`Intent`].
//! It passes: load → decode → default → mutating [`stages`] → prepare → validate → validating stages
//! → commit, and is decided anew when another write came between. All of that runs in a task of its
//! own, which the request awaits: a client that leaves changes nothing.
//!
//! What has to hold at the moment of the commit (quotas, the addresses of Services) is decided by the
//! store's one writer, on what is stored then ([`Stage::settle`]).
//!
//! - [`request`]: what the verbs that write take and give
//! - [`stage`], [`stages`]: what a write passes beside its kind's rules
//! - `create`, `update`, `delete`: what each does between load and commit
//! - [`metadata`]: what the server keeps of every object
//! - [`scale`]: a view of an object that is written through
//! - [`ambient`]: the time and chance

pub mod ambient;
mod create;
pub mod delete;
pub mod metadata;
pub mod request;
pub mod scale;
pub mod stage;
pub mod stages;
mod update;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proa_api::Refusal;
use proa_kinds::{Kind, Part};
use serde_json::Value;

use crate::store::{Change, Draft, Expect, Key, Object, Settle, Store, Write, WriteError};
use ambient::Ambient;
use request::{Caller, DeleteOptions, WriteOptions};
use stage::{Attempt, Operation, Stage};

/// For so long a write that lost a race is decided anew, as in the stock server, whose requests end then.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest pause between two attempts. Writers of one object meet again and again without one.
const LONGEST_PAUSE_MILLIS: u64 = 50;
/// Generated names that are tried.
const NAMES: usize = 16;

/// No object is stored that is larger: what the stock server's store takes by default.
pub const MAX_OBJECT_BYTES: usize = 1_572_864;

/// What somebody wants to be written.
pub struct Intent {
    /// Who wants it.
    pub caller: Caller,
    /// The kind that is stored.
    pub kind: Arc<Kind>,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Empty for a new object whose body names it.
    pub name: String,
    /// How it is to be done.
    pub options: WriteOptions,
    /// What is to be done.
    pub deed: Deed,
}

/// What is to be done to an object.
pub enum Deed {
    /// Makes it.
    Create(Value),
    /// Puts what the change makes of it in the place of one of its parts, by its kind's rules.
    Update(Part, Changer),
    /// Writes what the server itself makes of it; the name is that of the subresource that asks.
    Connect(&'static str, Changer),
    /// Deletes it, or marks it for those who hold it.
    Delete(DeleteOptions),
}

/// Makes the new object of the current one, as it is stored and as JSON; runs anew after a lost race.
pub type Changer = Box<dyn Fn(&Arc<Object>, &Value) -> Result<Value, Unwritten> + Send + Sync>;

/// Why a write did not go through as decided.
pub enum Unwritten {
    /// The object, or what it belongs to, has changed meanwhile: decide anew.
    Raced,
    /// The answer is no.
    Refused(Refusal),
}

impl From<Refusal> for Unwritten {
    fn from(refusal: Refusal) -> Self {
        Unwritten::Refused(refusal)
    }
}

impl From<WriteError> for Unwritten {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict(_) | WriteError::Outdated => Unwritten::Raced,
            WriteError::Refused(refusal) => Unwritten::Refused(refusal),
            WriteError::Busy => Unwritten::Refused(Refusal::too_many_requests(
                "too many writes wait to be stored, please try again later",
                1,
            )),
            WriteError::Closed => Unwritten::Refused(Refusal::unavailable("the server is shutting down")),
            WriteError::Fault(error) => Unwritten::Refused(Refusal::internal(error)),
        }
    }
}

/// What a write has done.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The object as it is now; after a delete, it is on its way out: finalizers or a grace period hold it.
    There(Arc<Object>),
    /// The object is gone; this was its last state.
    Gone(Arc<Object>),
}

impl Outcome {
    /// The object's last state so far.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Outcome::There(object) | Outcome::Gone(object) => object,
        }
    }

    /// The same, for whoever needs nothing else.
    pub fn into_object(self) -> Arc<Object> {
        match self {
            Outcome::There(object) | Outcome::Gone(object) => object,
        }
    }
}

/// The way of every write to one store. Clones share it.
#[derive(Clone)]
pub struct Pipeline(Arc<Inner>);

struct Inner {
    store: Store,
    stages: ArcSwap<Vec<Arc<dyn Stage>>>,
    ambient: Arc<dyn Ambient>,
}

impl Pipeline {
    /// Writes to this store pass these stages, in this order.
    pub fn new(store: Store, stages: Vec<Arc<dyn Stage>>, ambient: Arc<dyn Ambient>) -> Pipeline {
        Pipeline(Arc::new(Inner { store, stages: ArcSwap::from_pointee(stages), ambient }))
    }

    /// One more stage, after those that are there.
    pub fn add_stage(&self, stage: Arc<dyn Stage>) {
        self.0.stages.rcu(|stages| {
            let mut stages = Vec::clone(stages);
            stages.push(stage.clone());
            stages
        });
    }

    /// The time and chance that writes take.
    pub fn ambient(&self) -> &dyn Ambient {
        &*self.0.ambient
    }

    /// Does what is wanted, whether or not somebody waits for it to the end. Needs a runtime.
    pub async fn write(&self, intent: Intent) -> Result<Outcome, Refusal> {
        let pipeline = self.clone();
        let decided = tokio::spawn(async move { Box::pin(pipeline.decide(intent)).await });
        decided.await.unwrap_or_else(|_| Err(Refusal::internal("deciding a write failed")))
    }

    async fn decide(&self, intent: Intent) -> Result<Outcome, Refusal> {
        let Intent { caller, kind, namespace, name, options, deed } = &intent;
        tracing::debug!(
            user = caller.user,
            kind = kind.kind,
            namespace,
            name,
            dry = options.dry_run,
            "{deed}"
        );
        let started = Instant::now();
        for attempt in 0.. {
            let done = match deed {
                Deed::Create(body) => self.create(&intent, body.clone()).await,
                Deed::Update(part, change) => self.update(&intent, part, change).await,
                Deed::Connect(part, change) => self.connect(&intent, part, change).await,
                Deed::Delete(options) => self.delete(&intent, options).await,
            };
            match done {
                Ok(outcome) => return Ok(outcome),
                Err(Unwritten::Raced) if matches!(deed, Deed::Create(_)) && attempt + 1 == NAMES => break,
                Err(Unwritten::Raced) if started.elapsed() > PATIENCE => break,
                Err(Unwritten::Raced) => self.pause(attempt).await,
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(match deed {
            Deed::Create(body) => {
                Refusal::already_exists(kind.resource(), metadata::text(body, "generateName"))
            }
            _ => Refusal::stale(kind.resource(), name),
        })
    }

    /// Lets others finish who write the same, for longer the more there seem to be.
    async fn pause(&self, attempt: usize) {
        let most = 1u64 << attempt.min(6);
        match self.0.ambient.random() as u64 % most.min(LONGEST_PAUSE_MILLIS) {
            0 => tokio::task::yield_now().await,
            millis => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
    }

    fn attempt<'a>(
        &'a self,
        intent: &'a Intent,
        name: &'a str,
        operation: Operation,
        old: Option<&'a Value>,
    ) -> Attempt<'a> {
        Attempt {
            store: &self.0.store,
            caller: &intent.caller,
            kind: &intent.kind,
            namespace: &intent.namespace,
            name,
            operation,
            old,
            options: &intent.options,
            now: self.0.ambient.now(),
            chance: self.0.ambient.random(),
        }
    }

    fn load(&self, intent: &Intent) -> Result<Arc<Object>, Refusal> {
        let key = key(&intent.kind, &intent.namespace, &intent.name);
        let object = self.0.store.collection(&key.resource).get(&key.namespace, &key.name);
        object.ok_or_else(|| Refusal::not_found(intent.kind.resource(), &intent.name))
    }

    /// The stages that have something to say about this kind.
    fn stages(&self, kind: &Kind) -> Vec<Arc<dyn Stage>> {
        self.0.stages.load().iter().filter(|stage| stage.concerns(kind)).cloned().collect()
    }

    /// Lets the stages change what a client wants, and passes it through the rules of its kind.
    async fn judge(
        &self,
        attempt: &Attempt<'_>,
        stages: &[Arc<dyn Stage>],
        write: proa_kinds::Write<'_>,
        mut wanted: Value,
    ) -> Result<Value, Refusal> {
        let kind = attempt.kind;
        if stages.iter().any(|stage| stage.mutates(kind)) {
            let mut proposal = kind.propose(write, wanted)?;
            proposal.default();
            wanted = proposal.value()?;
        }
        for stage in stages {
            told(&**stage, attempt, stage.mutate(attempt, &mut wanted).get().await)?;
        }
        kind.apply_rules(write, wanted)
    }

    async fn validate(
        &self,
        attempt: &Attempt<'_>,
        stages: &[Arc<dyn Stage>],
        new: &Value,
    ) -> Result<(), Refusal> {
        for stage in stages {
            told(&**stage, attempt, stage.validate(attempt, new).get().await)?;
        }
        Ok(())
    }

    /// Makes an object, or puts `new` in the place of `current` if it differs, or removes `current` if
    /// it is on its way out and `new` is held by nothing any more.
    async fn commit(
        &self,
        attempt: &Attempt<'_>,
        stages: &[Arc<dyn Stage>],
        current: Option<&Arc<Object>>,
        mut new: Value,
    ) -> Result<Outcome, Unwritten> {
        let kind = attempt.kind;
        if let Some(current) = current {
            let version = current.revision.to_string();
            metadata::metadata(&mut new).insert("resourceVersion".to_owned(), version.into());
            if attempt.old == Some(&new) && !metadata::is_released(&new) {
                return Ok(Outcome::There(current.clone()));
            }
        }
        let draft = Draft::encode(key(kind, attempt.namespace, attempt.name), &new, kind.fields(&new));
        if matches!(attempt.operation, Operation::Create | Operation::Update(_)) {
            check_size(&draft, current)?;
        }
        if let Some(current) = current.filter(|_| metadata::is_released(&new)) {
            let last = Arc::new(draft.at_revision(current.revision));
            let gone = self.remove(attempt, stages, current).await?;
            return Ok(Outcome::Gone(Arc::new(last.at_revision(gone.revision))));
        }
        let settle = settlements(attempt, stages, Some(&new));
        if attempt.options.dry_run {
            let draft = self.0.store.settle_dry(draft, &settle)?;
            let revision = current.map(|current| current.revision);
            return match revision {
                None if self.exists(draft.key()) => Err(Unwritten::Raced),
                None => Ok(Outcome::There(Arc::new(draft.unwritten()))),
                Some(revision) => Ok(Outcome::There(Arc::new(draft.at_revision(revision)))),
            };
        }
        let expect = current.map_or(Expect::Absent, |current| Expect::Revision(current.revision));
        let write = Write { change: Change::Put(draft), expect };
        Ok(Outcome::There(self.0.store.write_and_settle(write, settle).await?))
    }

    /// Removes an object.
    async fn remove(
        &self,
        attempt: &Attempt<'_>,
        stages: &[Arc<dyn Stage>],
        current: &Arc<Object>,
    ) -> Result<Arc<Object>, Unwritten> {
        if attempt.options.dry_run {
            return Ok(current.clone());
        }
        let expect = Expect::Revision(current.revision);
        let write = Write { change: Change::Delete(current.key.clone()), expect };
        Ok(self.0.store.write_and_settle(write, settlements(attempt, stages, None)).await?)
    }

    fn exists(&self, key: &Key) -> bool {
        self.0.store.collection(&key.resource).get(&key.namespace, &key.name).is_some()
    }
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Deed::Create(_) => f.write_str("create"),
            Deed::Update(part, _) => write!(f, "update {part:?}"),
            Deed::Connect(part, _) => f.write_str(part),
            Deed::Delete(_) => f.write_str("delete"),
        }
    }
}

/// What a stage says; of a refusal the log knows whose it is.
fn told(stage: &dyn Stage, attempt: &Attempt<'_>, said: Result<(), Refusal>) -> Result<(), Refusal> {
    if let Err(refusal) = &said {
        let (kind, namespace, name) = (&attempt.kind.kind, attempt.namespace, attempt.name);
        tracing::debug!(kind, namespace, name, stage = stage.name(), %refusal, "refused");
    }
    said
}

fn settlements(attempt: &Attempt<'_>, stages: &[Arc<dyn Stage>], new: Option<&Value>) -> Vec<Settle> {
    stages.iter().filter_map(|stage| stage.settle(attempt, new)).collect()
}

/// Where an object of this kind is stored.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    Key::new(kind.resource().to_string(), if kind.namespaced { namespace } else { "" }, name)
}

/// Refuses what is too large to be stored, unless it was so before: what is there can be made smaller
/// step by step, and get its status.
fn check_size(draft: &Draft, current: Option<&Arc<Object>>) -> Result<(), Refusal> {
    let (size, before) = (draft.size(), current.map_or(0, |current| current.bytes.len()));
    if size <= MAX_OBJECT_BYTES || size <= before {
        return Ok(());
    }
    Err(Refusal::entity_too_large(format_args!(
        "the object would have {size} bytes when it is stored, limit is {MAX_OBJECT_BYTES}"
    )))
}

#[cfg(test)]
mod tests;
