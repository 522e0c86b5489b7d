//! Events that the node writes about pods and about itself.
//!
//! Writing never holds anybody up: [`Recorder::report`] puts the Event into a bounded queue, and
//! one task of its own writes it. What is reported again counts up, as users know it, and of an object
//! that keeps causing Events few are written ([`proa_api::telling`]).

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use proa_api::telling::{Entry, Ledger, News};
use tokio::sync::mpsc;

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

/// Takes Events.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(ObjectReference, Report, Timestamp)>,
}

/// Who the Events of pods and of the node come from.
const COMPONENT: &str = "kubelet";

impl Recorder {
    /// Starts the writing task, which ends with the last recorder.
    pub fn start(client: kube::Client, node: String) -> Self {
        Self::start_as(COMPONENT, client, node)
    }

    /// The same for another part of the node.
    pub fn start_as(component: &'static str, client: kube::Client, node: String) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(write(component, client, node, waiting));
        Recorder { queue }
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
        if self.queue.try_send((about, report, Timestamp::now())).is_err() {
            tracing::debug!("an Event is dropped: too many are waiting");
        }
    }
}

/// What news are about: an object's uid, and a part of it.
type About = (String, Option<String>);

async fn write(
    component: &'static str,
    client: kube::Client,
    node: String,
    mut waiting: mpsc::Receiver<(ObjectReference, Report, Timestamp)>,
) {
    let mut ledger = Ledger::<About>::default();
    while let Some((about, report, at)) = waiting.recv().await {
        let uid = about.uid.clone().unwrap_or_default();
        let news = News {
            component: component.into(),
            about: (uid.clone(), report.field_path.clone()),
            warning: report.warning,
            reason: report.reason,
            message: report.message,
        };
        let Some(entry) = ledger.enter(news, &uid, at) else {
            tracing::debug!(uid, "an Event is left out: there were many about this object");
            continue;
        };
        let event = event(&node, about, &entry);
        let api =
            Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
        if entry.count > 1 {
            let name = event.metadata.name.as_deref().unwrap_or_default();
            let change = serde_json::json!({
                "count": entry.count, "lastTimestamp": Time(entry.last), "message": entry.message,
            });
            // Without it, it has expired or the server is away: it is written anew, or is lost.
            if api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.is_ok() {
                continue;
            }
        }
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, reason = %entry.id.reason, "an Event was not written");
            ledger.forget(&entry.id);
        }
    }
}

fn event(node: &str, about: ObjectReference, entry: &Entry<About>) -> Event {
    let component = entry.id.component.clone().into_owned();
    Event {
        metadata: ObjectMeta {
            name: Some(entry.name(about.name.as_deref().unwrap_or_default())),
            namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(entry.id.reason.clone().into_owned()),
        message: Some(entry.message.clone()),
        type_: Some(if entry.id.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(entry.count),
        first_timestamp: Some(Time(entry.first)),
        last_timestamp: Some(Time(entry.last)),
        source: Some(EventSource { component: Some(component.clone()), host: Some(node.to_owned()) }),
        reporting_component: Some(component),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
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
