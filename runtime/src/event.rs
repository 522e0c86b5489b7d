//! Events that the node writes about pods and about itself.
//!
//! Writing never holds anybody up: [`Recorder::report`] puts the Event into a bounded queue, and
//! one task of its own writes it. What is reported again counts up, as users know it.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

/// Events that may wait to be written; more are dropped, since a node that reports so much has
/// other troubles.
const QUEUE: usize = 1024;
/// Events whose count is remembered.
const REMEMBERED: usize = 4096;

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

/// What makes two reports the same.
type Same = (Option<String>, Option<String>, Cow<'static, str>, String);

struct Written {
    namespace: String,
    name: String,
    count: i32,
}

async fn write(
    component: &'static str,
    client: kube::Client,
    node: String,
    mut waiting: mpsc::Receiver<(ObjectReference, Report, Timestamp)>,
) {
    let mut written: HashMap<Same, Written> = HashMap::new();
    while let Some((about, report, at)) = waiting.recv().await {
        let same =
            (about.uid.clone(), report.field_path.clone(), report.reason.clone(), report.message.clone());
        if let Some(old) = written.get_mut(&same) {
            old.count = old.count.saturating_add(1);
            let change = serde_json::json!({"count": old.count, "lastTimestamp": Time(at)});
            let api = Api::<Event>::namespaced(client.clone(), &old.namespace);
            match api.patch(&old.name, &PatchParams::default(), &Patch::Merge(change)).await {
                Ok(_) => continue,
                // It has expired or the server is away: it is written anew, or is lost.
                Err(_) => drop(written.remove(&same)),
            }
        }
        let event = event(component, &node, about, &report, at);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if written.len() >= REMEMBERED {
                    written.clear();
                }
                written.insert(same, Written { namespace, name, count: 1 });
            }
            Err(error) => tracing::debug!(%error, reason = %report.reason, "an Event was not written"),
        }
    }
}

fn event(component: &str, node: &str, about: ObjectReference, report: &Report, at: Timestamp) -> Event {
    let name = about.name.clone().unwrap_or_default();
    let stamp = at.as_nanosecond() as u64;
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{stamp:016x}")),
            namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(report.reason.clone().into_owned()),
        message: Some(report.message.clone()),
        type_: Some(if report.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        source: Some(EventSource { component: Some(component.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(component.to_owned()),
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
