//! A pod's status as the API shows it: a pure function of the pod, of what is observed and of
//! the time.
//!
//! Fed and written by the pod's worker (`worker.rs`). Conditions that others own are kept.
//! Source: <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proa_api::condition;
use serde_json::{Map, Value};

use crate::backoff::go_duration;
use crate::pod::last_words;
use crate::pod::observed::{
    ContainerSeen, Ended, PodObserved, Role, Run, Step, all_containers, full_name, reason,
};
use crate::pod::plan::{has_ended, phase_is_terminal, restart_pause, restarts};

/// The status that the API server should show now.
pub fn status(pod: &Pod, seen: &PodObserved, host: IpAddr, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    let Some(spec) = &pod.spec else { return status };
    let ending = seen.teardown == Step::Done;
    if !is_rejected(pod, seen) {
        status.init_container_statuses = statuses(pod, spec, seen, now, |role| role != Role::Main);
        status.container_statuses = statuses(pod, spec, seen, now, |role| role == Role::Main);
    }
    let phase = phase(pod, spec, seen, ending);
    if let Some(verdict) = &seen.verdict {
        status.reason = Some(verdict.reason.clone().into_owned());
        status.message = Some(verdict.message.clone());
    }
    status.phase = Some(phase.to_owned());
    status.host_ip = Some(host.to_string());
    status.host_ips = Some(vec![HostIP { ip: host.to_string() }]);
    if let Some(ip) = seen.ip {
        status.pod_ip = Some(ip.to_string());
        status.pod_ips = Some(vec![PodIP { ip: ip.to_string() }]);
    }
    status.start_time = Some(Time(seen.start_time));
    status.observed_generation = pod.metadata.generation;
    let mut conditions = status.conditions.clone();
    for new in pod_conditions(pod, spec, seen, phase, &status) {
        condition::set(&mut conditions, stamped(new, now));
    }
    if condition::find(conditions.as_ref(), "PodScheduled").is_none() {
        condition::set(&mut conditions, stamped(condition_of("PodScheduled", Ok(())), now));
    }
    status.conditions = conditions;
    status
}

/// True if the pod was given up before anything of it was begun: its containers have no state.
fn is_rejected(pod: &Pod, seen: &PodObserved) -> bool {
    let begun = seen.sandbox != Step::Undone || seen.containers.values().any(|c| c.runs > 0);
    !begun && (seen.verdict.is_some() || phase_is_terminal(pod))
}

