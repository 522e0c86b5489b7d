//! Events that the node writes about pods and about itself.
//!
//! Writing never holds anybody up: [`Recorder::report`] puts the Event into a bounded queue, and
//! one task of its own writes it. What is reported again counts up, as users know it, and of an object
//! that keeps causing Events few are written ([`proa_api::telling`]).

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use proa_api::telling::{Ledger, News};
use proa_supervise::{Task, keep};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written; more are dropped, since a node that reports so much has
/// other troubles.
const QUEUE: usize = 1024;

/// An Event to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The container of a pod that it is about, as a field path: `spec.containers{web}`.
    pub field_path: Option<String>,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// One of few.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
}

/// Takes Events of one component.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<Waiting>,
}

/// An Event that waits to be written.
struct Waiting {
    component: &'static str,
    about: ObjectReference,
    report: Report,
    at: Timestamp,
}

/// Who the Events of pods and of the node come from.
pub const COMPONENT: &str = "kubelet";

impl Recorder {
    /// Starts the writing task, which ends with the last recorder.
    pub fn start(client: kube::Client, node: String) -> Self {
        Self::start_as(COMPONENT, client, node)
    }

    /// The same for another part of the node.
    pub fn start_as(component: &'static str, client: kube::Client, node: String) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = Mutex::new(Writer { client, node, waiting, ledger: Ledger::default() });
        let task = Task { component, name: "events" };
        tokio::spawn(async move {
            keep(task, &CancellationToken::new(), || async { writer.lock().await.run().await }).await;
        });
        Recorder { component, queue }
    }

    /// The same recorder for another component.
    pub fn of(&self, component: &'static str) -> Self {
        Recorder { component, queue: self.queue.clone() }
    }

    /// Reports about a pod.
    pub fn report(&self, pod: &Pod, report: Report) {
        let meta = &pod.metadata;
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: report.field_path.clone(),
        };
        self.enqueue(about, report);
    }

    /// Reports about an object that is neither a pod nor the node.
    pub fn report_object<K>(&self, object: &K, report: Report)
    where
        K: k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        let meta = object.metadata();
        let about = ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        self.enqueue(about, report);
    }

    /// Reports about the node. Its Events lie in the namespace `default`.
    pub fn report_node(&self, name: &str, report: Report) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.enqueue(about, report);
    }

    /// Reports about what is referred to.
    pub fn report_about(&self, about: ObjectReference, report: Report) {
        self.enqueue(about, report);
    }

    fn enqueue(&self, about: ObjectReference, report: Report) {
        let waiting = Waiting { component: self.component, about, report, at: Timestamp::now() };
        if self.queue.try_send(waiting).is_err() {
            tracing::debug!("an Event is dropped: too many are waiting");
        }
    }
}

/// What news are about: an object's uid, and a part of it.
type About = (String, Option<String>);

struct Writer {
    client: kube::Client,
    node: String,
    waiting: mpsc::Receiver<Waiting>,
    ledger: Ledger<About>,
}

impl Writer {
    async fn run(&mut self) {
        while let Some(waiting) = self.waiting.recv().await {
            self.write(waiting).await;
        }
    }

    async fn write(&mut self, Waiting { component, about, report, at }: Waiting) {
        let uid = about.uid.clone().unwrap_or_default();
        let news = News {
            component: component.into(),
            about: (uid.clone(), report.field_path.clone()),
            warning: report.warning,
            reason: report.reason,
            message: report.message,
        };
        let Some(entry) = self.ledger.enter(news, &uid, at) else {
            return tracing::debug!(uid, "an Event is left out: there were many about this object");
        };
        let event = entry.event(about, &self.node);
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        if entry.count > 1 {
            let name = event.metadata.name.as_deref().unwrap_or_default();
            // Without it, it has expired or the server is away: it is written anew, or is lost.
            if api.patch(name, &PatchParams::default(), &Patch::Merge(entry.again())).await.is_ok() {
                return;
            }
        }
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, reason = %entry.id.reason, "an Event was not written");
            self.ledger.forget(&entry.id);
        }
    }
}

/// An Event about a pod or one of its containers.
pub fn report(
    field_path: Option<String>,
    warning: bool,
    reason: impl Into<Cow<'static, str>>,
    message: String,
) -> Report {
    Report { field_path, warning, reason: reason.into(), message }
}
