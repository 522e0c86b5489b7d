//! The service proxy follows what the API says.

use futures::StreamExt;
use serde_json::{Value, json};

use super::*;

/// An API that lists what it is given and then reports `later`, for ever.
fn played_api(services: Value, slices: Value, later: Value) -> kube::Client {
    let nodes = json!([]);
    let answer = move |request: http::Request<kube::client::Body>| {
        let path = request.uri().path();
        let watch = request.uri().query().unwrap_or_default().contains("watch=true");
        let (kind, items) = match path {
            "/api/v1/services" => ("ServiceList", &services),
            "/apis/discovery.k8s.io/v1/endpointslices" => ("EndpointSliceList", &slices),
            "/api/v1/nodes" => ("NodeList", &nodes),
            other => panic!("unexpected request for {other}"),
        };
        let first = match (watch, kind) {
            (true, "EndpointSliceList") => format!("{}\n", json!({"type": "ADDED", "object": later})),
            (true, _) => String::new(),
            (false, _) => {
                json!({"kind": kind, "metadata": {"resourceVersion": "1"}, "items": items}).to_string()
            }
        };
        let frame = hyper::body::Frame::data(bytes::Bytes::from(first));
        let first = futures::stream::iter([Ok::<_, std::convert::Infallible>(frame)]);
        let rest = futures::stream::pending();
        let body = if watch { first.chain(rest).boxed() } else { first.boxed() };
        let response = http::Response::new(http_body_util::StreamBody::new(body));
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    };
    kube::Client::new(tower::service_fn(answer), "default")
}

#[test]
fn the_proxy_follows_the_api() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let at_a = network.attach("a", a.thread).await.unwrap();
        let at_b = network.attach("b", b.thread).await.unwrap();
        a.serve(8080);
        b.serve(8080);
        let slice = |name: &str, address: Ipv4Addr| {
            json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "2",
                       "labels": {"kubernetes.io/service-name": "web"}},
                   "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}]})
        };
        let service = json!({"metadata": {"name": "web", "namespace": "default"},
                             "spec": {"clusterIP": SERVICE, "ports": [{"port": 80}]}});
        let mut later = slice("web-2", at_b);
        later["apiVersion"] = json!("discovery.k8s.io/v1");
        later["kind"] = json!("EndpointSlice");
        let client = played_api(json!([service]), json!([slice("web-1", at_a)]), later);
        let stop = tokio_util::sync::CancellationToken::new();
        let running = tokio::spawn(proxy::run(client, network.clone(), "n1".into(), stop.clone()));
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let seen = tokio::task::spawn_blocking(|| ask((SERVICE, 80))).await.unwrap();
            if seen.is_ok_and(|answer| answer.starts_with('b')) {
                break;
            }
            assert!(Instant::now() < deadline, "the second endpoint was never used");
        }
        assert_eq!(names((SERVICE, 80), 40), set(&["a", "b"]));
        stop.cancel();
        running.await.unwrap();
        // The rules stay.
        assert_eq!(names((SERVICE, 80), 40), set(&["a", "b"]));
    });
}
