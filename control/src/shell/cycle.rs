//! The loop: fold, decide, execute.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proa_logic::controllers::reconcile;
use proa_logic::scheduler::{self, Scheduler};
use proa_logic::world::autoscaling::sample::Sample;
use proa_logic::world::facts::Pod;
use proa_logic::world::observed::Change;
use proa_logic::world::{Controller, Key, Observed, Plan, Wakes};
use proa_supervise::{Backoff, Task, caught, caught_now, failpoint, keep, note};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::config::{COMPONENT, ShellConfig};
use super::elect::Leadership;
use super::execute::{Executor, Outcome, Term};
use super::feed::{Feeds, News, WatchedKind};
use super::perform::Performer;
use super::queue::{Namespaced, Queue};
use super::record::{Recorder, Writer};
use super::sampler::Sampler;
use crate::bootstrap::objects;
use crate::registry::{Caller, Registry};
use crate::store::Revision;

/// So much news is folded before the next decisions.
const FOLD: usize = 1024;
/// So many decisions are made before the next news.
const DECIDE: usize = 256;
/// Plans of the controllers that are executed at the same time, and as many of the scheduler: what is to be
/// done beyond that waits where namespaces take turns, and not before the store, where they do not.
const UNDER_WAY: usize = 256;
/// The clock may jump: no sleep is longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Whose plan it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    Controller(Controller, Key),
    Scheduler(Key),
}

impl Namespaced for (Controller, Key) {
    fn namespace(&self) -> &Arc<str> {
        &self.1.namespace
    }
}

struct Shell {
    seen: Observed,
    queue: Queue<(Controller, Key)>,
    scheduler: Scheduler,
    /// Grows with each panic of the scheduler.
    scheduler_pauses: Backoff,
    /// Before then it makes no decision.
    scheduler_rests: Option<Timestamp>,
    feeds: Feeds,
    /// How far each kind has come; none before its first list.
    progress: Vec<Option<Revision>>,
    controllers: Executor,
    binder: Executor,
    sampler: Sampler,
    /// There is another autoscaler, or one fewer.
    autoscalers_changed: bool,
    /// Plans that are being executed, of the controllers and of the scheduler.
    deciding: usize,
    binding: usize,
    results: mpsc::UnboundedSender<(Work, Result<Outcome, String>)>,
}

/// Runs until `shutdown`, or until the term is over. It knows nothing of what was decided before,
/// here or elsewhere, but what it lists now.
pub(super) async fn run(
    registry: Registry,
    config: &ShellConfig,
    leadership: &Leadership,
    number: u64,
    shutdown: &CancellationToken,
) {
    let over = CancellationToken::new();
    // However it ends: what it has begun to execute goes no further.
    let _ends = over.clone().drop_guard();
    let term = Term { leadership: leadership.clone(), number, over };
    let (recorder, notes) = Recorder::new();
    let (results, mut finished) = mpsc::unbounded_channel();
    let writer = Mutex::new(Writer::new(registry.clone(), notes));
    let _writer = AbortOnDropHandle::new(tokio::spawn(async move {
        let task = Task { component: COMPONENT, name: "controllers-events" };
        keep(task, &CancellationToken::new(), || async { writer.lock().await.run().await }).await;
    }));
    let _objects = config.place.map(|place| {
        let (registry, shutdown) = (registry.clone(), shutdown.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let task = Task { component: COMPONENT, name: "first-objects" };
            keep(task, &shutdown, || objects::keep(&registry, place)).await;
        }))
    });
    let executor = |user: &str| Executor {
        performer: Performer {
            registry: registry.clone(),
            caller: Arc::new(Caller::system(user)),
            pki: config.pki.clone(),
        },
        recorder: recorder.clone(),
        term: term.clone(),
    };
    let mut leadership = leadership.clone();
    let sync_period = Duration::try_from(config.settings.autoscaler.sync_period).unwrap_or_default();
    let feeds = Feeds::start(&registry);
    let mut shell = Shell {
        seen: Observed { settings: config.settings.clone(), ..Observed::new(&config.ca_pem) },
        sampler: Sampler::start(registry.clone(), config.metrics.clone(), sync_period),
        autoscalers_changed: true,
        deciding: 0,
        binding: 0,
        queue: Queue::default(),
        scheduler: Scheduler::new(config.scheduler.clone()),
        scheduler_pauses: Backoff::default(),
        scheduler_rests: None,
        progress: vec![None; feeds.kinds.len()],
        feeds,
        controllers: executor("system:kube-controller-manager"),
        binder: executor("system:kube-scheduler"),
        results,
    };
    loop {
        let sleep = shell.sleep(Timestamp::now());
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some((work, outcome)) = finished.recv() => shell.finish(work, outcome),
            Some(news) = shell.feeds.next() => shell.fold_all(news),
            Some(sample) = shell.sampler.next() => shell.measure(sample),
            () = leadership.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
        while let Ok((work, outcome)) = finished.try_recv() {
            shell.finish(work, outcome);
        }
        if !term.lasts() {
            tracing::warn!(
                "the Lease of the controllers was not renewed in time: they decide no more before it is"
            );
            break;
        }
        shell.decide();
        shell.want_samples();
    }
}

