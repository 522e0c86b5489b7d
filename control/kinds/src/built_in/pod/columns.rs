//! The columns of pods: readiness, the one word that says how a pod is, restarts.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::Column;
use crate::columns::{age, column, human_duration, items, name, number, text, text_or_none, time, wide};

/// All columns of pods, in order.
pub fn columns() -> Vec<Column> {
    vec![
        name(),
        column(
            "Ready",
            "string",
            "The aggregate readiness state of this pod for accepting traffic.",
            |o, _| {
                let summary = summary(o);
                format!("{}/{}", summary.ready, summary.containers).into()
            },
        ),
        column("Status", "string", "The aggregate status of the containers in this pod.", |o, _| {
            summary(o).status.into()
        }),
        column(
            "Restarts",
            "string",
            "The number of times the containers in this pod have been restarted and when the last container \
             in this pod has restarted.",
            |o, now| summary(o).restarts(now).into(),
        ),
        age(),
        wide("IP", "Address of the pod.", |o, _| match text(o, "/status/podIP") {
            "" => items(o, "/status/podIPs").next().map_or("<none>", |ip| text(ip, "/ip")).into(),
            ip => ip.into(),
        }),
        wide("Node", "The node that the pod runs on.", |o, _| text_or_none(o, "/spec/nodeName").into()),
        wide("Nominated Node", "The node that the pod waits for.", |o, _| {
            text_or_none(o, "/status/nominatedNodeName").into()
        }),
        wide("Readiness Gates", "Conditions beyond the containers that make the pod ready.", |o, _| {
            readiness_gates(o).into()
        }),
    ]
}

/// What the columns say of a pod.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    ready: usize,
    containers: usize,
    status: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(then) if self.restarts != 0 => {
                let ago = human_duration(now.as_second() - then.as_second());
                format!("{} ({ago} ago)", self.restarts)
            }
            _ => self.restarts.to_string(),
        }
    }

    fn count(&mut self, container: &Value) {
        self.restarts += number(container, "/restartCount");
        let finished = time(container.pointer("/lastState/terminated/finishedAt"));
        self.last_restart = self.last_restart.max(finished);
    }
}

fn summary(pod: &Value) -> Summary {
    let sidecars = || items(pod, "/spec/initContainers").filter(|c| text(c, "/restartPolicy") == "Always");
    let mut summary = Summary {
        containers: items(pod, "/spec/containers").count() + sidecars().count(),
        status: first_of(text(pod, "/status/reason"), text(pod, "/status/phase")).to_owned(),
        ..Summary::default()
    };
    let gated = |c: &&Value| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated";
    if items(pod, "/status/conditions").find(gated).is_some() {
        summary.status = "SchedulingGated".to_owned();
    }
    let names: BTreeSet<&str> = sidecars().map(|c| text(c, "/name")).collect();
    let mut of_sidecars = Summary::default();
    let mut initializing = false;
    for (i, container) in items(pod, "/status/initContainerStatuses").enumerate() {
        let sidecar = names.contains(text(container, "/name"));
        summary.count(container);
        if sidecar {
            of_sidecars.count(container);
        }
        match init_state(container, sidecar) {
            Init::Done => {}
            Init::Running { ready } => summary.ready += usize::from(ready),
            Init::Stuck(why) => {
                initializing = true;
                let all = items(pod, "/spec/initContainers").count();
                summary.status = why.unwrap_or_else(|| format!("Init:{i}/{all}"));
                break;
            }
        }
    }
    if !initializing || has_condition(pod, "Initialized") {
        summary.restarts = of_sidecars.restarts;
        summary.last_restart = of_sidecars.last_restart;
        add_containers(pod, &mut summary);
    }
    let deleted = pod.pointer("/metadata/deletionTimestamp").is_some();
    if deleted && text(pod, "/status/reason") == "NodeLost" {
        summary.status = "Unknown".to_owned();
    } else if deleted && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        summary.status = "Terminating".to_owned();
    }
    summary
}

