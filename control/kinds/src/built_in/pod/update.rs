//! What may change in a pod once it is there, and what its status may become.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Toleration};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use super::container::init;
use super::scheduling::toleration_key;
use crate::syntax::{self, IMMUTABLE, not_between, report};

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");
const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What is wrong with a change of a pod's spec.
pub fn spec(old: &PodSpec, new: &PodSpec, errors: &mut FieldErrors) {
    let lists = [
        ("containers", old.containers.len(), new.containers.len()),
        ("initContainers", init(old).len(), init(new).len()),
    ];
    for (field, before, after) in lists {
        if before != after {
            errors.forbidden(&SPEC.field(field), "pod updates may not add or remove containers");
            return;
        }
    }
    if !deadline(old.active_deadline_seconds, new.active_deadline_seconds, errors) {
        return;
    }
    let before = old.tolerations.as_deref().unwrap_or_default();
    only_added(before, new.tolerations.as_deref().unwrap_or_default(), errors);
    let gates: BTreeSet<&str> =
        old.scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
    let list = SPEC.field("schedulingGates");
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !gates.contains(gate.name.as_str()) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.forbidden(&list.index(i).field("name"), text);
        }
    }
    let masked = mask(old, new);
    if masked != *old {
        errors.forbidden(&SPEC, format!("{MAY_CHANGE}\n{}", differences(old, &masked)));
    }
}

/// `new` with what may change put back to what it was.
fn mask(old: &PodSpec, new: &PodSpec) -> PodSpec {
    let mut masked = new.clone();
    let images = |list: &mut [Container], before: &[Container]| {
        for (container, before) in list.iter_mut().zip(before) {
            container.image.clone_from(&before.image);
        }
    };
    images(&mut masked.containers, &old.containers);
    images(masked.init_containers.as_deref_mut().unwrap_or_default(), init(old));
    masked.active_deadline_seconds = old.active_deadline_seconds;
    masked.tolerations.clone_from(&old.tolerations);
    masked.scheduling_gates.clone_from(&old.scheduling_gates);
    let negative = old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0);
    if negative && masked.termination_grace_period_seconds == Some(1) {
        masked.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    let gated = old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated {
        // A pod that waits at a gate may still be narrowed to fewer nodes.
        let before = old.node_selector.clone().unwrap_or_default();
        let after = masked.node_selector.clone().unwrap_or_default();
        if before.iter().all(|(key, value)| after.get(key) == Some(value)) {
            masked.node_selector.clone_from(&old.node_selector);
        }
    }
    masked
}

/// A deadline may be set and shortened. False if nothing after it need be looked at.
fn deadline(old: Option<i64>, new: Option<i64>, errors: &mut FieldErrors) -> bool {
    let path = SPEC.field("activeDeadlineSeconds");
    match (old, new) {
        (_, Some(new)) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(&path, new, not_between(0, i32::MAX.into()));
            false
        }
        (Some(old), Some(new)) if old < new => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
            false
        }
        (Some(_), None) => {
            errors.invalid(&path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added(old: &[Toleration], new: &[Toleration], errors: &mut FieldErrors) {
    let new: BTreeSet<_> = new.iter().map(toleration_key).collect();
    if !old.iter().all(|before| new.contains(&toleration_key(before))) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&SPEC.field("tolerations"), text);
    }
}

/// The members that differ, a line each.
fn differences(old: &PodSpec, new: &PodSpec) -> String {
    let (old, new) =
        (serde_json::to_value(old).unwrap_or_default(), serde_json::to_value(new).unwrap_or_default());
    let mut lines = Vec::new();
    compare("spec", &old, &new, &mut lines);
    lines.join("\n")
}

fn compare(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let side = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&format!("{path}.{key}"), &side(before), &side(after), lines);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                compare(&format!("{path}[{i}]"), before, after, lines);
            }
        }
        _ => lines.push(format!("  {path}:\n-   {old}\n+   {new}")),
    }
}

/// What is wrong with a change of a pod's status.
pub fn status(old: &Pod, new: &Pod, errors: &mut FieldErrors) {
    let empty = PodStatus::default();
    let (before, after) = (old.status.as_ref().unwrap_or(&empty), new.status.as_ref().unwrap_or(&empty));
    if let Some(node) = after.nominated_node_name.as_deref().filter(|node| !node.is_empty()) {
        report(syntax::subdomain(node), &STATUS.field("nominatedNodeName"), node, errors);
    }
    if before.qos_class.is_some() && before.qos_class != after.qos_class {
        let class = after.qos_class.as_deref().unwrap_or_default();
        errors.invalid(&STATUS.field("qosClass"), class, IMMUTABLE);
    }
    let policy = old.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let sidecars: BTreeSet<&str> = old
        .spec
        .iter()
        .flat_map(init)
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    stays_terminated(
        before.container_statuses.as_deref().unwrap_or_default(),
        after.container_statuses.as_deref().unwrap_or_default(),
        policy,
        &BTreeSet::new(),
        &STATUS.field("containerStatuses"),
        errors,
    );
    stays_terminated(
        before.init_container_statuses.as_deref().unwrap_or_default(),
        after.init_container_statuses.as_deref().unwrap_or_default(),
        policy,
        &sidecars,
        &STATUS.field("initContainerStatuses"),
        errors,
    );
    let ips = STATUS.field("podIPs");
    for (i, ip) in after.pod_ips.iter().flatten().enumerate() {
        report(syntax::ip(&ip.ip), &ips.index(i), &ip.ip, errors);
    }
    if let Some(first) = after.host_ips.as_ref().and_then(|ips| ips.first())
        && after.host_ip.as_deref() != Some(first.ip.as_str())
    {
        let ips = STATUS.field("hostIPs");
        errors.invalid(&ips.index(0).field("ip"), first.ip.as_str(), "must be equal to `hostIP`");
    }
}

/// A container that is done, and is not to be restarted, does not run again.
fn stays_terminated(
    old: &[ContainerStatus],
    new: &[ContainerStatus],
    policy: &str,
    sidecars: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if policy == "Always" {
        return;
    }
    let terminated = |status: &ContainerStatus| {
        status.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
    };
    let not_terminated: BTreeSet<&str> =
        new.iter().filter(|after| terminated(after).is_none()).map(|after| after.name.as_str()).collect();
    for (i, before) in old.iter().enumerate() {
        let Some(exit_code) = terminated(before) else { continue };
        let retried = exit_code != 0 && policy == "OnFailure";
        if retried || sidecars.contains(before.name.as_str()) {
            continue;
        }
        if not_terminated.contains(before.name.as_str()) {
            let text = "may not be transitioned to non-terminated state";
            errors.forbidden(&path.index(i).field("state"), text);
        }
    }
}
