//! As much of a Kubernetes API as the ingress uses, in memory: list and watch, by field too, the merge
//! patch of an Ingress's status and Events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The API; clones are the same one.
#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// By resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// Watch events with their resource; an event's position is its revision.
    log: Vec<(String, Value)>,
    /// Bodies of the patches received.
    patches: Vec<Value>,
    /// Events received.
    events: Vec<Value>,
    /// Field selectors of the lists asked for.
    listed: Vec<String>,
    /// Another controller takes back every status at once.
    rival: bool,
    /// Status writes are answered with this.
    patch_refusal: Option<StatusCode>,
    /// This resource cannot be listed.
    broken: Option<&'static str>,
}

impl Api {
    pub fn new() -> Self {
        Api { state: Arc::default(), revision: watch::Sender::new(0) }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: &Value) {
        self.change("put", object.clone());
    }

    pub fn delete(&self, object: &Value) {
        self.change("DELETED", object.clone());
    }

    pub fn get(&self, resource: &str, name: &str) -> Value {
        let state = self.state.lock().unwrap();
        let found = state.objects.iter().find(|((r, _, n), _)| r == resource && n == name);
        found.map_or(Value::Null, |(_, object)| object.clone())
    }

    pub fn patches(&self) -> Vec<Value> {
        self.state.lock().unwrap().patches.clone()
    }

    /// Reason and text of the Events received, in the order of their text.
    pub fn events(&self) -> Vec<(String, String)> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let state = self.state.lock().unwrap();
        let mut events: Vec<_> =
            state.events.iter().map(|e| (text(e, "reason"), text(e, "message"))).collect();
        events.sort();
        events
    }

    /// How often it has happened what an Event with this text tells.
    pub fn count(&self, text: &str) -> i64 {
        let state = self.state.lock().unwrap();
        let event = state.events.iter().find(|event| event["message"] == text);
        event.and_then(|event| event["count"].as_i64()).unwrap_or(0)
    }

    /// How often objects of these fields have been listed.
    pub fn listed(&self, selector: &str) -> usize {
        self.state.lock().unwrap().listed.iter().filter(|listed| *listed == selector).count()
    }

    pub fn set_rival(&self) {
        self.state.lock().unwrap().rival = true;
    }

    pub fn refuse_patches(&self, status: StatusCode) {
        self.state.lock().unwrap().patch_refusal = Some(status);
    }

    pub fn set_broken(&self, resource: Option<&'static str>) {
        self.state.lock().unwrap().broken = resource;
    }

    fn change(&self, what: &str, mut object: Value) {
        let state = &mut *self.state.lock().unwrap();
        let kind = object["kind"].as_str().unwrap().to_ascii_lowercase();
        let resource = if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") };
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let key = (resource.clone(), namespace, name);
        object["metadata"]["resourceVersion"] = (state.log.len() + 1).to_string().into();
        let what = match what {
            "put" if state.objects.contains_key(&key) => "MODIFIED",
            "put" => "ADDED",
            other => other,
        };
        match what {
            "DELETED" => state.objects.remove(&key),
            _ => state.objects.insert(key, object.clone()),
        };
        state.log.push((resource, json!({"type": what, "object": object})));
        self.revision.send_replace(state.log.len());
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if request.method() == Method::POST {
            assert!(path.starts_with("/api/v1/namespaces/") && path.ends_with("/events"), "{path}");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let event: Value = serde_json::from_slice(&body).unwrap();
            self.state.lock().unwrap().events.push(event.clone());
            return json_answer(StatusCode::CREATED, &event);
        }
        if request.method() == Method::PATCH {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            return self.patch(&path, &body);
        }
        let resource = path.rsplit('/').next().unwrap().to_owned();
        if self.state.lock().unwrap().broken == Some(resource.as_str()) {
            return json_answer(
                StatusCode::FORBIDDEN,
                &json!({"kind": "Status", "status": "Failure", "code": 403}),
            );
        }
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let selector = parameter("fieldSelector").unwrap_or_default().replace("%3D", "=").replace("%2F", "/");
        match parameter("watch").as_deref() {
            Some("1" | "true") => {
                let since = parameter("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
                self.watch(resource, selector, since)
            }
            _ => {
                self.state.lock().unwrap().listed.push(selector.clone());
                self.list(&resource, &selector)
            }
        }
    }

    fn list(&self, resource: &str, selector: &str) -> Response<Body> {
        let state = self.state.lock().unwrap();
        let of_kind = state.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, object)| object);
        let items: Vec<&Value> = of_kind.filter(|object| selects(selector, object)).collect();
        let list = json!({"metadata": {"resourceVersion": state.log.len().to_string()}, "items": items});
        json_answer(StatusCode::OK, &list)
    }

    fn watch(&self, resource: String, selector: String, since: usize) -> Response<Body> {
        let state = Arc::clone(&self.state);
        let lines =
            futures::stream::unfold((since, self.revision.subscribe()), move |(seen, mut revision)| {
                let (state, resource, selector) = (Arc::clone(&state), resource.clone(), selector.clone());
                async move {
                    revision.wait_for(|now| *now > seen).await.ok()?;
                    let state = state.lock().unwrap();
                    let new = state.log[seen..].iter().filter(|(r, _)| *r == resource);
                    let new = new.filter(|(_, event)| selects(&selector, &event["object"]));
                    let lines: String = new.map(|(_, event)| format!("{event}\n")).collect();
                    Some((lines, (state.log.len(), revision)))
                }
            });
        let frames = lines.map(|lines| Ok(Frame::data(Bytes::from(lines))));
        Response::new(UnsyncBoxBody::new(StreamBody::new(frames.boxed())))
    }

    fn patch(&self, path: &str, body: &[u8]) -> Response<Body> {
        let segments: Vec<&str> = path.split('/').collect();
        if let ["", "api", "v1", "namespaces", _, "events", name] = segments[..] {
            let mut state = self.state.lock().unwrap();
            let event = state.events.iter_mut().find(|event| event["metadata"]["name"] == name);
            let event = event.expect("the Event is there");
            let patch: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap();
            event.as_object_mut().unwrap().extend(patch);
            return json_answer(StatusCode::OK, event);
        }
        let ["", "apis", "networking.k8s.io", "v1", "namespaces", _, "ingresses", name, "status"] =
            segments[..]
        else {
            panic!("the ingress writes {path}");
        };
        let patch: Value = serde_json::from_slice(body).unwrap();
        let (rival, refusal) = {
            let mut state = self.state.lock().unwrap();
            state.patches.push(patch.clone());
            (state.rival, state.patch_refusal)
        };
        if let Some(status) = refusal {
            return json_answer(
                status,
                &json!({"kind": "Status", "status": "Failure", "code": status.as_u16()}),
            );
        }
        let before = self.get("ingresses", name);
        let mut after = before.clone();
        after["status"] = patch["status"].clone();
        self.put(&after);
        if rival {
            self.put(&before);
        }
        json_answer(StatusCode::OK, &after)
    }
}

fn selects(selector: &str, object: &Value) -> bool {
    match selector.split_once('=') {
        None => true,
        Some(("type", wanted)) => object["type"] == wanted,
        Some(("metadata.name", wanted)) => object["metadata"]["name"] == wanted,
        Some((field, _)) => panic!("the ingress selects by {field}"),
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut answer = Response::new(UnsyncBoxBody::new(Full::from(value.to_string())));
    *answer.status_mut() = status;
    answer
}
