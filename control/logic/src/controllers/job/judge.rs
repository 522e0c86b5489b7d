//! Judges what a Job has come to: success, failure, or neither yet. The reasons and texts are those
//! of the stock controller.

use jiff::SignedDuration;
use proa_api::condition;

use super::count::Tally;
use super::failure::{Consequence, consequence};
use super::pods::Steps;
use super::verdict::{FAILURE, SUCCESS, Verdict};
use super::view::View;
use crate::world::facts::{Phase, time};
use crate::world::plan::Plan;
use proa_kinds::built_in::job::Indexes;

/// Judges by all but the number of completions.
pub(super) fn judge(view: &View<'_>, tally: &Tally<'_>, plan: &mut Plan) -> Option<Verdict> {
    passed(view)
        .or_else(|| by_policy(view))
        .or_else(|| by_limits(view, tally, plan))
        .or_else(|| by_indexes(view, tally))
        .or_else(|| by_success_policy(view, tally))
}

/// A verdict that has been passed stands.
fn passed(view: &View<'_>) -> Option<Verdict> {
    let conditions = view.status.conditions.as_ref();
    let stands = |target: &'static str| {
        let c = condition::find(conditions, target).filter(|c| c.status == "True")?;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        Some(Verdict { target, reason: text(&c.reason), message: text(&c.message) })
    };
    stands(SUCCESS).or_else(|| stands(FAILURE))
}

fn by_policy(view: &View<'_>) -> Option<Verdict> {
    let policy = view.spec.pod_failure_policy.as_ref()?;
    let failed = view.pods.iter().filter(|p| view.has_failed(p));
    let message = failed.filter_map(|pod| match consequence(Some(policy), pod) {
        Consequence::FailJob(message) => Some(message),
        _ => None,
    });
    message.map(|message| Verdict::failure("PodFailurePolicy", &message)).next()
}

fn by_limits(view: &View<'_>, tally: &Tally<'_>, plan: &mut Plan) -> Option<Verdict> {
    let limit = view.spec.backoff_limit.unwrap_or(6);
    if tally.failed > limit || has_restarted_too_often(view, limit) {
        return Some(Verdict::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let seconds = view.spec.active_deadline_seconds.filter(|_| !view.is_suspended())?;
    let start = time(&view.status.start_time)?;
    let deadline = start + SignedDuration::from_secs(seconds.min(i64::from(i32::MAX)));
    if deadline <= view.now {
        return Some(Verdict::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    plan.look_again(deadline);
    None
}

/// Containers that the node restarts count by their restarts.
fn has_restarted_too_often(view: &View<'_>, limit: i32) -> bool {
    let policy = view.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let running = view.pods.iter().filter(|p| matches!(p.phase, Phase::Running | Phase::Pending));
    let restarts: i32 = running.filter_map(|p| p.notes.as_ref()).map(|n| n.restarts).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn by_indexes(view: &View<'_>, tally: &Tally<'_>) -> Option<Verdict> {
    let failed = tally.failed_indexes.total();
    if view.spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
    }
    let all = failed > 0 && failed + tally.indexes.total() >= view.completions();
    all.then(|| Verdict::failure("FailedIndexes", "Job has failed indexes"))
}

fn by_success_policy(view: &View<'_>, tally: &Tally<'_>) -> Option<Verdict> {
    let policy = view.spec.success_policy.as_ref()?;
    let met = policy.rules.iter().position(|rule| {
        let count = rule.succeeded_count;
        match &rule.succeeded_indexes {
            Some(text) => {
                let asked = Indexes::of_status(Some(text), view.completions());
                tally.indexes.total_of(&asked) >= count.unwrap_or(asked.total())
            }
            None => count.is_some_and(|count| tally.indexes.total() >= count),
        }
    })?;
    Some(Verdict::success("SuccessPolicy", format!("Matched rules at index {met}")))
}

/// Judges by the number of completions, once no pod runs any more.
pub(super) fn completion(view: &View<'_>, tally: &Tally<'_>, steps: &Steps<'_>) -> Option<Verdict> {
    let active = view.active().count() - steps.delete.len() + steps.create.len();
    // Of work that ends with its first success, the other pods are waited for.
    let enough = view.spec.completions.unwrap_or(1);
    let complete = tally.succeeded >= enough && active == 0;
    complete.then(|| {
        Verdict::success("CompletionsReached", "Reached expected number of succeeded pods".to_owned())
    })
}