impl Shell {
    /// How long nothing is to be done unless something happens.
    fn sleep(&self, now: Timestamp) -> Duration {
        if !self.is_complete() {
            return LONGEST_SLEEP;
        }
        let rests = self.scheduler_rests.is_some();
        let decides = self.queue.is_ready() && self.deciding < UNDER_WAY;
        if decides || (self.scheduler.has_turns() && !rests && self.binding < UNDER_WAY) {
            return Duration::ZERO;
        }
        let again = if rests { self.scheduler_rests } else { self.scheduler.again_at() };
        let next = [self.queue.next_timer(), again].into_iter().flatten().min();
        let until = next.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        until.map_or(LONGEST_SLEEP, |d| d.min(LONGEST_SLEEP))
    }

    /// True once every kind has been listed: before that, what is not seen may still be there.
    fn is_complete(&self) -> bool {
        let mut kinds = self.feeds.kinds.iter().enumerate().filter(|(_, kind)| kind.live);
        kinds.all(|(index, _)| self.progress.get(index).is_some_and(Option::is_some))
    }

    /// Folds this news and what else is there already.
    fn fold_all(&mut self, first: News) {
        let now = Timestamp::now();
        let mut wakes = Wakes::default();
        let mut next = Some(first);
        let mut left = FOLD;
        while let Some(news) = next {
            self.fold(news, now, &mut wakes);
            left -= 1;
            next = if left > 0 { self.feeds.try_next() } else { None };
        }
        for key in wakes.keys {
            self.autoscalers_changed |= key.0 == Controller::HorizontalPodAutoscaler;
            self.queue.wake(key);
        }
    }

    /// Takes what was measured, which is for all autoscalers to look at.
    fn measure(&mut self, sample: Sample) {
        self.seen.autoscaling.sample = Some(Arc::new(sample));
        for (key, _) in self.seen.horizontal_pod_autoscalers.iter() {
            self.queue.wake((Controller::HorizontalPodAutoscaler, key.clone()));
        }
    }

    /// Has pods measured where there are autoscalers.
    fn want_samples(&mut self) {
        if std::mem::take(&mut self.autoscalers_changed) {
            let all = self.seen.horizontal_pod_autoscalers.iter();
            self.sampler.want(all.map(|(key, _)| key.namespace.clone()).collect());
        }
    }

    fn fold(&mut self, news: News, now: Timestamp, wakes: &mut Wakes) {
        self.progress.resize(self.feeds.kinds.len(), None);
        let (kind, revision) = match news {
            News::Applied(kind, object, revision) => {
                let change = self.seen.apply(object, now);
                self.note(&change, now, wakes);
                (kind, revision)
            }
            News::Deleted(kind, object, revision) => {
                let change = self.seen.delete(&object.meta, now);
                self.note(&change, now, wakes);
                (kind, revision)
            }
            News::Reset(kind, objects, revision) => {
                let name = self.feeds.kinds[kind].name.clone();
                for change in self.seen.reset(&name, objects, now) {
                    self.note(&change, now, wakes);
                }
                wakes.complete(&self.seen, &name);
                (kind, revision)
            }
            News::Gone(kind) => {
                let name = self.feeds.kinds[kind].name.clone();
                for change in self.seen.forget(&name, now) {
                    self.note(&change, now, wakes);
                }
                self.progress[kind] = None;
                // Nothing of it comes that somebody could wait for.
                self.queue.passed(kind, Revision::MAX);
                return;
            }
            News::Passed(kind, revision) => {
                if self.progress[kind].is_none() {
                    return;
                }
                (kind, revision)
            }
        };
        let progress = self.progress[kind].map_or(revision, |at| at.max(revision));
        self.progress[kind] = Some(progress);
        self.queue.passed(kind, progress);
    }

    fn note(&mut self, change: &Change, now: Timestamp, wakes: &mut Wakes) {
        self.scheduler.apply(&self.seen, change, now);
        wakes.add(&self.seen, change);
    }

    fn decide(&mut self) {
        if !self.is_complete() {
            return;
        }
        self.seen.kinds = self.feeds.table();
        let now = Timestamp::now();
        self.queue.wake_due(now);
        self.scheduler_rests.take_if(|until| *until <= now);
        if self.scheduler_rests.is_none() {
            self.schedule(now);
        }
        for _ in 0..DECIDE {
            if self.deciding >= UNDER_WAY {
                break;
            }
            let Some((controller, key)) = self.queue.take() else { break };
            self.reconcile(controller, key, now);
        }
    }

