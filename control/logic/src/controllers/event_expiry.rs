//! Event expiry: Events are news, and an hour old they are none.

use jiff::{SignedDuration, Timestamp};

use super::observed::Observed;
use super::plan::{Plan, Verb};

/// How long an Event is kept after it was last seen.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// No more than this in one go, so that other writes are not held up.
const BATCH: usize = 200;

/// Decides which Events go now.
pub fn reconcile(seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for (at, uid) in seen.events.iter().take(BATCH + 1) {
        if *at + KEPT > now {
            plan.look_again(*at + KEPT);
            break;
        }
        if plan.actions.len() == BATCH {
            plan.look_again(now);
            break;
        }
        if let Some((_, meta)) = seen.event_metas.get(uid) {
            plan.act(Verb::Delete {
                target: meta.reference(),
                resource_version: None,
                propagation: None,
                grace_period_seconds: None,
                unless: Vec::new(),
            });
        }
    }
    plan
}
