//! `pods/log`: what a container wrote, fetched from the node that runs it.

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::Kind;
use serde_json::Value;

use super::api::{Api, Call};
use super::frames;
use super::query::Query;

/// The parameters that the node understands; the same names as in the API.
const PARAMETERS: &[&str] =
    &["follow", "limitBytes", "previous", "sinceSeconds", "sinceTime", "tailLines", "timestamps"];
/// More of a node's error text is not shown.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// Answers with the log, which may go on for as long as the container runs.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    check_options(&call.query, call.name())?;
    let pod = api.registry.get(kind, call.namespace(), call.name())?.value();
    let container = choose_container(&pod, call.name(), call.query.get("container"))?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(Refusal::bad_request(format!(
            "container {container:?} in pod {:?} is waiting to start: ContainerCreating",
            call.name()
        )));
    }
    let uri = format!(
        "/containerLogs/{}/{}/{}?{}",
        encode(call.namespace()),
        encode(call.name()),
        encode(&container),
        forwarded(&call.query)
    );
    let request = Request::get(uri).body(Body::empty()).map_err(Refusal::internal)?;
    let response = api.kubelets.request(node, request).await?;
    if !response.status().is_success() {
        return Err(node_refusal(response).await);
    }
    if frames::asked(call) { frames::log(call, response).await } else { Ok(response) }
}

/// What a node said against it, as the refusal that the stock server makes of it.
async fn node_refusal(response: Response<Body>) -> Refusal {
    let code = response.status();
    let text = match Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    match code {
        StatusCode::BAD_REQUEST => Refusal::bad_request(text),
        StatusCode::NOT_FOUND => Refusal::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log): {text}"),
        ),
        StatusCode::INTERNAL_SERVER_ERROR => Refusal::internal(text),
        other => Refusal::new(other.as_u16(), "Unknown", text),
    }
}

fn check_options(query: &Query, pod_name: &str) -> Result<(), Refusal> {
    let mut errors = FieldErrors::new();
    for (name, least, text) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        match query.number(name)? {
            Some(number) if number < least => errors.invalid(&Path::root(name), number, text),
            _ => {}
        }
    }
    if let Some(stream) = query.get("stream").filter(|stream| *stream != "All") {
        errors.not_supported(&Path::root("stream"), stream, &["All"]);
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        errors.forbidden(&Path::root(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if let Some(time) = query.get("sinceTime")
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(Refusal::bad_request(format!("parsing time {time:?}: it is not in RFC 3339 format")));
    }
    if errors.is_empty() { Ok(()) } else { Err(Refusal::invalid("", "PodLogOptions", pod_name, &errors)) }
}

/// The container whose log is meant: the one that is named, or the only one.
pub fn choose_container(pod: &Value, pod_name: &str, named: Option<&str>) -> Result<String, Refusal> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        containers.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (own, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if let Some(named) = named {
        let known = own.iter().chain(&init).chain(&ephemeral).any(|name| *name == named);
        return if known {
            Ok(named.to_owned())
        } else {
            Err(Refusal::bad_request(format!("container {named} is not valid for pod {pod_name}")))
        };
    }
    if let [only] = own[..]
        && init.is_empty()
        && ephemeral.is_empty()
    {
        return Ok(only.to_owned());
    }
    if own.is_empty() {
        return Err(Refusal::bad_request(format!("a container name must be specified for pod {pod_name}")));
    }
    let mut text =
        format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", own.join(" "));
    if !init.is_empty() {
        text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    if !ephemeral.is_empty() {
        text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
    }
    Err(Refusal::bad_request(text))
}

fn forwarded(query: &Query) -> String {
    let pairs: Vec<String> = PARAMETERS
        .iter()
        .filter_map(|name| query.get(name).map(|value| format!("{name}={}", encode(value))))
        .collect();
    pairs.join("&")
}

/// Percent-encodes all but the characters that are safe everywhere in a URI (RFC 3986,
/// section 2.3).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: Value, named: Option<&str>, expected: Result<&str, &str>) {
        let found = choose_container(&json!({ "spec": spec }), "p", named).map_err(|e| e.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn containers() {
        let one = json!({ "containers": [{ "name": "a" }] });
        let two = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
        let with_init = json!({ "containers": [{ "name": "a" }], "initContainers": [{ "name": "i" }] });
        check(one.clone(), None, Ok("a"));
        check(one, Some("b"), Err("container b is not valid for pod p"));
        check(two.clone(), Some("b"), Ok("b"));
        check(two, None, Err("a container name must be specified for pod p, choose one of: [a b]"));
        check(
            with_init,
            None,
            Err(
                "a container name must be specified for pod p, choose one of: [a] or one of the init containers: [i]",
            ),
        );
    }

    #[test]
    fn one_stream_alone_is_refused() {
        let check = |text: &str| {
            let query = Query::of(&format!("/x?{text}").parse().unwrap()).unwrap();
            check_options(&query, "p").map_err(|refusal| refusal.to_string())
        };
        assert_eq!(check("stream=All"), Ok(()));
        let why = "PodLogOptions \"p\" is invalid: stream: Unsupported value: \"Stderr\": \
                   supported values: \"All\"";
        assert_eq!(check("stream=Stderr"), Err(why.to_owned()));
    }

    #[test]
    fn parameters_reach_the_node_encoded() {
        let query = Query::of(
            &"/x?follow=true&sinceTime=2024-01-01T00:00:00%2B01:00&container=c&other=1".parse().unwrap(),
        )
        .unwrap();
        assert_eq!(forwarded(&query), "follow=true&sinceTime=2024-01-01T00%3A00%3A00%2B01%3A00");
    }
}
