//! What this node must do now for one pod: a pure function of the pod, of what is observed of it,
//! and of the time.
//!
//! Read by the pod's worker (`worker.rs`), which performs the actions and tells `observed.rs` what
//! came of them. The rules are those of
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Probe};

use crate::backoff::{later, since};
use crate::pod::eviction;
use crate::pod::observed::{
    Blocked, ContainerSeen, Ended, PodObserved, ProbeKind, Role, Run, Step, Verdict, all_containers, reason,
};
use crate::volume::content::needs_address;

/// What a container has after its stop signal at least, however long its preStop hook has taken.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How often SIGKILL is repeated to a container that does not end.
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// How long a status that shows nothing but a quick start under way is held back, so that such a
/// start costs one status write.
pub const QUICK_START: Duration = Duration::from_millis(100);

/// What to do now, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In any order.
    pub actions: Vec<Action>,
    /// The earliest time at which the plan changes by itself.
    pub look_again: Option<Timestamp>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start the sandbox and give it an address.
    StartSandbox,
    /// Put all volumes in place.
    SetUpVolumes,
    /// Get the image of a container and start a run of it.
    Start {
        /// Container.
        name: String,
        /// Which run, from 0.
        attempt: u32,
    },
    /// Report that a container is in a pause before its next try.
    BackOff {
        /// Container.
        name: String,
    },
    /// Begin the graceful end of a run: the preStop hook.
    BeginStop {
        /// Container.
        name: String,
        /// For the Event.
        message: String,
        /// What the hook and the signal have together.
        grace: Duration,
    },
    /// Send the stop signal.
    Terminate {
        /// Container.
        name: String,
    },
    /// Send SIGKILL to all processes of a container.
    Kill {
        /// Container.
        name: String,
    },
    /// Give the pod up.
    GiveUp(Verdict),
    /// Stop what is under way for the pod, a start or the setting up of volumes, as far as that is possible.
    CancelUnderWay,
    /// Remove all that the pod has on this node: sandbox, address, mounts, directories.
    TearDown,
    /// Write the last status and tell the API server to forget the pod.
    Release,
    /// There is nothing left to do for this pod, ever.
    Finish,
}

/// Decides.
pub fn plan(pod: &Pod, seen: &PodObserved, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    if let Some(verdict) = verdict(pod, spec, seen, now, &mut plan) {
        plan.actions.push(Action::GiveUp(verdict));
        return plan;
    }
    if must_end(pod, spec, seen) {
        end(pod, seen, now, &mut plan);
    } else {
        run(pod, spec, seen, now, &mut plan);
    }
    plan
}

/// True if the pod is to be ended or has ended by itself.
pub fn must_end(pod: &Pod, spec: &PodSpec, seen: &PodObserved) -> bool {
    seen.vanished
        || pod.metadata.deletion_timestamp.is_some()
        || seen.verdict.is_some()
        || phase_is_terminal(pod)
        || has_ended(pod, spec, seen)
}

/// True if the API says that the pod has ended for good.
pub fn phase_is_terminal(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(is_terminal)
}

/// True if a pod of this status has ended for good.
pub fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// True if every main container has ended for good, or an init container has failed for good.
pub fn has_ended(pod: &Pod, spec: &PodSpec, seen: &PodObserved) -> bool {
    let ended = |role: Role, container: &Container| {
        let state = seen.containers.get(&container.name)?;
        let Run::Ended(ended) = &state.run else { return None };
        (!state.stale && !restarts(spec, role, container, ended.code)).then_some(ended.code)
    };
    let mut mains = true;
    for (role, container) in all_containers(pod) {
        match role {
            Role::Init if ended(role, container).is_some_and(|code| code != 0) => return true,
            Role::Main => mains &= ended(role, container).is_some(),
            Role::Init | Role::Sidecar => {}
        }
    }
    mains
}

/// True if a container that ended with this code is to run again.
pub fn restarts(spec: &PodSpec, role: Role, container: &Container, code: i32) -> bool {
    let pod_policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let policy = container.restart_policy.as_deref().unwrap_or(pod_policy);
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (_, "Never") => false,
        // An init container that succeeded is done, whatever the policy.
        (Role::Init, _) | (_, "OnFailure") => code != 0,
        (Role::Main, _) => true,
    }
}

/// The pause before a container's next run, if it is in one: its length and its end.
pub fn restart_pause(seen: &ContainerSeen, ended: &Ended, now: Timestamp) -> Option<(Duration, Timestamp)> {
    let restarts = seen.restarts?;
    let until = restarts.until(ended.finished_at);
    (until > now).then_some((restarts.delay, until))
}

