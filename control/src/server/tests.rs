//! Requests against a whole server on a temporary directory.

mod bodies;
mod compat;
mod connections;
mod kinds;
mod nodes;
mod pod_security;
mod proxy;
mod rbac;

use std::io::Read;
use std::time::Duration;

use futures::StreamExt;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

struct Fixture {
    server: Server,
    _dir: tempfile::TempDir,
}

struct Answer {
    code: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {}", self.text))
    }

    #[track_caller]
    fn refused(&self, code: u16, message: &str) {
        assert_eq!((self.code, self.json()["message"].as_str()), (code, Some(message)), "{}", self.text);
    }
}

fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        advertise: Some("192.0.2.1:6443".parse().unwrap()),
        node_name: "n1".to_owned(),
        settings: ClusterSettings::default(),
        extra_names: Vec::new(),
        build: Default::default(),
        deny_external_ips: false,
        connections: 1000,
        legacy_api: true,
        scheduler: Default::default(),
    }
}

impl Fixture {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Fixture { server: Server::start(config(dir.path())).await.unwrap(), _dir: dir }
    }

    async fn send(&self, caller: Option<Caller>, request: Request<Body>) -> Response<Body> {
        let mut request = request;
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        api::answer(self.server.api.clone(), request).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        self.ask_as(Some(Caller::system("system:test")), method, path, headers, body).await
    }

    async fn ask_as(
        &self,
        caller: Option<Caller>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(caller, request.body(body.into()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    async fn config_map(&self, name: &str) -> Value {
        let made =
            self.post(CONFIG_MAPS, json!({ "metadata": { "name": name, "labels": { "a": name } } })).await;
        assert_eq!(made.code, 201, "{}", made.text);
        made.json()
    }
}

/// Lines of a watch, each with a deadline.
struct Lines {
    body: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await;
            self.buffer.extend_from_slice(&chunk.expect("a watch event in time")?.unwrap());
        }
    }
}

async fn watch(fixture: &Fixture, path: &str, accept: &str) -> Lines {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    let response = fixture.send(Some(Caller::system("system:test")), request).await;
    assert_eq!(response.status(), 200);
    Lines { body: response.into_body().into_data_stream(), buffer: Vec::new() }
}

