//! Which pod ends when the node's disk is short, and what it is told. Pure.
//!
//! Asked by the node (`node/pressure.rs`). The order is the kubelet's: pods that use more than they
//! have asked for come first, then the less important, then those that use most beyond what they have
//! asked for. Unlike there, a pod that has next to nothing on the disk stays: its end would give
//! nothing back.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use super::measure::Measured;
use super::{RESOURCE, is_critical, positive};
use crate::node::disk::{Resource, Shortage};

/// Whoever has less on the disk is left alone.
const LEAST_BYTES: u64 = 1 << 20;
/// The same in files and directories.
const LEAST_INODES: u64 = 1000;

/// The pod that is to end, by its place in the list, and its message.
pub fn victim<'a>(
    pods: impl IntoIterator<Item = (&'a Pod, &'a Measured)>,
    shortage: &Shortage,
) -> Option<(usize, String)> {
    let least = match shortage.resource {
        Resource::Bytes => LEAST_BYTES,
        Resource::Inodes => LEAST_INODES,
    };
    let candidates = pods.into_iter().enumerate().filter_map(|(index, (pod, measured))| {
        let spec = pod.spec.as_ref()?;
        let (used, asked) = match shortage.resource {
            Resource::Bytes => (measured.used.total(), asked(spec)),
            Resource::Inodes => (measured.inodes, 0),
        };
        let order = (used > asked, Reverse(spec.priority.unwrap_or(0)), i128::from(used) - i128::from(asked));
        (!is_critical(spec) && used >= least).then_some((order, index, spec, measured))
    });
    let (_, index, spec, measured) = candidates.max_by_key(|(order, ..)| *order)?;
    Some((index, message(spec, measured, shortage)))
}

fn message(spec: &PodSpec, measured: &Measured, shortage: &Shortage) -> String {
    let name = shortage.resource.name();
    let mut text = format!("The node was low on resource: {name}. {}. ", shortage.amounts());
    if shortage.resource == Resource::Bytes {
        for container in &spec.containers {
            let used = measured.used.containers.get(&container.name).copied().unwrap_or(0);
            let asked = of_container(container);
            if used > asked {
                let quantity = |bytes| shortage.resource.quantity(bytes);
                text.push_str(&format!(
                    "Container {} was using {}, request is {}, has larger consumption of {name}. ",
                    container.name,
                    quantity(used),
                    quantity(asked)
                ));
            }
        }
    }
    text
}

/// Bytes that the main containers of a pod have asked for.
fn asked(spec: &PodSpec) -> u64 {
    spec.containers.iter().map(of_container).fold(0, u64::saturating_add)
}

fn of_container(container: &Container) -> u64 {
    let requests = |resources: &ResourceRequirements| positive(resources.requests.as_ref()?.get(RESOURCE));
    let asked = container.resources.as_ref().and_then(requests);
    asked.and_then(|asked| u64::try_from(asked.amount().units()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MIB: u64 = 1 << 20;

    fn pod(priority: i32, request: &str) -> Pod {
        let resources = json!({"requests": {RESOURCE: request}});
        let containers = json!([{"name": "c", "resources": resources}]);
        serde_json::from_value(json!({"spec": {"containers": containers, "priority": priority}})).unwrap()
    }

    fn measured(bytes: u64, inodes: u64) -> Measured {
        let mut measured = Measured { inodes, ..Measured::default() };
        measured.used.containers.insert("c".to_owned(), bytes);
        measured
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first() {
        let bytes = Shortage { resource: Resource::Bytes, threshold: 10 * MIB, available: 0 };
        let inodes = Shortage { resource: Resource::Inodes, ..bytes };
        let check = |pods: &[(Pod, Measured)], shortage: &Shortage, expected: Option<usize>| {
            let found = victim(pods.iter().map(|(pod, measured)| (pod, measured)), shortage);
            assert_eq!(found.map(|(index, _)| index), expected);
        };
        check(&[], &bytes, None);
        check(&[(pod(0, "0"), measured(MIB - 1, 9))], &bytes, None);
        let modest = || (pod(0, "100Mi"), measured(90 * MIB, 10));
        check(&[modest(), (pod(5, "0"), measured(2 * MIB, 10))], &bytes, Some(1));
        check(&[(pod(5, "0"), measured(9 * MIB, 10)), (pod(1, "0"), measured(2 * MIB, 10))], &bytes, Some(1));
        check(&[(pod(1, "0"), measured(2 * MIB, 10)), (pod(1, "0"), measured(9 * MIB, 10))], &bytes, Some(1));
        check(
            &[(pod(1, "8Mi"), measured(10 * MIB, 10)), (pod(1, "0"), measured(9 * MIB, 10))],
            &bytes,
            Some(1),
        );
        check(&[modest()], &bytes, Some(0));
        check(&[(pod(super::super::CRITICAL_PRIORITY, "0"), measured(9 * MIB, 9999))], &bytes, None);
        check(&[(pod(0, "0"), measured(9 * MIB, 1000)), (pod(0, "0"), measured(1, 2000))], &inodes, Some(1));
        check(&[(pod(0, "0"), measured(9 * MIB, 999))], &inodes, None);
    }

    #[test]
    fn the_message_says_who_used_what() {
        let shortage = Shortage { resource: Resource::Bytes, threshold: 10 * MIB, available: 4096 };
        let (pod, measured) = (pod(0, "1Mi"), measured(2 * MIB, 1));
        let (_, message) = victim([(&pod, &measured)], &shortage).unwrap();
        assert_eq!(
            message,
            "The node was low on resource: ephemeral-storage. Threshold quantity: 10240Ki, available: 4Ki. \
             Container c was using 2048Ki, request is 1024Ki, has larger consumption of ephemeral-storage. "
        );
    }
}
