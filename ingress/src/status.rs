//! The status of Ingresses: the address they are reached at, once they are routed.
//!
//! Told by `watch` which Ingresses do not show it yet. It writes that one field, of Ingresses of
//! our classes, and never removes anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use proa_api::namespaced_name::{self, NamespacedName};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::index::Index;

/// After a first write has not had its effect; doubled each time.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// An Ingress whose status does not stay as written is written no more often than this.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A write may take this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The Ingresses of ours whose status does not show `address` yet.
pub fn wanted(index: &Index, address: IpAddr) -> Vec<NamespacedName> {
    let ours = index.ingresses.values().filter(|i| index.is_ours(i));
    ours.filter(|i| !shows(i, address)).map(|i| namespaced_name::of(&i.metadata)).collect()
}

/// Writes what `wanted` says until its sender is gone. Routes do not wait for it.
pub async fn run(client: Client, address: IpAddr, mut wanted: watch::Receiver<Vec<NamespacedName>>) {
    let mut attempts = Attempts::default();
    loop {
        let keys = wanted.borrow_and_update().clone();
        for key in attempts.due(&keys, Instant::now()) {
            write(&client, &key, address).await;
        }
        let again = attempts.next(&keys);
        let wait = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

/// When what was last written. Another controller that writes the same field, or a server that
/// refuses, must not make a busy loop of two.
#[derive(Default)]
struct Attempts(BTreeMap<NamespacedName, Attempt>);

struct Attempt {
    again: Instant,
    delay: Duration,
}

impl Attempts {
    /// Those to be written now, which count as attempted from here on.
    fn due(&mut self, wanted: &[NamespacedName], now: Instant) -> Vec<NamespacedName> {
        self.0.retain(|key, attempt| attempt.again + attempt.delay > now || wanted.contains(key));
        let mut due = Vec::new();
        for key in wanted {
            let delay = match self.0.get(key) {
                None => FIRST_DELAY,
                Some(attempt) if attempt.again <= now => (attempt.delay * 2).min(LONGEST_DELAY),
                Some(_) => continue,
            };
            self.0.insert(key.clone(), Attempt { again: now + delay, delay });
            due.push(key.clone());
        }
        due
    }

    /// When the next of them is due.
    fn next(&self, wanted: &[NamespacedName]) -> Option<Instant> {
        wanted.iter().filter_map(|key| self.0.get(key)).map(|attempt| attempt.again).min()
    }
}

fn shows(ingress: &Ingress, address: IpAddr) -> bool {
    let shown =
        ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let [entry] = shown.map(Vec::as_slice).unwrap_or_default() else { return false };
    entry.ip == Some(address.to_string())
}

async fn write(client: &Client, (namespace, name): &NamespacedName, address: IpAddr) {
    let entry = IngressLoadBalancerIngress { ip: Some(address.to_string()), ..Default::default() };
    let patch = serde_json::json!({ "status": { "loadBalancer": { "ingress": [entry] } } });
    let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let written = api.patch_status(name, &parameters, &patch);
    match tokio::time::timeout(WRITE_TIMEOUT, written).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(kind = "Ingress", namespace, name, %error, "status not written"),
        Err(_) => tracing::debug!(kind = "Ingress", namespace, name, "status not written in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_ever_more_seldom() {
        let keys = [("ns".to_owned(), "a".to_owned())];
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let mut written = Vec::new();
        for second in 0..1000 {
            // Each write is followed by someone else's, so that the Ingress is wanted all the time.
            let now = start + Duration::from_secs(second);
            if !attempts.due(&keys, now).is_empty() {
                written.push(second);
            }
        }
        assert_eq!(written, [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811]);
    }

    #[test]
    fn forgets_what_has_settled() {
        let keys = [("ns".to_owned(), "a".to_owned())];
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        assert_eq!(attempts.due(&keys, now), keys);
        assert_eq!(attempts.next(&keys), Some(now + FIRST_DELAY));
        assert!(attempts.due(&[], now + FIRST_DELAY).is_empty());
        assert_eq!(attempts.next(&[]), None);
        assert!(attempts.due(&[], now + FIRST_DELAY * 2).is_empty());
        assert!(attempts.0.is_empty());
    }
}