#[tokio::test]
async fn verbs_on_an_object() {
    let f = Fixture::start().await;
    let made = f.config_map("a").await;
    assert_eq!(made["kind"], "ConfigMap");
    let one = format!("{CONFIG_MAPS}/a");
    assert_eq!(f.get(&one).await.json(), made);
    f.post(CONFIG_MAPS, json!({ "metadata": { "name": "a" } }))
        .await
        .refused(409, "configmaps \"a\" already exists");
    f.get(&format!("{CONFIG_MAPS}/b")).await.refused(404, "configmaps \"b\" not found");

    let mut changed = made.clone();
    changed["data"] = json!({ "k": "v" });
    let updated = f.ask("PUT", &one, &[], changed.to_string()).await;
    assert_eq!((updated.code, &updated.json()["data"]["k"]), (200, &json!("v")));
    f.ask("PUT", &one, &[], changed.to_string()).await.refused(
        409,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );

    for (media, body) in [
        ("application/merge-patch+json", json!({ "data": { "m": "1" } })),
        ("application/strategic-merge-patch+json", json!({ "data": { "s": "2" } })),
        ("application/json-patch+json", json!([{ "op": "add", "path": "/data/j", "value": "3" }])),
    ] {
        let patched = f.ask("PATCH", &one, &[("content-type", media)], body.to_string()).await;
        assert_eq!(patched.code, 200, "{media}: {}", patched.text);
    }
    assert_eq!(f.get(&one).await.json()["data"], json!({ "k": "v", "m": "1", "s": "2", "j": "3" }));
    let apply = f.ask("PATCH", &one, &[("content-type", "application/apply-patch+yaml")], "{}").await;
    assert_eq!(apply.code, 415);

    let dry = f.ask("DELETE", &format!("{one}?dryRun=All"), &[], "").await;
    assert_eq!(dry.code, 200);
    let gone = f.ask("DELETE", &one, &[], r#"{"propagationPolicy":"Background"}"#).await;
    assert_eq!((gone.code, &gone.json()["status"]), (200, &json!("Success")));
    assert_eq!(gone.json()["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(f.get(&one).await.code, 404);
    f.server.shutdown().await;
}

#[tokio::test]
async fn lists() {
    let f = Fixture::start().await;
    for name in ["a", "b", "c"] {
        f.config_map(name).await;
    }
    let all = f.get(CONFIG_MAPS).await.json();
    assert_eq!((&all["kind"], &all["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).filter(|n| n.len() == 1).collect()
    };
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert_eq!(
        names(&f.get(&format!("{CONFIG_MAPS}?labelSelector=a%20in%20(a,c)")).await.json()),
        ["a", "c"]
    );
    let one = f.get("/api/v1/configmaps?fieldSelector=metadata.name%3Db").await.json();
    assert_eq!(names(&one), ["b"]);

    let first = f.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=a")).await.json();
    assert_eq!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = f.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=a&continue={token}")).await.json();
    assert_eq!(names(&second), ["c"]);
    assert!(second["metadata"]["continue"].is_null());

    assert_eq!(f.get(&format!("{CONFIG_MAPS}?labelSelector=a,,b")).await.code, 400);
    assert_eq!(f.get(&format!("{CONFIG_MAPS}?fieldSelector=spec.x%3D1")).await.code, 400);
    let yaml = f.ask("GET", &format!("{CONFIG_MAPS}/a"), &[("accept", "application/yaml")], "").await;
    assert!(yaml.text.contains("kind: ConfigMap\n"), "{}", yaml.text);

    let removed = f.ask("DELETE", &format!("{CONFIG_MAPS}?labelSelector=a%3Da"), &[], "").await;
    assert_eq!(names(&removed.json()), ["a"]);
    assert_eq!(names(&f.get(CONFIG_MAPS).await.json()), ["b", "c"]);
    f.server.shutdown().await;
}

#[tokio::test]
async fn tables_and_metadata() {
    let f = Fixture::start().await;
    f.config_map("a").await;
    let path = format!("{CONFIG_MAPS}?labelSelector=a");
    let table = f.ask("GET", &path, &[("accept", TABLE)], "").await.json();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    let whole = f.ask("GET", &format!("{path}&includeObject=Object"), &[("accept", TABLE)], "").await.json();
    assert_eq!(whole["rows"][0]["object"]["kind"], "ConfigMap");
    let none = f.ask("GET", &format!("{path}&includeObject=None"), &[("accept", TABLE)], "").await.json();
    assert!(none["rows"][0]["object"].is_null());
    let single = f.ask("GET", &format!("{CONFIG_MAPS}/a"), &[("accept", TABLE)], "").await.json();
    assert_eq!(single["rows"].as_array().unwrap().len(), 1);

    let metadata = [("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    let list = f.ask("GET", &path, &metadata, "").await.json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert!(list["items"][0].get("data").is_none());

    let deployment = json!({ "metadata": { "name": "d" }, "spec": {
        "replicas": 3, "selector": { "matchLabels": { "a": "b" } },
        "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } },
    } });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(f.post(deployments, deployment).await.code, 201);
    let scale = f.ask("GET", &format!("{deployments}/d/scale"), &[("accept", TABLE)], "").await.json();
    assert_eq!(scale["columnDefinitions"][1]["name"], "Desired");
    assert_eq!((&scale["rows"][0]["cells"][0], &scale["rows"][0]["cells"][1]), (&json!("d"), &json!(3)));

    let only_protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(f.ask("GET", &path, &only_protobuf, "").await.code, 406);
    f.server.shutdown().await;
}

#[tokio::test]
async fn watches_resume_and_end() {
    let f = Fixture::start().await;
    let made = f.config_map("a").await;
    let from = made["metadata"]["resourceVersion"].as_str().unwrap();
    let selected = format!("{CONFIG_MAPS}?watch=true&labelSelector=a");
    let mut resumed = watch(&f, &format!("{selected}&resourceVersion={from}"), "").await;
    f.config_map("b").await;
    let event = resumed.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
    f.ask("DELETE", &format!("{CONFIG_MAPS}/b"), &[], "").await;
    assert_eq!(resumed.next().await.unwrap()["type"], "DELETED");

    let mut table = watch(&f, &selected, TABLE).await;
    let first = table.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    f.config_map("c").await;
    let second = table.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "c");

    let initial = format!(
        "{selected}&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let mut initial = watch(&f, &initial, "").await;
    let mut types = Vec::new();
    for _ in 0..3 {
        let event = initial.next().await.unwrap();
        types.push(event["type"].as_str().unwrap().to_owned());
        if event["type"] == "BOOKMARK" {
            assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
            assert_eq!(event["object"]["kind"], "ConfigMap");
        }
    }
    assert_eq!(types, ["ADDED", "ADDED", "BOOKMARK"]);

    let none = format!("{selected}&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut from_now = watch(&f, &none, "").await;
    f.config_map("d").await;
    let event = from_now.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("d")));

    let mut short =
        watch(&f, &format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dx"), "")
            .await;
    assert!(short.next().await.is_none(), "the time is over");
    f.server.shutdown().await;
    assert!(table.next().await.is_none(), "a server that stops ends its watches");
}

#[tokio::test]
async fn yaml_is_read_as_kubernetes_reads_it() {
    let f = Fixture::start().await;
    let yaml = [("content-type", "application/yaml")];
    let body = "metadata: {name: y}\nimmutable: yes\ndata: {a: 'yes'}\n";
    let made = f.ask("POST", CONFIG_MAPS, &yaml, body).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!((&made.json()["immutable"], &made.json()["data"]["a"]), (&json!(true), &json!("yes")));
    f.server.shutdown().await;
}

#[tokio::test]
async fn pods_are_evicted_by_old_and_new_clients() {
    let f = Fixture::start().await;
    for version in ["policy/v1", "policy/v1beta1"] {
        let pod =
            json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
        assert_eq!(f.post(PODS, pod).await.code, 201);
        let eviction = json!({ "apiVersion": version, "kind": "Eviction", "metadata": { "name": "p" } });
        let evicted = f.post(&format!("{PODS}/p/eviction"), eviction).await;
        assert_eq!(evicted.code, 201, "{}", evicted.text);
        assert_eq!(f.get(&format!("{PODS}/p")).await.code, 404);
    }
    f.server.shutdown().await;
}

#[tokio::test]
async fn paths_and_methods() {
    let f = Fixture::start().await;
    for (method, path, code) in [
        ("GET", "/api/v1/nothings", 404),
        ("GET", "/apis/none/v1", 404),
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("POST", "/api/v1/pods", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("OPTIONS", PODS, 405),
        ("POST", "/version", 405),
        ("GET", "/healthz", 200),
        ("GET", "/readyz?verbose", 200),
        ("GET", "/readyz/ping", 200),
        ("GET", "/readyz/none", 404),
        ("GET", "/api/v1/namespaces/default/configmaps/a/status", 404),
    ] {
        let answer = f.ask(method, path, &[], "").await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
    }
    assert!(f.get("/readyz?verbose").await.text.ends_with("readyz check passed\n"));
    let version = f.get("/version").await.json();
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.35.0+proa"));

    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")];
    let aggregated = f.ask("GET", "/apis", &accept, "").await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(f.get("/apis").await.json()["kind"], "APIGroupList");
    let core = f.get("/api/v1").await.json();
    let names: Vec<&str> =
        core["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for expected in
        ["pods", "pods/log", "pods/binding", "pods/status", "services", "serviceaccounts/token", "bindings"]
    {
        assert!(names.contains(&expected), "{expected} is not among {names:?}");
    }
    for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1"] {
        let schema = f.get(path).await;
        assert_eq!(schema.code, 200, "{path}");
        let tag = schema.headers["etag"].to_str().unwrap();
        assert_eq!(f.ask("GET", path, &[("if-none-match", tag)], "").await.code, 304);
        let request = Request::get(path).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
        let packed = f.send(Some(Caller::system("system:test")), request).await;
        assert_eq!(packed.headers()["content-encoding"], "gzip", "{path}");
        let packed = packed.into_body().collect().await.unwrap().to_bytes();
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).unwrap();
        assert!(unpacked == schema.text, "{path}");
    }
    f.server.shutdown().await;
}

#[tokio::test]
async fn the_first_objects_are_there_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut versions = Vec::new();
    for _ in 0..2 {
        let f = Fixture {
            server: Server::start(config(dir.path())).await.unwrap(),
            _dir: tempfile::tempdir().unwrap(),
        };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            assert_eq!(f.get(&format!("/api/v1/namespaces/{name}")).await.code, 200);
        }
        let service = f.get("/api/v1/namespaces/default/services/kubernetes").await.json();
        assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
        let slices =
            f.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.json();
        assert_eq!(slices["endpoints"][0]["addresses"][0], "192.0.2.1");
        assert_eq!(f.get("/apis/networking.k8s.io/v1/ingressclasses/proa").await.code, 200);
        versions.push(service["metadata"]["uid"].clone());
        f.server.shutdown().await;
    }
    assert_eq!(versions[0], versions[1]);
}

#[tokio::test]
async fn who_may_do_what() {
    let f = Fixture::start().await;
    let nobody = f.ask_as(None, "GET", PODS, &[], "").await;
    nobody.refused(
        403,
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    assert_eq!(f.ask_as(None, "GET", "/readyz", &[], "").await.code, 200);
    assert_eq!(f.ask_as(None, "GET", "/apis", &[], "").await.code, 403);
    assert_eq!(f.ask_as(None, "GET", "/version", &[("authorization", "Bearer x")], "").await.code, 401);
    let account = f
        .post("/api/v1/namespaces/default/serviceaccounts", json!({ "metadata": { "name": "robot" } }))
        .await;
    assert_eq!(account.code, 201, "{}", account.text);
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let token = f.post(path, json!({ "spec": { "expirationSeconds": 3600 } })).await.json();
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    f.ask_as(None, "GET", PODS, &headers, "").await.refused(
        403,
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    assert_eq!(f.ask_as(None, "GET", "/version", &headers, "").await.code, 200);
    let me = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = f.ask_as(None, "POST", me, &headers, "{}").await.json();
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:default:robot");

    let review = json!({ "spec": { "token": token["status"]["token"] } });
    let review = f.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.json();
    assert_eq!(review["status"]["authenticated"], true);
    let can_i = json!({ "spec": { "resourceAttributes": { "verb": "list", "resource": "pods" } } });
    let can_i = f.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", can_i).await.json();
    assert_eq!(can_i["status"]["allowed"], true);

    let short = f.post(path, json!({ "spec": { "expirationSeconds": 5 } })).await;
    assert_eq!(short.code, 422);
    f.ask("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", &[], "").await;
    assert_eq!(f.ask_as(None, "GET", "/version", &headers, "").await.code, 401, "its account is gone");
    let impersonating = [("impersonate-user", "jane")];
    assert_eq!(f.ask("GET", PODS, &impersonating, "").await.code, 403);
    f.server.shutdown().await;
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let f = Fixture::start().await;
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }, { "name": "d", "image": "i" }] } });
    let made = f.post(PODS, pod).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let log = format!("{PODS}/p/log");
    f.get(&log).await.refused(400, "a container name must be specified for pod p, choose one of: [c d]");
    f.get(&format!("{log}?container=c"))
        .await
        .refused(400, "container \"c\" in pod \"p\" is waiting to start: ContainerCreating");
    let node = json!({ "metadata": { "name": "n1" } });
    assert_eq!(f.post("/api/v1/nodes", node).await.code, 201);
    let bound =
        f.post(&format!("{PODS}/p/binding"), json!({ "target": { "kind": "Node", "name": "n1" } })).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
    f.get(&format!("{log}?container=c"))
        .await
        .refused(500, "no preferred addresses found; known addresses: []");

    let echo = |uri: http::Uri| async move { uri.to_string() };
    let kubelet = axum::Router::new().route("/containerLogs/{ns}/{pod}/c", axum::routing::get(echo)).route(
        "/containerLogs/{ns}/{pod}/d",
        axum::routing::get(|| async { (StatusCode::BAD_REQUEST, "container \"d\" is not ready") }),
    );
    f.server.add_node("n1", kubelet);
    let text = f.get(&format!("{log}?container=c&tailLines=3&follow=true")).await.text;
    assert_eq!(text, "/containerLogs/default/p/c?follow=true&tailLines=3");
    f.get(&format!("{log}?container=d")).await.refused(400, "container \"d\" is not ready");
    assert_eq!(f.get(&format!("{log}?container=c&tailLines=-1")).await.code, 422);
    f.server.shutdown().await;
}

#[tokio::test]
async fn the_in_process_client() {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
    let f = Fixture::start().await;
    let client = f.server.client(Caller::system("system:test"));
    let namespaces: kube::Api<Namespace> = kube::Api::all(client.clone());
    assert!(namespaces.list(&kube::api::ListParams::default()).await.unwrap().items.len() >= 4);
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client, "default");
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("a".into()), ..Default::default() },
        ..Default::default()
    };
    maps.create(&kube::api::PostParams::default(), &map).await.unwrap();
    let again = maps.create(&kube::api::PostParams::default(), &map).await.unwrap_err();
    assert!(matches!(again, kube::Error::Api(status) if status.reason == "AlreadyExists"));
    assert!(maps.delete("a", &kube::api::DeleteParams::default()).await.unwrap().is_right());
    f.server.shutdown().await;
}

