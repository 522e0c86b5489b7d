//! How what is observed of a pod changes with each thing that its worker learns. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proa_sandbox::protocol;

use super::{
    Blocked, CONFIG_RETRY, Ended, Outcome, PodObserved, ProbeKind, Role, Run, Starting, Step, Stop, Verdict,
    all_containers, field_path, full_name, image_of, lost, millis, parse_id, reason,
};
use crate::backoff::{Backoff, later};
use crate::event::{Report, report};
use crate::pod::eviction;

impl PodObserved {
    /// Takes over a sandbox that was found again: what it says about its containers is true,
    /// and a run that the status shows as running and the sandbox does not know was lost.
    pub fn adopt(&mut self, pod: &Pod, ip: IpAddr, containers: &[protocol::ContainerState], now: Timestamp) {
        self.sandbox = Step::Done;
        self.ip = Some(ip);
        for state in containers {
            self.container_changed(state, now);
        }
        let Some(status) = &pod.status else { return };
        let lists = [&status.init_container_statuses, &status.container_statuses];
        for status in lists.into_iter().flatten().flatten() {
            let Some(seen) = self.containers.get_mut(&status.name) else { continue };
            if matches!(seen.run, Run::Running { .. }) {
                seen.started = status.started.unwrap_or(false);
                seen.ready = status.ready;
            }
        }
    }

    /// Takes in what was learned, and tells which Events are due.
    pub fn apply(&mut self, pod: &Pod, outcome: Outcome, now: Timestamp) -> Vec<Report> {
        match outcome {
            Outcome::SandboxUp(ip) => {
                self.sandbox = Step::Done;
                self.ip = Some(ip);
            }
            Outcome::SandboxFailed(message) => {
                let text = format!("Failed to create pod sandbox: {message}");
                self.sandbox.fail(message, now);
                return vec![report(None, true, "FailedCreatePodSandBox", text)];
            }
            Outcome::SandboxLost => return self.sandbox_gone(pod, now),
            Outcome::VolumesReady => self.volumes = Step::Done,
            Outcome::VolumesCancelled => self.volumes = Step::Undone,
            Outcome::VolumesFailed(message) => {
                self.volumes.fail(message.clone(), now);
                return vec![report(None, true, "FailedMount", message)];
            }
            Outcome::Image(name, image) => {
                if let Some(seen) = self.containers.get_mut(&name) {
                    seen.image = Some(image);
                    seen.pulls = None;
                }
            }
            Outcome::Container(state) => {
                self.container_changed(&state, now);
                self.end_start();
            }
            Outcome::Started(name) => {
                if let Some(starting) = &mut self.starting {
                    starting.answered = true;
                }
                self.end_start();
                let path = field_path(pod, &name);
                return vec![report(path, false, "Started", format!("Started container {name}"))];
            }
            Outcome::StartBlocked { name, reason, message } => {
                return self.start_blocked(pod, &name, reason, message, now);
            }
            Outcome::StartFailed { name, attempt, message } => {
                self.starting = None;
                self.start_failed(&name, attempt, &message, now);
                let path = field_path(pod, &name);
                return vec![report(path, true, "Failed", format!("Error: {message}"))];
            }
            Outcome::StartCancelled => self.starting = None,
            Outcome::HookDone(name) => {
                if let Some(stop) = self.containers.get_mut(&name).and_then(|c| c.stop.as_mut()) {
                    stop.hook_done = true;
                }
            }
            Outcome::Probed { name, attempt, kind, healthy } => self.probed(&name, attempt, kind, healthy),
            Outcome::Exceeds(message) => {
                if self.verdict.is_none() {
                    self.verdict =
                        Some(Verdict { reason: eviction::REASON.into(), message: message.clone() });
                    return vec![report(None, true, eviction::REASON, message)];
                }
            }
            Outcome::TornDown => self.teardown = Step::Done,
            Outcome::TearDownFailed(message) => {
                self.teardown.fail(message.clone(), now);
                return vec![report(None, true, "FailedKillPod", format!("error killing pod: {message}"))];
            }
            Outcome::Released => self.released = Step::Done,
            Outcome::ReleaseFailed(message) => self.released.fail(message, now),
        }
        Vec::new()
    }

    /// Notes that a container's start begins now.
    pub fn begin_start(&mut self, name: &str, now: Timestamp) {
        let Some(seen) = self.containers.get_mut(name) else { return };
        self.starting = Some(Starting { name: name.to_owned(), attempt: seen.runs, answered: false });
        // A run that was blocked has already been counted against the back-off.
        if let (Run::Ended(ended), None) = (&seen.run, &seen.blocked) {
            seen.restarts = Some(Backoff::next(seen.restarts, ended.finished_at, now));
        }
        seen.backing_off = false;
    }

    /// Notes that a container's graceful end begins now.
    pub fn begin_stop(
        &mut self,
        pod: &Pod,
        name: &str,
        message: &str,
        has_hook: bool,
        now: Timestamp,
    ) -> Report {
        let container = all_containers(pod).map(|(_, container)| container).find(|c| c.name == name);
        if let (Some(seen), Some(container)) = (self.containers.get_mut(name), container) {
            let redefined = seen.is_redefined(container);
            let hook_done = !has_hook;
            seen.stop = Some(Stop { begun: now, hook_done, signalled: None, killed: None, redefined });
        }
        report(field_path(pod, name), false, "Killing", message.to_owned())
    }