/// The JSON merge patch (RFC 7386) that makes `new` of `old`; `None` if they are the same.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        let change = match old.get(key) {
            Some(before) => merge_patch(before, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// True if a container counts as ready. A process that exists is not yet one that serves: the
/// answer to its start tells that.
fn is_ready(seen: &PodObserved, container: &Container, state: &ContainerSeen) -> bool {
    let running = matches!(state.run, Run::Running { .. }) && !seen.is_starting(&container.name);
    running && is_started(container, state) && (container.readiness_probe.is_none() || state.ready)
}

fn is_started(container: &Container, state: &ContainerSeen) -> bool {
    matches!(state.run, Run::Running { .. }) && (container.startup_probe.is_none() || state.started)
}

fn statuses(
    pod: &Pod,
    spec: &PodSpec,
    seen: &PodObserved,
    now: Timestamp,
    wanted: fn(Role) -> bool,
) -> Option<Vec<ContainerStatus>> {
    let list: Vec<_> = all_containers(pod)
        .filter(|(role, _)| wanted(*role))
        .filter_map(|(role, container)| {
            let state = seen.containers.get(&container.name)?;
            Some(container_status(pod, spec, seen, role, container, state, now))
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

fn container_status(
    pod: &Pod,
    spec: &PodSpec,
    seen: &PodObserved,
    role: Role,
    container: &Container,
    state: &ContainerSeen,
    now: Timestamp,
) -> ContainerStatus {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let (now_state, last_state) = states(pod, spec, seen, role, container, state, now);
    let shown_run = match (&now_state.running, &now_state.terminated) {
        (None, None) => state.last_ended().map(|ended| ended.attempt),
        _ => state.runs.checked_sub(1),
    };
    let ready = match (role, &state.run) {
        // An init container is ready once it has succeeded.
        (Role::Init, Run::Ended(ended)) => ended.code == 0 && !state.stale,
        (Role::Init, _) => false,
        _ => is_ready(seen, container, state),
    };
    ContainerStatus {
        name: container.name.clone(),
        state: Some(now_state),
        last_state,
        ready,
        started: Some(is_started(container, state)),
        restart_count: i32::try_from(state.runs.saturating_sub(1)).unwrap_or(i32::MAX),
        image: match &state.image {
            Some(image) => image.reference.clone(),
            None => container.image.clone().unwrap_or_default(),
        },
        image_id: state.image.as_ref().map(|i| i.id.clone()).unwrap_or_default(),
        container_id: shown_run.map(|attempt| container_id(uid, &container.name, attempt)),
        ..ContainerStatus::default()
    }
}

/// `state` and `lastState` of a container.
fn states(
    pod: &Pod,
    spec: &PodSpec,
    seen: &PodObserved,
    role: Role,
    container: &Container,
    state: &ContainerSeen,
    now: Timestamp,
) -> (ContainerState, Option<ContainerState>) {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let containers = all_containers(pod).count();
    let end = |ended: &Ended| {
        let mut ended = ended.clone();
        last_words::cut(&mut ended.message, containers);
        terminated(uid, &container.name, &ended)
    };
    let last = state.last.as_ref().map(end);
    let over = seen.teardown != Step::Undone || seen.verdict.is_some() || phase_is_terminal(pod);
    match &state.run {
        Run::Running { since } => {
            let running = ContainerStateRunning { started_at: Some(Time(*since)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, last)
        }
        Run::Ended(ended) => {
            let again = !over && (state.stale || restarts(spec, role, container, ended.code));
            match waiting_between(pod, role, &container.name, state, ended, now).filter(|_| again) {
                Some((reason, message)) => (waiting(reason, message), Some(end(ended))),
                None => (end(ended), last),
            }
        }
        Run::Pending => match &state.blocked {
            Some(blocked) => (waiting(blocked.reason, blocked.message.clone()), None),
            None => {
                let has_init = all_containers(pod).any(|(role, _)| role != Role::Main);
                let reason = if has_init { reason::POD_INITIALIZING } else { reason::CONTAINER_CREATING };
                (waiting(reason, String::new()), None)
            }
        },
    }
}

fn waiting_between(
    pod: &Pod,
    role: Role,
    name: &str,
    state: &ContainerSeen,
    ended: &Ended,
    now: Timestamp,
) -> Option<(&'static str, String)> {
    if let Some(blocked) = &state.blocked {
        return Some((blocked.reason, blocked.message.clone()));
    }
    if state.stale {
        // A main container whose image was changed shows its end until the next run begins.
        return (role != Role::Main).then(|| (reason::POD_INITIALIZING, String::new()));
    }
    let (delay, _) = restart_pause(state, ended, now)?;
    let delay = go_duration(delay);
    let message = format!("back-off {delay} restarting failed container={name} pod={}", full_name(pod));
    Some((reason::CRASH_LOOP_BACK_OFF, message))
}

fn waiting(reason: &str, message: String) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: Some(message).filter(|m| !m.is_empty()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(uid: &str, name: &str, ended: &Ended) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: ended.code,
        reason: Some(ended.reason.clone()).filter(|r| !r.is_empty()),
        message: Some(ended.message.clone()).filter(|m| !m.is_empty()),
        started_at: Some(Time(ended.started_at)),
        finished_at: Some(Time(ended.finished_at)),
        container_id: Some(container_id(uid, name, ended.attempt)),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// `proa://<pod uid>/<container>-<attempt>`.
pub fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    format!("proa://{uid}/{name}-{attempt}")
}

fn phase(pod: &Pod, spec: &PodSpec, seen: &PodObserved, ending: bool) -> &'static str {
    let old = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    match old {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if seen.verdict.is_some() {
        return "Failed";
    }
    let has_run = seen.containers.values().any(|c| c.runs > 0);
    if has_ended(pod, spec, seen) || ending && has_run {
        let succeeded = |(role, c): (Role, &Container)| {
            let run = seen.containers.get(&c.name).map(|state| &state.run);
            role == Role::Sidecar || matches!(run, Some(Run::Ended(ended)) if ended.code == 0)
        };
        return if all_containers(pod).all(succeeded) { "Succeeded" } else { "Failed" };
    }
    let mains_begun = all_containers(pod).filter(|(role, _)| *role == Role::Main).all(|(_, container)| {
        let state = seen.containers.get(&container.name);
        state.is_some_and(|state| state.runs > 0)
    });
    // A pod that has once run does not go back, such as when its sandbox is made again.
    if mains_begun || old == Some("Running") { "Running" } else { "Pending" }
}

type Verdict = Result<(), (&'static str, String)>;

fn pod_conditions(
    pod: &Pod,
    spec: &PodSpec,
    seen: &PodObserved,
    phase: &str,
    status: &PodStatus,
) -> Vec<PodCondition> {
    let names = |list: Vec<&str>| format!("[{}]", list.join(" "));
    let incomplete: Vec<&str> = all_containers(pod)
        .filter(|(role, container)| {
            let state = seen.containers.get(&container.name);
            let done = |state: &ContainerSeen| match role {
                Role::Init => matches!(&state.run, Run::Ended(e) if e.code == 0) && !state.stale,
                Role::Sidecar => is_started(container, state) || matches!(state.run, Run::Ended(_)),
                Role::Main => true,
            };
            !state.is_some_and(done)
        })
        .map(|(_, container)| container.name.as_str())
        .collect();
    let unready: Vec<&str> = all_containers(pod)
        .filter(|(role, _)| *role != Role::Init)
        .filter(|(_, c)| !seen.containers.get(&c.name).is_some_and(|state| is_ready(seen, c, state)))
        .map(|(_, container)| container.name.as_str())
        .collect();
    let initialized = match phase {
        "Succeeded" => Err(("PodCompleted", String::new())),
        _ if incomplete.is_empty() => Ok(()),
        _ => {
            let message = format!("containers with incomplete status: {}", names(incomplete));
            Err(("ContainersNotInitialized", message))
        }
    };
    let containers_ready = match phase {
        "Succeeded" => Err(("PodCompleted", String::new())),
        "Failed" => Err(("PodFailed", String::new())),
        _ if unready.is_empty() => Ok(()),
        _ => Err(("ContainersNotReady", format!("containers with unready status: {}", names(unready)))),
    };
    let ready = containers_ready.clone().and_then(|()| readiness_gates(spec, status));
    let sandbox = if seen.sandbox == Step::Done && seen.teardown == Step::Undone {
        Ok(())
    } else {
        Err(("", String::new()))
    };
    let mut initialized = condition_of("Initialized", initialized);
    if phase == "Succeeded" {
        // It was initialized, and its reason tells that it is over.
        initialized.status = "True".to_owned();
    }
    vec![
        condition_of("PodReadyToStartContainers", sandbox),
        initialized,
        condition_of("Ready", ready),
        condition_of("ContainersReady", containers_ready),
    ]
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> Verdict {
    let mut problems = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match condition::find(status.conditions.as_ref(), type_) {
            None => {
                problems.push(format!(
                    "corresponding condition of pod readiness gate \"{type_}\" does not exist."
                ));
            }
            Some(found) if found.status != "True" => problems.push(format!(
                "the status of pod readiness gate \"{type_}\" is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(("ReadinessGatesNotReady", problems.join(", "))) }
}

fn condition_of(type_: &str, verdict: Verdict) -> PodCondition {
    let (status, reason, message) = match verdict {
        Ok(()) => ("True", None, None),
        Err((reason, message)) => ("False", Some(reason.to_owned()), Some(message)),
    };
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.filter(|r| !r.is_empty()),
        message: message.filter(|m| !m.is_empty()),
        ..PodCondition::default()
    }
}

fn stamped(condition: PodCondition, now: Timestamp) -> PodCondition {
    PodCondition { last_transition_time: Some(Time(now)), ..condition }
}

impl ContainerSeen {
    fn last_ended(&self) -> Option<&Ended> {
        match &self.run {
            Run::Ended(ended) => Some(ended),
            _ => self.last.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests;
