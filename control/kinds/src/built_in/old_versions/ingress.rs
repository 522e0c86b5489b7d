//! Ingresses with `serviceName` and `servicePort`.

use serde_json::{Map, Value, json};

use super::form::Form;

pub(super) const FORM: Form = Form {
    to_stored: |ingress| moved(ingress, ("backend", "defaultBackend"), to_stored, true),
    from_stored: |ingress| moved(ingress, ("defaultBackend", "backend"), from_stored, false),
};

type Backend = fn(Map<String, Value>) -> Map<String, Value>;

fn moved(mut ingress: Value, names: (&str, &str), backend: Backend, fills_in: bool) -> Value {
    let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) else { return ingress };
    if let Some(default) = spec.remove(names.0) {
        spec.insert(names.1.to_owned(), changed(default, backend));
    }
    let rules = spec.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten();
    for rule in rules {
        let paths = rule.pointer_mut("/http/paths").and_then(Value::as_array_mut).into_iter().flatten();
        for path in paths.filter_map(Value::as_object_mut) {
            if let Some(of_path) = path.get_mut("backend") {
                *of_path = changed(of_path.take(), backend);
            }
            // Paths had no type before: it was for the controller to say what they match.
            if fills_in && path.get("pathType").is_none_or(Value::is_null) {
                path.insert("pathType".to_owned(), "ImplementationSpecific".into());
            }
        }
    }
    ingress
}

fn changed(backend: Value, change: Backend) -> Value {
    match backend {
        Value::Object(members) => Value::Object(change(members)),
        // What is no backend is for validation to refuse.
        other => other,
    }
}

fn to_stored(mut backend: Map<String, Value>) -> Map<String, Value> {
    let (name, port) = (backend.remove("serviceName"), backend.remove("servicePort"));
    if name.is_none() && port.is_none() {
        return backend;
    }
    let mut service = Map::new();
    service.extend(name.map(|name| ("name".to_owned(), name)));
    service.extend(port.map(|port| {
        let member = if port.is_string() { "name" } else { "number" };
        ("port".to_owned(), json!({ member: port }))
    }));
    backend.insert("service".to_owned(), Value::Object(service));
    backend
}

fn from_stored(mut backend: Map<String, Value>) -> Map<String, Value> {
    let Some(service) = backend.remove("service") else { return backend };
    if let Some(name) = service.get("name") {
        backend.insert("serviceName".to_owned(), name.clone());
    }
    let port = |member: &str| service.pointer(&format!("/port/{member}")).filter(|v| !v.is_null()).cloned();
    if let Some(port) = port("name").or_else(|| port("number")) {
        backend.insert("servicePort".to_owned(), port);
    }
    backend
}
