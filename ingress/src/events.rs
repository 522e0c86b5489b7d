//! Says in Events of Ingresses what is wrong with them.
//!
//! Told by `watch`; each problem is said once while it stays.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use proa_api::names;
use tokio::sync::watch;

use crate::route::Problem;

/// A write may take this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes what is new until its sender is gone.
pub async fn run(client: Client, mut problems: watch::Receiver<BTreeSet<Problem>>) {
    let mut said = BTreeSet::new();
    loop {
        let now = problems.borrow_and_update().clone();
        for problem in now.difference(&said) {
            write(&client, problem).await;
        }
        said = now;
        if problems.changed().await.is_err() {
            return;
        }
    }
}

async fn write(client: &Client, problem: &Problem) {
    let Some(((namespace, name), uid)) = &problem.about else { return };
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".to_owned()),
        reason: Some(problem.reason.to_owned()),
        note: Some(problem.message.clone()),
        action: Some("Route".to_owned()),
        reporting_controller: Some(names::INGRESS_CONTROLLER.to_owned()),
        reporting_instance: Some(names::INGRESS_CONTROLLER.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("Ingress".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let parameters = PostParams::default();
    match tokio::time::timeout(WRITE_TIMEOUT, api.create(&parameters, &event)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(kind = "Ingress", namespace, name, %error, "Event not written"),
        Err(_) => tracing::debug!(kind = "Ingress", namespace, name, "Event not written in time"),
    }
}
