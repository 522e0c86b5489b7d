//! Two nodes with a pod each: what each of them may and may not see.

use proa_kinds::built_in;

use super::*;
use crate::registry::{RegistryConfig, WriteOptions};

async fn registry(dir: &std::path::Path) -> Registry {
    let registry =
        Registry::open(&dir.join("store.redb"), built_in::table(), RegistryConfig::default()).unwrap();
    let make = async |api_version: &str, kind: &str, namespace: &str, object: Value| {
        let table = registry.kinds();
        let row = table.by_kind(api_version, kind).unwrap();
        let caller = Caller::system("system:test");
        registry.create(&caller, row, namespace, object, &WriteOptions::default()).await.unwrap();
    };
    for namespace in ["default", "kube-system", "kube-node-lease"] {
        make("v1", "Namespace", "", json!({ "metadata": { "name": namespace } })).await;
    }
    for node in ["a", "b"] {
        let spec = json!({
            "nodeName": node, "serviceAccountName": format!("sa-{node}"),
            "imagePullSecrets": [{ "name": format!("pull-{node}") }],
            "containers": [{
                "name": "c", "image": "i",
                "env": [{ "name": "E", "valueFrom": { "secretKeyRef": { "name": format!("env-{node}"), "key": "k" } } }],
                "envFrom": [{ "configMapRef": { "name": format!("from-{node}") } }],
            }],
            "volumes": [
                { "name": "v", "secret": { "secretName": format!("volume-{node}") } },
                { "name": "p", "projected": { "sources": [{ "secret": { "name": format!("projected-{node}") } }] } },
            ],
        });
        let account = json!({ "metadata": { "name": format!("sa-{node}") } });
        make("v1", "ServiceAccount", "default", account).await;
        let pod = json!({ "metadata": { "name": format!("pod-{node}") }, "spec": spec });
        make("v1", "Pod", "default", pod).await;
    }
    registry
}

fn caller(user: &str, group: &str) -> Caller {
    Caller { user: user.to_owned(), groups: vec![group.to_owned()], ..Caller::default() }
}

/// `verb group/plural/subresource namespace/name`, by node a.
#[track_caller]
fn check(authorizer: &dyn Authorizer, caller: &Caller, request: &str, allowed: bool) {
    let words: Vec<&str> = request.split(' ').collect();
    let [verb, resource, object] = words[..] else { panic!("{request}") };
    let resource: Vec<&str> = resource.split('/').collect();
    let (namespace, name) = object.split_once('/').unwrap();
    let what = Attributes::Resource {
        verb,
        group: resource[0],
        plural: resource[1],
        subresource: resource.get(2).copied().unwrap_or_default(),
        namespace: Some(namespace).filter(|n| !n.is_empty()),
        name,
    };
    let decision = authorizer.decide(caller, &what);
    assert_eq!(decision == Decision::Allow, allowed, "{request}: {decision:?}");
}

#[tokio::test]
async fn a_node_sees_what_its_pods_need() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes(registry(dir.path()).await);
    let a = caller("system:node:a", "system:nodes");
    for (request, allowed) in [
        ("get /secrets default/volume-a", true),
        ("watch /secrets default/env-a", true),
        ("get /secrets default/projected-a", true),
        ("get /secrets default/pull-a", true),
        ("get /secrets default/volume-b", false),
        ("get /secrets other/volume-a", false),
        ("get /secrets default/from-a", false),
        ("list /secrets default/", false),
        ("list /secrets /", false),
        ("update /secrets default/volume-a", false),
        ("get /configmaps default/from-a", true),
        ("get /configmaps default/from-b", false),
        ("create /serviceaccounts/token default/sa-a", true),
        ("create /serviceaccounts/token default/sa-b", false),
        ("get /nodes /a", true),
        ("get /nodes /b", false),
        ("list /nodes /", true),
        ("watch /nodes /", true),
        ("create /nodes /", true),
        ("patch /nodes/status /a", true),
        ("patch /nodes/status /b", false),
        ("delete /nodes /a", false),
        ("patch coordination.k8s.io/leases kube-node-lease/a", true),
        ("patch coordination.k8s.io/leases kube-node-lease/b", false),
        ("patch coordination.k8s.io/leases kube-system/a", false),
        ("patch /pods/status default/pod-a", true),
        ("patch /pods/status default/pod-b", false),
        ("delete /pods default/pod-a", true),
        ("delete /pods default/pod-b", false),
        ("patch /pods default/pod-a", false),
        ("create /pods default/", false),
        ("create /pods/binding default/pod-a", false),
        ("create /pods/exec default/pod-a", false),
        ("watch /services /", true),
        ("create /services default/", false),
        ("create /events default/", true),
        ("get /namespaces kube-system/kube-system", true),
        ("list /namespaces /", false),
        ("create certificates.k8s.io/certificatesigningrequests /", true),
        ("update certificates.k8s.io/certificatesigningrequests/approval /x", false),
        ("list apps/deployments /", false),
    ] {
        check(&nodes, &a, request, allowed);
    }
    let stranger = caller("system:node:a", "system:authenticated");
    check(&nodes, &stranger, "get /secrets default/volume-a", false);
}

#[tokio::test]
async fn a_bootstrap_token_is_for_requests_only() {
    let dir = tempfile::tempdir().unwrap();
    let bootstrappers = Bootstrappers(registry(dir.path()).await);
    let token = caller("system:bootstrap:abcdef", "system:bootstrappers");
    for (request, allowed) in [
        ("create certificates.k8s.io/certificatesigningrequests /", true),
        ("list certificates.k8s.io/certificatesigningrequests /", false),
        ("get certificates.k8s.io/certificatesigningrequests /other", false),
        ("update certificates.k8s.io/certificatesigningrequests/approval /x", false),
        ("get /secrets default/volume-a", false),
        ("list /pods /", false),
    ] {
        check(&bootstrappers, &token, request, allowed);
    }
}
