//! `pods/exec`, `pods/attach`, `pods/portforward`: requests whose connection becomes something
//! else, between the client and the node that runs the pod.
//!
//! What is spoken then is for these two alone. Here it is decided who may do it and with which
//! container, and the node is asked; it is the node that accepts or refuses the upgrade.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use proa_api::Refusal;
use proa_api::names::STREAMS_HOLDER_HEADER;
use proa_kinds::Kind;
use serde_json::Value;

use super::api::{Api, Call};
use super::authorize::Attributes;
use super::log::{choose_container, encode};
use super::path::Verb;
use super::proxy::turns::holder;
use super::query::Query;

/// The headers by which client and node agree on a protocol.
const HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    HeaderName::from_static("x-stream-protocol-version"),
];
/// Flags of `exec` and `attach`, and what the node calls them.
const FLAGS: [(&str, &str); 4] =
    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// Asks the node, and gives its answer to the client.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    // Reading is not running: a GET, which WebSocket clients must use, needs the right to create.
    api.authorizer.check(
        &call.caller,
        &Attributes::Resource {
            verb: Verb::Create.as_str(),
            group: "",
            plural: "pods",
            subresource: &call.path.subresource,
            namespace: call.path.namespace.as_deref(),
            name: call.name(),
        },
    )?;
    let pod = api.registry.get(kind, call.namespace(), call.name())?.value();
    let uri = node_uri(&pod, call)?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let (true, Some(connection)) = (call.headers.contains_key(header::UPGRADE), &call.upgrade) else {
        return Err(Refusal::bad_request("Upgrade request required"));
    };
    let method = if call.verb == Verb::Get { Method::GET } else { Method::POST };
    let request = Request::builder().method(method).uri(uri).body(Body::empty());
    let mut request = request.map_err(Refusal::internal)?;
    for name in HEADERS {
        for value in call.headers.get_all(&name) {
            request.headers_mut().append(&name, value.clone());
        }
    }
    let holder = HeaderValue::try_from(encode(holder(&call.caller.user))).map_err(Refusal::internal)?;
    request.headers_mut().insert(STREAMS_HOLDER_HEADER, holder);
    request.extensions_mut().insert(connection.clone());
    api.kubelets.request(node, request).await
}

/// What the node is asked for.
fn node_uri(pod: &Value, call: &Call) -> Result<String, Refusal> {
    let name = call.name();
    let pod_path = format!("{}/{}", encode(call.namespace()), encode(name));
    let host = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let assigned = if host.is_empty() {
        Err(Refusal::bad_request(format!("pod {name} does not have a host assigned")))
    } else {
        Ok(())
    };
    if call.path.subresource == "portforward" {
        assigned?;
        let ports: Vec<String> =
            call.query.all("ports").map(|port| format!("port={}", encode(port))).collect();
        return Ok(format!("/portForward/{pod_path}?{}", ports.join("&")));
    }
    let container = container(pod, name, call.query.get("container"))?;
    assigned?;
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let is_exec = call.path.subresource == "exec";
    if matches!(phase, "Succeeded" | "Failed") {
        let what = if is_exec { "exec into" } else { "attach" };
        return Err(Refusal::bad_request(format!(
            "cannot {what} a container in a completed pod; current phase is {phase}"
        )));
    }
    let verb = if is_exec { "exec" } else { "attach" };
    Ok(format!("/{verb}/{pod_path}/{}?{}", encode(&container), parameters(&call.query, is_exec)))
}

/// The container that is meant: the one that is named, or the only one.
fn container(pod: &Value, pod_name: &str, named: Option<&str>) -> Result<String, Refusal> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).map(Vec::as_slice);
    match (named, containers) {
        (None, Some([only])) => Ok(only["name"].as_str().unwrap_or_default().to_owned()),
        _ => choose_container(pod, pod_name, named),
    }
}

fn parameters(query: &Query, is_exec: bool) -> String {
    let flags = FLAGS.iter().filter(|(name, _)| query.flag(name)).map(|(_, node)| format!("{node}=1"));
    let command = query.all("command").filter(|_| is_exec).map(|word| format!("command={}", encode(word)));
    flags.chain(command).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_single_container_need_not_be_named() {
        let pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "p", None).unwrap(), "a");
        assert_eq!(container(&pod, "p", Some("i")).unwrap(), "i");
        let refusal = container(&pod, "p", Some("x")).unwrap_err();
        assert_eq!(refusal.to_string(), "container x is not valid for pod p");
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, "p", None).unwrap_err().to_string(),
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }

    #[test]
    fn parameters_have_other_names_on_the_node() {
        let query = Query::of(
            &"/x?command=sh&command=-c&command=echo+a%26b&stdin=true&tty=false&stdout=1".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(parameters(&query, true), "input=1&output=1&command=sh&command=-c&command=echo%20a%26b");
        assert_eq!(parameters(&query, false), "input=1&output=1");
    }
}
