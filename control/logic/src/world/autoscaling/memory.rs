//! What an autoscaler is to be reminded of: its recommendations and how it has scaled.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// What was decided before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The sample that was last decided upon.
    pub decided: Option<Timestamp>,
    /// How many replicas the metrics called for, and when. The first is how many there were.
    pub recommendations: Vec<(Timestamp, i32)>,
    /// How many replicas were added, and when.
    pub added: Vec<(Timestamp, i32)>,
    /// How many replicas were removed, and when.
    pub removed: Vec<(Timestamp, i32)>,
}

impl Memory {
    /// Before anything is recommended, what is there counts as recommended.
    pub(crate) fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    /// Adds a recommendation; those that are older than any window are forgotten.
    pub(crate) fn recommend(&mut self, replicas: i32, longest: SignedDuration, now: Timestamp) {
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= longest);
        // Any number of equal ones says no more than the first and the last of them.
        if let [.., (_, a), (at, b)] = self.recommendations.as_mut_slice()
            && *a == replicas
            && *b == replicas
        {
            *at = now;
            return;
        }
        self.recommendations.push((now, replicas));
    }

    /// Notes a change of size. Without a behaviour nothing asks for it.
    pub(crate) fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        // Either list is asked for either direction.
        let longest = longest_period(&behavior.scale_up).max(longest_period(&behavior.scale_down));
        for list in [&mut self.added, &mut self.removed] {
            list.retain(|(at, _)| now.duration_since(*at) <= longest);
        }
        if to > from {
            self.added.push((now, to - from));
        } else {
            self.removed.push((now, from - to));
        }
    }
}

fn longest_period(rules: &Option<HPAScalingRules>) -> SignedDuration {
    let policies = rules.iter().flat_map(|rules| rules.policies.iter().flatten());
    SignedDuration::from_secs(policies.map(|p| i64::from(p.period_seconds)).max().unwrap_or(0))
}
