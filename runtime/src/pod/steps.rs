//! The steps that a pod's worker has under way: each in a task of its own, which ends with the worker, and
//! each of them tells how it went. One that panics has failed.

use proa_supervise::{caught, failpoint};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::event::report;
use crate::pod::told::Told;

/// Tells the worker something.
pub type Tell = Box<dyn Fn(Told) + Send + Sync>;

/// What is under way.
pub struct Steps {
    tasks: JoinSet<()>,
    tell: mpsc::UnboundedSender<Told>,
}

impl Steps {
    /// Nothing yet.
    pub fn new(tell: mpsc::UnboundedSender<Told>) -> Self {
        Steps { tasks: JoinSet::new(), tell }
    }

    /// A way to tell the worker something.
    pub fn teller(&self) -> impl Fn(Told) + Clone + Send + Sync + use<> {
        let tell = self.tell.clone();
        // Without a worker nobody wants to know.
        move |told| drop(tell.send(told))
    }

    /// Begins a step. What a panic of it means to the worker says `failed`.
    pub fn begin<F>(
        &mut self,
        name: &'static str,
        failed: impl FnOnce(String) -> Told + Send + 'static,
        work: impl FnOnce(Tell) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (work, tell) = (work(Box::new(self.teller())), self.teller());
        self.tasks.spawn(async move {
            let work = async {
                failpoint::hit(name);
                work.await;
            };
            if let Err(why) = caught(work).await {
                tracing::error!(step = name, why, "a step has failed");
                tell(failed(why));
            }
        });
    }

    /// Forgets those that have ended.
    pub fn forget_done(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Says that a step has failed that is done again anyway, or that nothing depends on.
pub fn not_done(why: String) -> Told {
    Told::NotDone(report(None, true, "FailedStep", why))
}
