//! ResourceQuota: sees to it that every quota knows what its namespace holds.
//!
//! Each write settles with the quotas itself, so there is something to count only for a quota that
//! is new or limits something new, and when a pod should have been gone long ago: then it counts
//! no more, so that what replaces it finds room. What is counted and how is in `admission/quota`;
//! it is counted where the objects are, since the watches here may be behind.

use jiff::{SignedDuration, Timestamp};

use crate::world::facts::{Key, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Verb};
use proa_kinds::admission::quota::is_known;

/// Decides what one ResourceQuota needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(quota) = seen.resource_quotas.get(key) else { return plan };
    let overdue = seen.pods.in_namespace(&key.namespace).filter_map(|pod| overdue_at(pod));
    let (past, coming): (Vec<Timestamp>, Vec<Timestamp>) = overdue.partition(|at| *at < now);
    if let Some(next) = coming.into_iter().min() {
        // At the moment itself the pod still counts.
        plan.look_again(next + SignedDuration::from_secs(1));
    }
    if !is_known(quota) || !past.is_empty() {
        plan.act(Verb::Recount { quota: Reference::to(&**quota) });
    }
    plan
}

/// When a pod counts no more although it is still there.
fn overdue_at(pod: &Pod) -> Option<Timestamp> {
    let deleted = pod.meta.deleted.filter(|_| !pod.is_finished())?;
    Some(deleted + deleted.duration_since(pod.leaving_since?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{at, object, seen, show, stamp};
    use super::*;

    fn check(status: Value, pod: Value, seconds: i64, expected: &[&str], again: Option<i64>) {
        let body = json!({"spec": {"hard": {"pods": "2"}}, "status": status});
        let objects = vec![object("v1", "ResourceQuota", "q", body), object("v1", "Pod", "p", pod)];
        let plan = reconcile(&seen(objects), &Key::new("d", "q"), at(seconds));
        assert_eq!(
            (show(&plan), plan.again_at),
            (expected.iter().map(|l| (*l).to_owned()).collect(), again.map(at))
        );
    }

    #[test]
    fn a_quota_is_counted_while_it_does_not_know() {
        let known = || json!({"hard": {"pods": "2"}, "used": {"pods": "1"}});
        let going =
            || json!({"metadata": {"deletionTimestamp": stamp(130), "deletionGracePeriodSeconds": 30}});
        check(known(), json!({}), 100, &[], None);
        check(json!({}), json!({}), 100, &["recount q"], None);
        check(json!({"hard": {"pods": "2"}}), json!({}), 100, &["recount q"], None);
        check(json!({"hard": {"pods": "3"}, "used": {"pods": "1"}}), json!({}), 100, &["recount q"], None);
        check(known(), going(), 100, &[], Some(161));
        check(known(), going(), 161, &["recount q"], None);
    }
}
