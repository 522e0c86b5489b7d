//! Execution of plans.
//!
//! Takes a [`Plan`] from the shell, has its actions performed and says what they wrote and what was
//! refused. It decides nothing.

use std::borrow::Cow;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use proa_api::Refusal;
use proa_kinds::Kind;
use proa_logic::world::plan::{Action, Plan, Verb};
use tokio_util::sync::CancellationToken;

use super::elect::Leadership;
use super::perform::{Done, Performer};
use super::record::{Note, Recorder};
use crate::store::Revision;

/// No more actions of one plan than this run at once.
const AT_ONCE: usize = 128;

/// How the execution of a plan went.
#[derive(Default)]
pub struct Outcome {
    /// What was written: the kind and the revision.
    pub writes: Vec<(Arc<Kind>, Revision)>,
    /// The first refusal.
    pub refused: Option<Refusal>,
    /// The first refusal of a create or a change of size that is not just a lost race.
    pub create_refused: Option<String>,
}

/// Performs plans in the name of one controller.
#[derive(Clone)]
pub struct Executor {
    /// Who performs them.
    pub performer: Performer,
    /// Who tells.
    pub recorder: Recorder,
    /// Until when this control plane may write.
    pub term: Term,
}

/// The term that a plan belongs to.
#[derive(Clone)]
pub struct Term {
    /// Which one this control plane is in.
    pub leadership: Leadership,
    /// Which one the plan was made in.
    pub number: u64,
    /// Over once the shell that made it is.
    pub over: CancellationToken,
}

impl Term {
    /// True while what was decided in it may still be done.
    pub fn lasts(&self) -> bool {
        self.leadership.term() == Some(self.number) && !self.over.is_cancelled()
    }
}

impl Executor {
    /// Performs a plan. Actions run in order; neighbours that do not need each other run at
    /// once. Creates start slowly: if the first is refused, so will be a hundred more.
    pub async fn execute(&self, component: Cow<'static, str>, plan: Plan) -> Outcome {
        let mut outcome = Outcome::default();
        for problem in plan.problems {
            self.recorder.note(Note {
                component: component.clone(),
                about: problem.about,
                warning: problem.warning,
                reason: problem.reason,
                message: problem.message,
            });
        }
        let mut rest = plan.actions.as_slice();
        let mut batch = 1;
        while let Some(first) = rest.first() {
            if first.chained && outcome.refused.is_some() {
                break;
            }
            let limit = if matches!(first.verb, Verb::Create { .. }) { batch } else { AT_ONCE };
            let together = 1 + rest[1..].iter().take(limit - 1).take_while(|a| joins(first, a)).count();
            let (now, later) = rest.split_at(together);
            let mut running: FuturesUnordered<_> = now.iter().map(|a| self.act(&component, a)).collect();
            while let Some((action, done)) = running.next().await {
                outcome.add(action, done);
            }
            batch = (batch * 2).min(AT_ONCE);
            rest = later;
            if outcome.create_refused.is_some() {
                while rest.first().is_some_and(|a| matches!(a.verb, Verb::Create { .. })) {
                    rest = &rest[1..];
                }
            }
        }
        outcome
    }

    #[allow(clippy::ptr_arg, reason = "a note takes it as it is; a name that is known costs no copy")]
    async fn act<'a>(&self, component: &Cow<'static, str>, action: &'a Action) -> (&'a Action, Done) {
        let done = if self.term.lasts() {
            self.performer.perform(&action.verb).await
        } else {
            Err(Refusal::unavailable("the term in which it was decided is over"))
        };
        if let Some(report) = &action.report {
            let (told, filler) = match &done {
                Ok(written) => {
                    let name = written.as_ref().map(|(_, object)| object.key.name.to_string());
                    (&report.done, name.unwrap_or_default())
                }
                Err(refusal) if is_quiet(refusal) => (&None, String::new()),
                Err(refusal) => (&report.failed, refusal.to_string()),
            };
            if let Some((reason, text)) = told {
                self.recorder.note(Note {
                    component: component.clone(),
                    about: report.about.clone(),
                    warning: done.is_err(),
                    reason,
                    message: text.replace("{}", &filler),
                });
            }
        }
        (action, done)
    }
}

impl Outcome {
    fn add(&mut self, action: &Action, done: Done) {
        match done {
            Ok(Some((kind, object))) => self.writes.push((kind, object.revision)),
            Ok(None) => {}
            Err(refusal) => {
                let shown = matches!(action.verb, Verb::Create { .. } | Verb::Scale { .. });
                if shown && refusal.code() != 409 && self.create_refused.is_none() {
                    self.create_refused = Some(refusal.to_string());
                }
                self.refused.get_or_insert(refusal);
            }
        }
    }
}

/// True if both are of a sort and neither needs the other.
fn joins(first: &Action, next: &Action) -> bool {
    !next.chained && std::mem::discriminant(&first.verb) == std::mem::discriminant(&next.verb)
}

/// Lost races and namespaces on their way out are nobody's concern.
fn is_quiet(refusal: &Refusal) -> bool {
    refusal.code() == 409
        || (refusal.code() == 403 && refusal.to_string().contains("because it is being terminated"))
}