/// Seconds between the stop signal and SIGKILL when the pod ends.
pub fn grace_period(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref();
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .filter(|_| pod.metadata.deletion_timestamp.is_some())
        .or_else(|| spec.and_then(|s| s.termination_grace_period_seconds))
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// True if all that changes at the moment is a start that has only just begun.
pub fn is_quick_start(seen: &PodObserved, began: Timestamp, now: Timestamp) -> bool {
    let doing = |step: &Step| matches!(step, Step::Undone | Step::Doing { tries: 0 });
    let starting = seen.starting.is_some() || doing(&seen.sandbox) || doing(&seen.volumes);
    let blocked = seen.containers.values().any(|c| c.blocked.is_some());
    starting && !blocked && seen.teardown == Step::Undone && since(now, began) < QUICK_START
}

fn verdict(
    pod: &Pod,
    spec: &PodSpec,
    seen: &PodObserved,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Verdict> {
    if must_end(pod, spec, seen) {
        return None;
    }
    if let Some(message) = foreign(seen) {
        return Some(Verdict { reason: reason::IMAGE_PLATFORM_MISMATCH.into(), message });
    }
    let seconds = u64::try_from(spec.active_deadline_seconds?).unwrap_or(0);
    let deadline = later(seen.start_time, Duration::from_secs(seconds));
    if now < deadline {
        plan.look_again_at(deadline);
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    Some(Verdict { reason: "DeadlineExceeded".into(), message })
}

/// Why a pod that has not begun cannot run on a machine like this: it is given up, so that its
/// controller makes another, which the scheduler sends elsewhere.
fn foreign(seen: &PodObserved) -> Option<String> {
    if seen.containers.values().any(|c| c.runs > 0) {
        return None;
    }
    let mut blocked = seen.containers.values().filter_map(|c| c.blocked.as_ref());
    blocked.find(|b| b.reason == reason::IMAGE_PLATFORM_MISMATCH).map(|b| b.message.clone())
}

/// The pod is to run: sandbox and volumes first, then init containers one by one, then the rest.
fn run(pod: &Pod, spec: &PodSpec, seen: &PodObserved, now: Timestamp, plan: &mut Plan) {
    let has_address = seen.sandbox == Step::Done;
    let steps = [
        (&seen.sandbox, Action::StartSandbox, true),
        (&seen.volumes, Action::SetUpVolumes, has_address || !needs_address(pod)),
    ];
    for (step, action, possible) in steps {
        if possible && step.is_due(now) {
            plan.actions.push(action);
        }
        plan.look_again_at(step.retry_at().filter(|at| *at > now));
    }
    if seen.sandbox != Step::Done || seen.volumes != Step::Done {
        return;
    }
    let mut may_start = seen.starting.is_none();
    for (role, container) in all_containers(pod) {
        let Some(state) = seen.containers.get(&container.name) else { continue };
        if let (Run::Running { .. }, Some((why, grace))) = (&state.run, must_stop(pod, container, state)) {
            stop(container, state, &why, grace, true, now, plan);
        } else if may_start && wants_run(spec, role, container, state) {
            may_start = !start_when_due(container, state, now, plan);
        }
        if !lets_next_begin(spec, role, container, state) {
            return;
        }
    }
}

/// Why a container of a pod that is to run is to be ended, and how long it has for that.
fn must_stop(pod: &Pod, container: &Container, state: &ContainerSeen) -> Option<(String, Duration)> {
    if let Some(kind) = state.unhealthy {
        let (probe, word) = match kind {
            ProbeKind::Startup => (container.startup_probe.as_ref(), "startup"),
            ProbeKind::Liveness | ProbeKind::Readiness => (container.liveness_probe.as_ref(), "liveness"),
        };
        let why = format!("Container {} failed {word} probe, will be restarted", container.name);
        return Some((why, probe.and_then(probe_grace).unwrap_or_else(|| grace_period(pod))));
    }
    let why = || format!("Container {} definition changed, will be restarted", container.name);
    state.is_redefined(container).then(|| (why(), grace_period(pod)))
}

/// True if a container has no run and is to have one.
fn wants_run(spec: &PodSpec, role: Role, container: &Container, state: &ContainerSeen) -> bool {
    match &state.run {
        Run::Pending => true,
        Run::Running { .. } => false,
        Run::Ended(ended) => state.stale || restarts(spec, role, container, ended.code),
    }
}

/// True if the containers after this one may be started.
fn lets_next_begin(spec: &PodSpec, role: Role, container: &Container, state: &ContainerSeen) -> bool {
    match (role, &state.run) {
        (Role::Main, _) => true,
        (Role::Init, Run::Ended(ended)) => !state.stale && !restarts(spec, role, container, ended.code),
        (Role::Init, _) => false,
        (Role::Sidecar, Run::Running { .. }) => container.startup_probe.is_none() || state.started,
        // A sidecar that has run once holds nobody back while it restarts.
        (Role::Sidecar, _) => state.runs > 0 && !state.stale,
    }
}

/// Plans the start of a container unless it is in a pause. True if it was planned.
fn start_when_due(container: &Container, state: &ContainerSeen, now: Timestamp, plan: &mut Plan) -> bool {
    let name = container.name.clone();
    if let Some(due) = state.image_back_off_due(now) {
        if due <= now {
            plan.actions.push(Action::BackOff { name: name.clone() });
        } else {
            plan.look_again_at(due);
        }
    }
    if let Some(Blocked { until, .. }) = state.blocked
        && until > now
    {
        plan.look_again_at(until);
        return false;
    }
    if let (Run::Ended(ended), None, false) = (&state.run, &state.blocked, state.stale)
        && let Some((_, until)) = restart_pause(state, ended, now)
    {
        if !state.backing_off {
            plan.actions.push(Action::BackOff { name });
        }
        plan.look_again_at(until);
        return false;
    }
    plan.actions.push(Action::Start { name, attempt: state.runs });
    true
}

/// The pod is to end: its containers, then its sandbox, then its object if it is being deleted.
fn end(pod: &Pod, seen: &PodObserved, now: Timestamp, plan: &mut Plan) {
    if seen.starting.is_some() || matches!(seen.volumes, Step::Doing { .. }) {
        plan.actions.push(Action::CancelUnderWay);
    }
    let evicted = seen.verdict.as_ref().is_some_and(|verdict| verdict.reason == eviction::REASON);
    let grace = if evicted { eviction::GRACE.min(grace_period(pod)) } else { grace_period(pod) };
    let running = |wanted: fn(Role) -> bool| {
        all_containers(pod).filter(move |(role, _)| wanted(*role)).filter_map(|(_, container)| {
            let state = seen.containers.get(&container.name)?;
            matches!(state.run, Run::Running { .. }).then_some((container, state))
        })
    };
    let why = |container: &Container| format!("Stopping container {}", container.name);
    let mut waiting = seen.starting.is_some();
    for (container, state) in running(|role| role != Role::Sidecar) {
        waiting = true;
        stop(container, state, &why(container), grace, true, now, plan);
    }
    // Sidecars serve what has begun after them until that has ended: the last goes first.
    // <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#termination-with-sidecars>
    let sidecars: Vec<_> = running(|role| role == Role::Sidecar).collect();
    for (container, state) in sidecars.into_iter().rev() {
        stop(container, state, &why(container), grace, !waiting, now, plan);
        waiting = true;
    }
    if waiting || matches!(seen.sandbox, Step::Doing { .. }) || matches!(seen.volumes, Step::Doing { .. }) {
        return;
    }
    if seen.teardown != Step::Done {
        step(&seen.teardown, Action::TearDown, now, plan);
    } else if seen.vanished || seen.released == Step::Done {
        plan.actions.push(Action::Finish);
    } else if pod.metadata.deletion_timestamp.is_some() {
        step(&seen.released, Action::Release, now, plan);
    }
}

fn step(step: &Step, action: Action, now: Timestamp, plan: &mut Plan) {
    if step.is_due(now) {
        plan.actions.push(action);
    } else {
        plan.look_again_at(step.retry_at());
    }
}

/// One step further in the graceful end of a run: hook, signal when it is its turn, SIGKILL when the
/// grace is over.
fn stop(
    container: &Container,
    state: &ContainerSeen,
    why: &str,
    grace: Duration,
    its_turn: bool,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = container.name.clone();
    let Some(stop) = &state.stop else {
        plan.actions.push(Action::BeginStop { name, message: why.to_owned(), grace });
        return;
    };
    if let Some(killed) = stop.killed {
        let again = later(killed, KILL_AGAIN);
        if now < again {
            plan.look_again_at(again);
        } else {
            plan.actions.push(Action::Kill { name });
        }
        return;
    }
    let over = later(stop.begun, grace);
    match stop.signalled {
        // Nobody waits for a pod that is deleted by force.
        _ if grace.is_zero() => plan.actions.push(Action::Kill { name }),
        None if (stop.hook_done && its_turn) || now >= over => plan.actions.push(Action::Terminate { name }),
        None => plan.look_again_at(over),
        Some(signalled) => {
            let deadline = over.max(later(signalled, LEAST_GRACE));
            if now >= deadline {
                plan.actions.push(Action::Kill { name });
            } else {
                plan.look_again_at(deadline);
            }
        }
    }
}

fn probe_grace(probe: &Probe) -> Option<Duration> {
    let seconds = probe.termination_grace_period_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

impl Plan {
    fn look_again_at(&mut self, at: impl Into<Option<Timestamp>>) {
        if let Some(at) = at.into() {
            self.look_again = Some(self.look_again.map_or(at, |old| old.min(at)));
        }
    }
}

#[cfg(test)]
mod tests;
