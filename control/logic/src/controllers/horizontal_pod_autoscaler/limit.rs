//! How fast the number of replicas may change: stabilization, policies and bounds.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

use super::Turn;
use crate::world::autoscaling::memory::Memory;

/// Without a behaviour, a workload grows to twice its size at once, or to this.
const LEAST_GROWTH: i32 = 4;
const LOWER_BEFORE: &str =
    "recent recommendations were lower than current one, applying the lowest recent recommendation";
const HIGHER_BEFORE: &str =
    "recent recommendations were higher than current one, applying the highest recent recommendation";

/// What is allowed of what was wanted, with the reason and text of the condition.
type Limited = (i32, &'static str, &'static str);

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

impl Turn<'_> {
    /// The size that may be set now, of one that the metrics call for.
    pub(super) fn limited(&mut self, current: i32, wanted: i32) -> i32 {
        let (least, most) = (self.spec.min_replicas.unwrap_or(1), self.spec.max_replicas);
        let ((stable, reason, text), (size, limit, limit_text)) = match &self.spec.behavior {
            None => {
                let stable = self.stabilized(wanted);
                ((stable, "ScaleDownStabilized", HIGHER_BEFORE), within(current, stable, least, most))
            }
            Some(behavior) => {
                let (up, down) = windows(behavior, self.settings.downscale_stabilization);
                let stable = stabilized_by(&mut self.memory, current, wanted, up, down, self.now);
                let memory = &self.memory;
                (stable, within_policies(behavior, memory, current, stable.0, least, most, self.now))
            }
        };
        if stable == wanted {
            self.condition(
                "AbleToScale",
                true,
                "ReadyForNewScale",
                "recommended size matches current size".to_owned(),
            );
        } else {
            self.condition("AbleToScale", true, reason, text.to_owned());
        }
        self.condition("ScalingLimited", size != stable, limit, limit_text.to_owned());
        size
    }

    /// The highest recommendation of late.
    fn stabilized(&mut self, wanted: i32) -> i32 {
        let window = self.settings.downscale_stabilization;
        let recent = self.memory.recommendations.iter().filter(|(at, _)| *at >= self.now - window);
        let highest = recent.map(|(_, replicas)| *replicas).chain([wanted]).max().unwrap_or(wanted);
        self.memory.recommend(wanted, window, self.now);
        highest
    }
}

fn windows(
    behavior: &HorizontalPodAutoscalerBehavior,
    default_down: SignedDuration,
) -> (SignedDuration, SignedDuration) {
    let stated = |rules: &Option<HPAScalingRules>| {
        let seconds = rules.as_ref()?.stabilization_window_seconds?;
        Some(SignedDuration::from_secs(seconds.into()))
    };
    let up = stated(&behavior.scale_up).unwrap_or(SignedDuration::ZERO);
    (up, stated(&behavior.scale_down).unwrap_or(default_down))
}

/// The current size, brought between the lowest recommendation of the window for growing and the
/// highest of that for shrinking.
fn stabilized_by(
    memory: &mut Memory,
    current: i32,
    wanted: i32,
    up: SignedDuration,
    down: SignedDuration,
    now: Timestamp,
) -> Limited {
    let recent = |window: SignedDuration| {
        let all = memory.recommendations.iter().filter(move |(at, _)| *at > now - window);
        all.map(|(_, replicas)| *replicas).chain([wanted])
    };
    let lowest = recent(up).min().unwrap_or(wanted);
    let highest = recent(down).max().unwrap_or(wanted);
    let stable = current.max(lowest).min(highest);
    memory.recommend(wanted, up.max(down), now);
    if wanted >= current {
        (stable, "ScaleUpStabilized", LOWER_BEFORE)
    } else {
        (stable, "ScaleDownStabilized", HIGHER_BEFORE)
    }
}

/// The bounds of the spec, and at most twice as many as there are.
fn within(current: i32, wanted: i32, least: i32, most: i32) -> Limited {
    let fastest = current.saturating_mul(2).max(LEAST_GROWTH);
    let (highest, why) = if most > fastest { (fastest, TOO_FAST_UP) } else { (most, TOO_MANY) };
    let (size, (reason, text)) = if wanted < least {
        (least, TOO_FEW)
    } else if wanted > highest {
        (highest, why)
    } else {
        (wanted, WITHIN)
    };
    (size, reason, text)
}

fn within_policies(
    behavior: &HorizontalPodAutoscalerBehavior,
    memory: &Memory,
    current: i32,
    wanted: i32,
    least: i32,
    most: i32,
    now: Timestamp,
) -> Limited {
    let (size, (reason, text)) = if wanted > current {
        let fastest = limit(behavior.scale_up.as_ref(), memory, current, true, now).max(current);
        let (highest, why) = if most > fastest { (fastest, TOO_FAST_UP) } else { (most, TOO_MANY) };
        if wanted > highest { (highest, why) } else { (wanted, WITHIN) }
    } else if wanted < current {
        let fastest = limit(behavior.scale_down.as_ref(), memory, current, false, now).min(current);
        let (lowest, why) = if least < fastest { (fastest, TOO_FAST_DOWN) } else { (least, TOO_FEW) };
        if wanted < lowest { (lowest, why) } else { (wanted, WITHIN) }
    } else {
        (wanted, WITHIN)
    };
    (size, reason, text)
}

/// The size that the policies of a direction allow, counted from what there was when the period of
/// each began.
fn limit(rules: Option<&HPAScalingRules>, memory: &Memory, current: i32, up: bool, now: Timestamp) -> i32 {
    let Some(rules) = rules else { return current };
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let policies = rules.policies.iter().flatten();
    let sizes = policies.map(|policy| {
        let begin = now - SignedDuration::from_secs(policy.period_seconds.into());
        let since = |list: &[(Timestamp, i32)]| -> i32 {
            list.iter().filter(|(at, _)| *at > begin).map(|(_, change)| change).sum()
        };
        let start = current - since(&memory.added) + since(&memory.removed);
        let (sign, percent) = (if up { 1 } else { -1 }, f64::from(policy.value) / 100.0);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(sign * policy.value),
            // Rounded so that a policy always allows something.
            _ if up => (f64::from(start) * (1.0 + percent)).ceil() as i32,
            _ => (f64::from(start) * (1.0 - percent)) as i32,
        }
    });
    // `Max` is the policy that allows the most change: to the highest size up, to the lowest down.
    let chosen = if (select == "Min") == up { sizes.min() } else { sizes.max() };
    chosen.unwrap_or(current)
}
