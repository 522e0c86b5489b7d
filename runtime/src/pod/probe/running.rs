//! The probes of one pod's containers, as long as these run.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio_util::task::AbortOnDropHandle;

use super::check::Target;
use super::task::{About, of_kind, start};
use crate::engine::Sandbox;
use crate::event::Recorder;
use crate::pod::observed::{Outcome, PodObserved, ProbeKind, Run, all_containers};

/// By container. Dropping it ends them.
#[derive(Default)]
pub struct Probes(HashMap<String, Probing>);

/// The probes of one run.
struct Probing {
    run: u32,
    started: bool,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Probes {
    /// Ends all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Probes each run as long as it lasts: first for its startup, then for the rest. `tell` hears of
    /// each change of state.
    pub fn keep(
        &mut self,
        pod: &Arc<Pod>,
        seen: &PodObserved,
        sandbox: Option<&Sandbox>,
        recorder: &Recorder,
        tell: &(impl Fn(Outcome) + Clone + Send + Sync + 'static),
    ) {
        for (_, container) in all_containers(pod) {
            let Some(found) = seen.containers.get(&container.name) else { continue };
            let name = &container.name;
            let since = match found.run {
                Run::Running { since } if found.stop.is_none() && !seen.is_starting(name) => since,
                _ => {
                    self.0.remove(name);
                    continue;
                }
            };
            let (run, started) = (found.runs, container.startup_probe.is_none() || found.started);
            if self.0.get(name).is_some_and(|p| p.run == run && p.started == started) {
                continue;
            }
            let kinds: &[ProbeKind] =
                if started { &[ProbeKind::Readiness, ProbeKind::Liveness] } else { &[ProbeKind::Startup] };
            let (Some(sandbox), Some(ip), Some(attempt)) = (sandbox, seen.ip, run.checked_sub(1)) else {
                continue;
            };
            let tasks = kinds.iter().filter_map(|kind| {
                let probe = of_kind(container, *kind)?;
                let (tell, name, kind) = (tell.clone(), name.clone(), *kind);
                let target = Target { sandbox: sandbox.clone(), id: format!("{name}-{attempt}") };
                let tell =
                    move |healthy| tell(Outcome::Probed { name: name.clone(), attempt, kind, healthy });
                let about = About { pod, container, since, ip, recorder };
                Some(start(&about, kind, probe, target, tell))
            });
            let probing = Probing { run, started, _tasks: tasks.collect() };
            self.0.insert(name.clone(), probing);
        }
    }
}