    fn schedule(&mut self, now: Timestamp) {
        let room = UNDER_WAY.saturating_sub(self.binding);
        let scheduled = caught_now(|| {
            failpoint::hit("scheduler");
            self.scheduler.schedule(&self.seen, now, room)
        });
        match scheduled {
            Ok(plans) => {
                for (key, plan) in plans {
                    let component = scheduler_of(self.seen.pods.get(&key).map(|pod| &**pod));
                    self.execute(Work::Scheduler(key), component, plan);
                }
            }
            Err(why) => {
                note(Task { component: scheduler::COMPONENT, name: "scheduler" }, why);
                self.scheduler = self.scheduler.restart(&self.seen, now);
                let pause = self.scheduler_pauses.fail();
                self.scheduler_rests = Some(now.saturating_add(pause).unwrap_or(Timestamp::MAX));
            }
        }
    }

    fn reconcile(&mut self, controller: Controller, key: Key, now: Timestamp) {
        let id = (controller, key);
        let decided = caught_now(|| {
            failpoint::hit(controller.component());
            reconcile(controller, &self.seen, &id.1, now)
        });
        match decided {
            Ok(mut plan) => {
                if let Some(memory) = plan.memory.take() {
                    self.seen.autoscaling.remember(&id.1, memory);
                }
                self.queue.set_timer(&id, plan.again_at);
                if plan.is_empty() {
                    self.queue.succeeded(&id);
                    // Nothing is wanted any more that could be refused.
                    if self.seen.refused.remove(&id).is_some() {
                        self.queue.wake(id);
                    }
                    return;
                }
                tracing::debug!(
                    ?controller,
                    namespace = &*id.1.namespace,
                    name = &*id.1.name,
                    actions = plan.actions.len(),
                    "plan"
                );
                self.queue.start(id.clone());
                self.execute(Work::Controller(controller, id.1), controller.component().into(), plan);
            }
            Err(why) => {
                let component = controller.component();
                let (namespace, name) = (&id.1.namespace, &id.1.name);
                note(Task { component, name: component }, format!("{namespace}/{name}: {why}"));
                self.queue.failed(&id, now);
            }
        }
    }

    fn execute(&mut self, work: Work, component: Cow<'static, str>, plan: Plan) {
        let (executor, under_way) = match &work {
            Work::Controller(..) => (self.controllers.clone(), &mut self.deciding),
            Work::Scheduler(_) => (self.binder.clone(), &mut self.binding),
        };
        *under_way += 1;
        let results = self.results.clone();
        tokio::spawn(async move {
            let outcome = caught(executor.execute(component, plan)).await;
            // The receiver is gone only when the shell is, and then nobody wants to know.
            let _ = results.send((work, outcome));
        });
    }

    fn finish(&mut self, work: Work, outcome: Result<Outcome, String>) {
        match &work {
            Work::Controller(..) => self.deciding -= 1,
            Work::Scheduler(_) => self.binding -= 1,
        }
        if !self.controllers.term.lasts() {
            // What is not done is decided anew in the next term, by whoever leads then.
            return;
        }
        let now = Timestamp::now();
        let outcome = outcome.unwrap_or_else(|why| Outcome {
            refused: Some(proa_api::Refusal::internal(why)),
            ..Outcome::default()
        });
        if let Some(refusal) = outcome.refused.as_ref().filter(|r| r.code() != 409) {
            tracing::warn!(?work, %refusal, "refused");
        }
        match work {
            Work::Scheduler(key) => {
                self.scheduler.finished(&key, outcome.refused.is_none(), &self.seen, now);
            }
            Work::Controller(controller, key) => self.finish_key((controller, key), &outcome, now),
        }
    }

    fn finish_key(&mut self, id: (Controller, Key), outcome: &Outcome, now: Timestamp) {
        let index = |kind: &proa_kinds::Kind| {
            let same = |k: &WatchedKind| k.kind.group == kind.group && k.kind.plural == kind.plural;
            self.feeds.kinds.iter().position(|k| k.live && same(k))
        };
        let writes: Vec<(usize, Revision)> =
            outcome.writes.iter().filter_map(|(kind, revision)| Some((index(kind)?, *revision))).collect();
        let progress: Vec<Revision> = self.progress.iter().map(|at| at.unwrap_or(0)).collect();
        match &outcome.refused {
            None => self.queue.succeeded(&id),
            Some(_) => self.queue.failed(&id, now),
        }
        match &outcome.create_refused {
            // Shown by the next look, which the back-off brings.
            Some(text) => {
                self.seen.refused.insert(id.clone(), text.clone());
            }
            None if outcome.refused.is_none() && self.seen.refused.remove(&id).is_some() => {
                self.queue.wake(id.clone());
            }
            None => {}
        }
        self.queue.finish(&id, &writes, &progress);
    }
}

/// The name under which a pod's scheduler reports: that of the pod's profile.
fn scheduler_of(pod: Option<&Pod>) -> Cow<'static, str> {
    match pod.and_then(|pod| pod.wishes.as_ref()).map(|wishes| &*wishes.scheduler) {
        None | Some(scheduler::COMPONENT) => scheduler::COMPONENT.into(),
        Some(name) => name.to_owned().into(),
    }
}
