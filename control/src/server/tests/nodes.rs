//! What a node's certificate is good for: every verb of every resource, on what is the node's own and
//! on what is another's.

use expect_test::expect;
use proa_kinds::Kind;

use super::*;

const NODES: [&str; 2] = ["a", "b"];

/// Two nodes with a pod each, and what the pods name.
async fn two_nodes() -> Fixture {
    let f = Fixture::start().await;
    let make = async |path: &str, name: String, mut object: Value| {
        object["metadata"]["name"] = name.into();
        let made = f.post(path, object).await;
        assert_eq!(made.code, 201, "{}", made.text);
    };
    let (core, namespaced) = ("/api/v1", "/api/v1/namespaces/default");
    for n in NODES {
        make(&format!("{core}/nodes"), n.to_owned(), json!({})).await;
        make("/apis/storage.k8s.io/v1/csinodes", n.to_owned(), json!({ "spec": { "drivers": [] } })).await;
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        make(lease, n.to_owned(), json!({})).await;
        make(&format!("{namespaced}/secrets"), format!("secrets-{n}"), json!({})).await;
        make(&format!("{namespaced}/configmaps"), format!("configmaps-{n}"), json!({})).await;
        make(&format!("{namespaced}/serviceaccounts"), format!("serviceaccounts-{n}"), json!({})).await;
        let claim = format!("persistentvolumeclaims-{n}");
        make(
            &format!("{namespaced}/persistentvolumeclaims"),
            claim.clone(),
            json!({ "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
                "volumeName": format!("persistentvolumes-{n}"),
            } }),
        )
        .await;
        make(
            &format!("{core}/persistentvolumes"),
            format!("persistentvolumes-{n}"),
            json!({ "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "hostPath": { "path": "/x" },
                "claimRef": { "namespace": "default", "name": claim },
            } }),
        )
        .await;
        make(
            &format!("{namespaced}/pods"),
            format!("pods-{n}"),
            json!({ "spec": {
                "nodeName": n, "serviceAccountName": format!("serviceaccounts-{n}"),
                "containers": [{ "name": "c", "image": "i" }],
                "volumes": [
                    { "name": "s", "secret": { "secretName": format!("secrets-{n}") } },
                    { "name": "c", "configMap": { "name": format!("configmaps-{n}") } },
                    { "name": "p", "persistentVolumeClaim": { "claimName": claim } },
                ],
            } }),
        )
        .await;
    }
    f
}

/// The name of the object of a node.
fn name_of(plural: &str, node: &str) -> String {
    if matches!(plural, "nodes" | "csinodes" | "leases") {
        node.to_owned()
    } else {
        format!("{plural}-{node}")
    }
}

/// Where objects of a kind are.
fn path_of(kind: &Kind) -> String {
    let base = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let namespace = match (kind.namespaced, kind.plural.as_str()) {
        (false, _) => "",
        (true, "leases") => "namespaces/kube-node-lease/",
        (true, _) => "namespaces/default/",
    };
    format!("{base}/{}/{namespace}{}", kind.version, kind.plural)
}

/// The requests about a kind: what is said of each, its method, its path and its body's name.
fn requests(kind: &Kind, whose: &str, node: &str) -> Vec<(String, &'static str, String, Option<String>)> {
    let (path, name) = (path_of(kind), name_of(&kind.plural, node));
    let resource = kind.resource();
    let mut all = Vec::new();
    let mut add = |what: String, method, path: String| {
        let posts = matches!(method, "POST" | "PUT" | "PATCH");
        all.push((what, method, path, posts.then(|| name.clone())));
    };
    for (how, query) in [
        ("", String::new()),
        (" by name", format!("&fieldSelector=metadata.name%3D{name}")),
        (" by node", format!("&fieldSelector=spec.nodeName%3D{node}")),
    ] {
        if how == " by node" && kind.plural != "pods" {
            continue;
        }
        if !how.is_empty() || whose == "own" {
            add(format!("list {resource}{how} {whose}"), "GET", format!("{path}?{query}"));
            add(format!("watch {resource}{how} {whose}"), "GET", format!("{path}?watch=1{query}"));
        }
    }
    add(format!("create {resource} {whose}"), "POST", format!("{path}?dryRun=All"));
    if whose == "own" {
        add(format!("deletecollection {resource}"), "DELETE", format!("{path}?dryRun=All"));
    }
    let parts = ["status", "scale"].into_iter().chain(
        kind.subresources.iter().map(|part| &*part.name).filter(|name| !["status", "scale"].contains(name)),
    );
    for part in std::iter::once("").chain(parts) {
        let slash = if part.is_empty() { "" } else { "/" };
        for (verb, method) in
            [("get", "GET"), ("create", "POST"), ("update", "PUT"), ("patch", "PATCH"), ("delete", "DELETE")]
        {
            if part.is_empty() && verb == "create" {
                continue;
            }
            let query = if verb == "get" { "" } else { "?dryRun=All" };
            add(
                format!("{verb} {resource}{slash}{part} {whose}"),
                method,
                format!("{path}/{name}{slash}{part}{query}"),
            );
        }
    }
    all
}

impl Fixture {
    /// Sends a request as node a, and gives the code and whether a path that nobody serves is named.
    async fn as_node_a(&self, method: &str, path: &str, body: &Value) -> (u16, bool) {
        let media_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", media_type);
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let answer = self.send(Some(Caller::node("a")), request.body(body).unwrap()).await;
        let is_status = answer.headers().get("content-type").is_some_and(|kind| kind == "application/json");
        (answer.status().as_u16(), answer.status() == 404 && !is_status)
    }
}