    /// Notes that a container is in a pause that has not been reported yet.
    pub fn begin_back_off(&mut self, pod: &Pod, name: &str) -> Vec<Report> {
        let path = field_path(pod, name);
        let Some(seen) = self.containers.get_mut(name) else { return Vec::new() };
        match &mut seen.blocked {
            Some(blocked) => {
                let image = image_of(pod, name);
                let text = format!("Back-off pulling image \"{image}\"");
                blocked.message = format!("{text}: {}: {}", blocked.reason, blocked.message);
                blocked.reason = reason::IMAGE_PULL_BACK_OFF;
                vec![
                    report(path.clone(), false, "BackOff", text),
                    report(path, true, "Failed", "Error: ImagePullBackOff".to_owned()),
                ]
            }
            None => {
                seen.backing_off = true;
                let text = format!("Back-off restarting failed container {name} in pod {}", full_name(pod));
                vec![report(path, true, "BackOff", text)]
            }
        }
    }

    /// Ends the start that is under way if it was answered and its run is known.
    fn end_start(&mut self) {
        let runs = |name: &str| self.containers.get(name).map_or(u32::MAX, |seen| seen.runs);
        self.starting.take_if(|starting| starting.answered && runs(&starting.name) > starting.attempt);
    }

    fn container_changed(&mut self, state: &protocol::ContainerState, now: Timestamp) {
        let Some((name, attempt)) = parse_id(&state.id) else { return };
        let Some(seen) = self.containers.get_mut(name) else { return };
        let started_at = millis(state.started_at_ms, now);
        let ended = state.exit.as_ref().map(|exit| Ended {
            attempt,
            code: exit.code,
            reason: exit.reason.clone(),
            message: exit.message.clone(),
            started_at,
            finished_at: millis(exit.finished_at_ms, now),
        });
        if attempt + 1 < seen.runs {
            // Only the run just before the newest is of interest.
            if attempt + 2 == seen.runs && ended.is_some() {
                seen.last = ended;
            }
            return;
        }
        seen.begin_run(attempt);
        match ended {
            Some(ended) => {
                if seen.run != Run::Ended(ended.clone()) {
                    seen.end(ended);
                }
            }
            None => seen.run = Run::Running { since: started_at },
        }
    }

    fn start_failed(&mut self, name: &str, attempt: u32, message: &str, now: Timestamp) {
        let Some(seen) = self.containers.get_mut(name) else { return };
        seen.begin_run(attempt);
        seen.end(Ended {
            attempt,
            code: 128,
            reason: "StartError".to_owned(),
            message: message.to_owned(),
            started_at: now,
            finished_at: now,
        });
    }

    fn start_blocked(
        &mut self,
        pod: &Pod,
        name: &str,
        reason: &'static str,
        message: String,
        now: Timestamp,
    ) -> Vec<Report> {
        self.starting = None;
        let path = field_path(pod, name);
        let Some(seen) = self.containers.get_mut(name) else { return Vec::new() };
        let backs_off =
            [reason::ERR_IMAGE_PULL, reason::IMAGE_PLATFORM_MISMATCH, reason::CREATE_CONTAINER_ERROR];
        let pause = if backs_off.contains(&reason) {
            let pulls = Backoff::next(seen.pulls, now, now);
            seen.pulls = Some(pulls);
            pulls.delay
        } else {
            CONFIG_RETRY
        };
        let mut reports = Vec::new();
        match reason {
            // The pull itself has been reported with more words.
            reason::ERR_IMAGE_PULL => {
                reports.push(report(path, true, "Failed", format!("Error: {reason}")));
            }
            reason::INVALID_IMAGE_NAME => {
                reports.push(report(path, true, "InspectFailed", message.clone()));
            }
            reason::ERR_IMAGE_NEVER_PULL => {
                reports.push(report(path, true, reason, message.clone()));
            }
            _ => reports.push(report(path, true, "Failed", format!("Error: {message}"))),
        }
        seen.blocked = Some(Blocked { reason, message, since: now, until: later(now, pause) });
        reports
    }

    fn probed(&mut self, name: &str, attempt: u32, kind: ProbeKind, healthy: bool) {
        let Some(seen) = self.containers.get_mut(name) else { return };
        if attempt + 1 != seen.runs || !matches!(seen.run, Run::Running { .. }) {
            return;
        }
        match (kind, healthy) {
            (ProbeKind::Startup, true) => seen.started = true,
            (ProbeKind::Readiness, healthy) => seen.ready = healthy,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => seen.unhealthy = Some(kind),
        }
    }

    fn sandbox_gone(&mut self, pod: &Pod, now: Timestamp) -> Vec<Report> {
        let had_run = self.containers.values().any(|seen| seen.runs > 0);
        self.sandbox = Step::Undone;
        // It will not tell of a run any more.
        self.starting.take_if(|starting| starting.answered);
        for seen in self.containers.values_mut() {
            if let Run::Running { since } = seen.run {
                let attempt = seen.runs.saturating_sub(1);
                let killed =
                    Ended { reason: "Error".to_owned(), message: String::new(), ..lost(attempt, since, now) };
                seen.end(killed);
            }
        }
        for (role, container) in all_containers(pod) {
            if let (Role::Init, Some(seen)) = (role, self.containers.get_mut(&container.name)) {
                seen.stale = seen.runs > 0;
            }
        }
        if !had_run {
            return Vec::new();
        }
        let text = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        vec![report(None, false, "SandboxChanged", text)]
    }
}