#[tokio::test]
async fn headers_that_say_who_someone_is_are_read_or_refused() {
    let f = Fixture::start().await;
    let ask = async |caller: Option<Caller>, headers: &[(&str, &[u8])]| {
        let mut request = Request::get(CONFIG_MAPS);
        for (name, value) in headers {
            request = request.header(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let response = f.send(caller, request.body(Body::empty()).unwrap()).await;
        let code = response.status().as_u16();
        (code, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let admin = || Some(Caller::system("admin"));
    assert_eq!(ask(admin(), &[]).await.0, 200);
    let (code, text) = ask(admin(), &[("impersonate-user", "jürgen".as_bytes())]).await;
    assert!(code == 403 && text.contains("User \\\"jürgen\\\" cannot list"), "{code} {text}");
    let (code, text) = ask(admin(), &[("impersonate-user", b"jane"), ("impersonate-user", b"admin")]).await;
    assert!(code == 403 && text.contains("jane"), "{code} {text}");
    assert_eq!(ask(admin(), &[("impersonate-user", b"j\xfcrgen")]).await.0, 400);
    assert_eq!(ask(admin(), &[("impersonate-group", b"system:masters")]).await.0, 400);
    assert_eq!(ask(None, &[("authorization", "Bearer töken".as_bytes())]).await.0, 401);
    assert_eq!(ask(None, &[("authorization", b"Bearer t\xf6ken")]).await.0, 401);
    // Who may impersonate an account of a namespace may not for that be any user.
    let namer = Caller::part("namer");
    let rules = json!([{ "verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"] }]);
    let group = "/apis/rbac.authorization.k8s.io/v1";
    f.post(&format!("{group}/clusterroles"), json!({ "metadata": { "name": "namer" }, "rules": rules }))
        .await;
    let binding = json!({
        "metadata": { "name": "namer" }, "roleRef": { "kind": "ClusterRole", "name": "namer" },
        "subjects": [{ "kind": "User", "name": "namer" }],
    });
    f.post(&format!("{group}/clusterrolebindings"), binding).await;
    let as_user =
        async |user: &str| ask(Some(namer.clone()), &[("impersonate-user", user.as_bytes())]).await.1;
    assert!(as_user("system:serviceaccount:a:b").await.contains("cannot list resource"));
    assert!(
        as_user("system:serviceaccount:a:b:c").await.contains("cannot impersonate resource \\\"users\\\"")
    );
    f.server.shutdown().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::start(Config { listen: vec![address], ..config(dir.path()) }).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "the API cannot listen on {address}: the port is in use; stop what uses it or choose another with --api-listen"
        )
    );
}
