//! One probe of one run: a task that tells when a threshold is reached and ends with the run.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use proa_supervise::{Task, keep};
use std::net::IpAddr;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::check::{Check, Target};
use crate::backoff::since;
use crate::event::{COMPONENT, Recorder, report};
use crate::pod::observed::{ProbeKind, field_path};

const TASK: Task = Task { component: COMPONENT, name: "probe" };
/// Extra tries of a readiness probe right after the start, so that a container that is ready
/// within its first second need not wait a whole period. They count as no failures.
const EAGER: [Duration; 6] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(320),
    Duration::from_millis(320),
];

/// Results in a row, against a probe's thresholds. Pure.
#[derive(Clone, Debug)]
pub struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    successes: i32,
    failures: i32,
    told: Option<bool>,
}

impl Counter {
    /// With the thresholds of a probe.
    pub fn new(probe: &Probe) -> Self {
        Counter {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            successes: 0,
            failures: 0,
            told: None,
        }
    }

    /// Takes in one result; tells the new state if it has changed.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        if success {
            (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
        } else {
            (self.successes, self.failures) = (0, self.failures.saturating_add(1));
        }
        let state = if self.successes >= self.success_threshold {
            true
        } else if self.failures >= self.failure_threshold {
            false
        } else {
            return None;
        };
        (self.told.replace(state) != Some(state)).then_some(state)
    }
}

/// The probe of a kind, if the container has one.
pub fn of_kind(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

/// Whom a probe is about.
pub struct About<'a> {
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// Its container.
    pub container: &'a Container,
    /// The start of the run.
    pub since: Timestamp,
    /// The pod's address.
    pub ip: IpAddr,
    /// Takes the Events.
    pub recorder: &'a Recorder,
}

/// Probes a run until the handle is dropped. `tell` hears of each change of state.
pub fn start(
    about: &About<'_>,
    kind: ProbeKind,
    probe: &Probe,
    target: Target,
    tell: impl Fn(bool) + Send + Sync + 'static,
) -> AbortOnDropHandle<()> {
    let prober = Prober {
        kind,
        check: Check::of_probe(probe, about.container, about.ip),
        probe: probe.clone(),
        since: about.since,
        target,
        pod: Arc::clone(about.pod),
        name: about.container.name.clone(),
        recorder: about.recorder.clone(),
        tell,
    };
    AbortOnDropHandle::new(tokio::spawn(async move {
        keep(TASK, &CancellationToken::new(), || prober.run()).await;
    }))
}

struct Prober<F> {
    kind: ProbeKind,
    probe: Probe,
    /// The start of the run.
    since: Timestamp,
    check: Result<Check, String>,
    target: Target,
    pod: Arc<Pod>,
    /// The container.
    name: String,
    recorder: Recorder,
    tell: F,
}

impl<F: Fn(bool) + Sync> Prober<F> {
    /// Probes for ever, or until the container has started.
    async fn run(&self) {
        let period = seconds(self.probe.period_seconds.or(Some(10))).max(Duration::from_secs(1));
        tokio::time::sleep(delay_left(&self.probe, self.since, Timestamp::now())).await;
        let mut counter = Counter::new(&self.probe);
        let mut result = self.once().await;
        if self.kind == ProbeKind::Readiness && seconds(self.probe.initial_delay_seconds).is_zero() {
            for pause in EAGER {
                if result.is_ok() {
                    break;
                }
                tokio::time::sleep(pause).await;
                result = self.once().await;
            }
        }
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            self.say(&result);
            if let Some(healthy) = counter.count(result.is_ok()) {
                (self.tell)(healthy);
                if self.kind == ProbeKind::Startup {
                    return;
                }
            }
            ticks.tick().await;
            result = self.once().await;
        }
    }

    async fn once(&self) -> Result<Option<String>, String> {
        let timeout = u64::try_from(self.probe.timeout_seconds.unwrap_or(0)).unwrap_or(0).max(1);
        self.check.as_ref().map_err(Clone::clone)?.run(&self.target, Duration::from_secs(timeout)).await
    }

    fn say(&self, result: &Result<Option<String>, String>) {
        let (reason, text) = match result {
            Ok(None) => return,
            Ok(Some(warning)) => ("ProbeWarning", format!("{} probe warning: {warning}", title(self.kind))),
            Err(message) => ("Unhealthy", format!("{} probe failed: {message}", title(self.kind))),
        };
        let path = field_path(&self.pod, &self.name);
        self.recorder.report(&self.pod, report(path, true, reason, text));
    }
}

/// What is left of the pause before the first check. It counts from the start of the container, however
/// late probing begins: after a startup probe, or anew by another agent.
fn delay_left(probe: &Probe, started: Timestamp, now: Timestamp) -> Duration {
    seconds(probe.initial_delay_seconds).saturating_sub(since(now, started))
}

fn seconds(value: Option<i32>) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(0)).unwrap_or(0))
}

fn title(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Readiness => "Readiness",
        ProbeKind::Liveness => "Liveness",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initial_delay_counts_from_the_start_of_the_container() {
        let probe = Probe { initial_delay_seconds: Some(120), ..Probe::default() };
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        for (now, left) in [(0, 120), (50, 70), (120, 0), (200, 0), (-5, 120)] {
            assert_eq!(delay_left(&probe, at(0), at(now)), Duration::from_secs(left), "{now}");
        }
        assert_eq!(delay_left(&Probe::default(), at(0), at(0)), Duration::ZERO);
    }

    #[test]
    fn thresholds() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let results = [true, true, true, false, false, true, false, false, false, false, true, true];
        let told: Vec<Option<bool>> = results.map(|result| counter.count(result)).to_vec();
        let (no, up, down) = (None, Some(true), Some(false));
        assert_eq!(told, [no, up, no, no, no, no, no, no, down, no, no, up]);
    }
}
