//! Says in Events of Ingresses what is wrong with them.
//!
//! Told by `watch`; each problem is said once while it stays, and one that comes and goes as
//! [`proa_api::telling`] has it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use proa_api::names;
use proa_api::namespaced_name::NamespacedName;
use proa_api::telling::{Entry, Ledger, News};
use tokio::sync::watch;

use crate::route::Problem;

/// A write may take this long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// An Ingress by name and uid.
type About = (NamespacedName, String);

/// Writes what is new until its sender is gone.
pub async fn run(client: Client, mut problems: watch::Receiver<BTreeSet<Problem>>) {
    let (mut said, mut ledger) = (BTreeSet::new(), Ledger::default());
    loop {
        let now = problems.borrow_and_update().clone();
        for problem in now.difference(&said) {
            write(&client, &mut ledger, problem).await;
        }
        said = now;
        if problems.changed().await.is_err() {
            return;
        }
    }
}

async fn write(client: &Client, ledger: &mut Ledger<About>, problem: &Problem) {
    let Some(about @ ((namespace, name), uid)) = &problem.about else { return };
    let news = News {
        component: names::INGRESS_CONTROLLER.into(),
        about: about.clone(),
        warning: true,
        reason: problem.reason.into(),
        message: problem.message.clone(),
    };
    let Some(entry) = ledger.enter(news, uid, Timestamp::now()) else { return };
    let about = ObjectReference {
        api_version: Some("networking.k8s.io/v1".to_owned()),
        kind: Some("Ingress".to_owned()),
        name: Some(name.clone()),
        namespace: Some(namespace.clone()),
        uid: Some(uid.clone()),
        ..ObjectReference::default()
    };
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    let failed = match tokio::time::timeout(WRITE_TIMEOUT, put(&api, &entry, about)).await {
        Ok(done) => done.err().map(|error| error.to_string()),
        Err(_) => Some("not in time".to_owned()),
    };
    if let Some(error) = failed {
        tracing::debug!(kind = "Ingress", namespace, name, error, "Event not written");
        ledger.forget(&entry.id);
    }
}

async fn put(api: &Api<Event>, entry: &Entry<About>, about: ObjectReference) -> Result<(), kube::Error> {
    let event = entry.event(about, "");
    if entry.count > 1 {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &Patch::Merge(entry.again())).await {
            // It has expired: it is written anew.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            patched => return patched.map(drop),
        }
    }
    api.create(&PostParams::default(), &event).await.map(drop)
}