fn first_of<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

fn has_condition(pod: &Value, type_: &str) -> bool {
    items(pod, "/status/conditions").any(|c| text(c, "/type") == type_ && text(c, "/status") == "True")
}

/// How far an init container is.
enum Init {
    Done,
    Running {
        ready: bool,
    },
    /// It holds up the ones after it; without a word for it, its place in the row is shown.
    Stuck(Option<String>),
}

fn init_state(container: &Value, sidecar: bool) -> Init {
    let flag = |field: &str| container.get(field).and_then(Value::as_bool).unwrap_or_default();
    if let Some(terminated) = container.pointer("/state/terminated") {
        if number(terminated, "/exitCode") == 0 {
            return Init::Done;
        }
        if !(sidecar && flag("started")) {
            return Init::Stuck(Some(format!("Init:{}", ended(terminated))));
        }
    }
    if sidecar && flag("started") {
        return Init::Running { ready: flag("ready") };
    }
    match text(container, "/state/waiting/reason") {
        "" | "PodInitializing" => Init::Stuck(None),
        reason => Init::Stuck(Some(format!("Init:{reason}"))),
    }
}

/// Why a container ended, in one word.
fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// From the last container to the first, so that the first one's trouble is what is shown.
fn add_containers(pod: &Value, summary: &mut Summary) {
    let mut has_running = false;
    let statuses: Vec<&Value> = items(pod, "/status/containerStatuses").collect();
    for container in statuses.into_iter().rev() {
        summary.count(container);
        let waiting = text(container, "/state/waiting/reason");
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(terminated) = container.pointer("/state/terminated") {
            summary.status = ended(terminated);
        } else if container.get("ready").and_then(Value::as_bool) == Some(true)
            && container.pointer("/state/running").is_some()
        {
            has_running = true;
            summary.ready += 1;
        }
    }
    // One container is done, another still runs: the pod runs.
    if summary.status == "Completed" && has_running {
        summary.status = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates: Vec<&str> = items(pod, "/spec/readinessGates").map(|g| text(g, "/conditionType")).collect();
    match gates.len() {
        0 => "<none>".to_owned(),
        all => format!("{}/{all}", gates.iter().filter(|gate| has_condition(pod, gate)).count()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `pod` has two containers, `a` and `b`, and one init container `i`.
    fn check(status: Value, expected: &str) {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": status,
        });
        let now: Timestamp = "2030-01-01T00:10:00Z".parse().unwrap();
        let summary = summary(&pod);
        let shown =
            format!("{}/{} {} {}", summary.ready, summary.containers, summary.status, summary.restarts(now));
        assert_eq!(shown, expected, "{pod}");
    }

    #[test]
    fn words_for_how_a_pod_is() {
        let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        check(json!({"phase": "Pending"}), "0/2 Pending 0");
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
            "0/2 Init:0/1 0",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "0/2 Init:CrashLoopBackOff 2",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 3}}}]}),
            "0/2 Init:ExitCode:3 0",
        );
        check(
            json!({"phase": "Running", "initContainerStatuses": [done],
                "containerStatuses": [running, {"name": "b", "restartCount": 3,
                    "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2030-01-01T00:08:00Z"}},
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "1/2 CrashLoopBackOff 3 (2m ago)",
        );
        check(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "a", "state": {"terminated": {"reason": "Completed"}}}, running]}),
            "1/2 Running 0",
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"signal": 9}}}]}),
            "0/2 Signal:9 0",
        );
        check(json!({"phase": "Failed", "reason": "Evicted"}), "0/2 Evicted 0");
    }

    #[test]
    fn a_deleted_pod_is_terminating() {
        let pod = |phase: &str| json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}, "status": {"phase": phase}});
        assert_eq!(summary(&pod("Running")).status, "Terminating");
        assert_eq!(summary(&pod("Succeeded")).status, "Succeeded");
    }
}