#[tokio::test]
async fn a_nodes_certificate_is_good_for_what_is_its_own() {
    let f = two_nodes().await;
    let mut allowed = Vec::new();
    for kind in f.server.registry().kinds().iter() {
        for (whose, node) in [("own", "a"), ("other", "b")] {
            for (what, method, path, name) in requests(kind, whose, node) {
                let body = name.map(|name| json!({ "metadata": { "name": name } })).unwrap_or_default();
                match f.as_node_a(method, &path, &body).await {
                    // Nobody may do it, or there is nothing of the sort.
                    (403 | 405, _) | (_, true) => {}
                    // An old version of a kind opens nothing that today's does not.
                    _ if allowed.contains(&what) => {}
                    _ => allowed.push(what),
                }
            }
        }
    }
    expect![[r#"
        list configmaps by name own
        watch configmaps by name own
        get configmaps own
        list endpoints own
        watch endpoints own
        list endpoints by name own
        watch endpoints by name own
        get endpoints own
        list endpoints by name other
        watch endpoints by name other
        get endpoints other
        create events own
        update events own
        patch events own
        create events other
        update events other
        patch events other
        list nodes own
        watch nodes own
        list nodes by name own
        watch nodes by name own
        create nodes own
        get nodes own
        patch nodes own
        get nodes/status own
        update nodes/status own
        patch nodes/status own
        list nodes by name other
        watch nodes by name other
        list persistentvolumeclaims by name own
        watch persistentvolumeclaims by name own
        get persistentvolumeclaims own
        list persistentvolumes by name own
        watch persistentvolumes by name own
        get persistentvolumes own
        list pods by node own
        watch pods by node own
        get pods own
        delete pods own
        get pods/status own
        update pods/status own
        patch pods/status own
        create pods/eviction own
        list secrets by name own
        watch secrets by name own
        get secrets own
        get serviceaccounts own
        list services own
        watch services own
        list services by name own
        watch services by name own
        get services own
        list services by name other
        watch services by name other
        get services other
        create leases.coordination.k8s.io own
        get leases.coordination.k8s.io own
        update leases.coordination.k8s.io own
        patch leases.coordination.k8s.io own
        delete leases.coordination.k8s.io own
        list endpointslices.discovery.k8s.io own
        watch endpointslices.discovery.k8s.io own
        list endpointslices.discovery.k8s.io by name own
        watch endpointslices.discovery.k8s.io by name own
        get endpointslices.discovery.k8s.io own
        list endpointslices.discovery.k8s.io by name other
        watch endpointslices.discovery.k8s.io by name other
        get endpointslices.discovery.k8s.io other
        create events.events.k8s.io own
        update events.events.k8s.io own
        patch events.events.k8s.io own
        create events.events.k8s.io other
        update events.events.k8s.io other
        patch events.events.k8s.io other
        create certificatesigningrequests.certificates.k8s.io own
        create certificatesigningrequests.certificates.k8s.io other
        list csidrivers.storage.k8s.io own
        watch csidrivers.storage.k8s.io own
        list csidrivers.storage.k8s.io by name own
        watch csidrivers.storage.k8s.io by name own
        get csidrivers.storage.k8s.io own
        list csidrivers.storage.k8s.io by name other
        watch csidrivers.storage.k8s.io by name other
        get csidrivers.storage.k8s.io other
        create csinodes.storage.k8s.io own
        get csinodes.storage.k8s.io own
        update csinodes.storage.k8s.io own
        patch csinodes.storage.k8s.io own
        delete csinodes.storage.k8s.io own
        list runtimeclasses.node.k8s.io own
        watch runtimeclasses.node.k8s.io own
        list runtimeclasses.node.k8s.io by name own
        watch runtimeclasses.node.k8s.io by name own
        get runtimeclasses.node.k8s.io own
        list runtimeclasses.node.k8s.io by name other
        watch runtimeclasses.node.k8s.io by name other
        get runtimeclasses.node.k8s.io other"#]]
    .assert_eq(&allowed.join("\n"));
    f.server.shutdown().await;
}

#[tokio::test]
async fn a_node_makes_nothing_in_anothers_name() {
    let f = two_nodes().await;
    let here = json!([{ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["a"] }] }]);
    // A volume that would bring another namespace's pod, and its Secrets, to the node.
    let volume = json!({
        "metadata": { "name": "v", "annotations": { "pv.kubernetes.io/provisioned-by": "proa.dev/local-path" } },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "local": { "path": "/x" },
            "claimRef": { "namespace": "bank", "name": "ledger" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": here } },
        },
    });
    let named = |name: &str| json!({ "metadata": { "name": name } });
    for (method, path, body) in [
        ("POST", "/api/v1/persistentvolumes", volume),
        ("DELETE", "/api/v1/persistentvolumes/persistentvolumes-a", Value::Null),
        ("PATCH", "/api/v1/persistentvolumes/persistentvolumes-a", json!({ "spec": { "claimRef": null } })),
        ("POST", "/api/v1/nodes", named("c")),
        ("POST", "/api/v1/nodes", json!({ "metadata": { "generateName": "c-" } })),
        ("PATCH", "/api/v1/nodes/a", json!({ "metadata": { "labels": { "kubernetes.io/hostname": "b" } } })),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases", named("a")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/b", named("b")),
        ("POST", "/api/v1/namespaces/default/pods/pods-b/eviction", named("pods-b")),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/serviceaccounts-a/token", json!({})),
    ] {
        assert_eq!(f.as_node_a(method, path, &body).await.0, 403, "{method} {path}");
    }
    f.server.shutdown().await;
}
