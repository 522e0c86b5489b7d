//! Roles and bindings against a whole server: what counts at once, what is refused in which
//! words, what reviews say.

use serde_json::{Value, json};

use super::{Answer, Fixture, PODS};
use crate::registry::Caller;

const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";

impl Fixture {
    async fn post_as(&self, caller: &Caller, path: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.ask_as(Some(caller.clone()), "POST", path, &headers, body.to_string()).await
    }

    async fn rbac(&self, path: &str, body: Value) {
        let made = self.post(&format!("{GROUP}/{path}"), body).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
}

fn role(name: &str, rules: Value) -> Value {
    json!({ "metadata": { "name": name }, "rules": rules })
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "roleRef": { "kind": kind, "name": role },
        "subjects": [{ "kind": "User", "name": user }],
    })
}

#[tokio::test]
async fn a_binding_counts_from_its_acknowledgement_to_its_end() {
    let f = Fixture::start().await;
    let jane = Caller::part("jane");
    f.rbac(
        "clusterroles",
        role("lister", json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }])),
    )
    .await;
    for round in 0..20 {
        let list = f.ask_as(Some(jane.clone()), "GET", PODS, &[], "").await;
        assert_eq!(list.code, 403, "round {round}");
        f.rbac("namespaces/default/rolebindings", binding("b", "ClusterRole", "lister", "jane")).await;
        assert_eq!(f.ask_as(Some(jane.clone()), "GET", PODS, &[], "").await.code, 200, "round {round}");
        let path = format!("{GROUP}/namespaces/default/rolebindings/b");
        assert_eq!(f.ask("DELETE", &path, &[], "").await.code, 200);
    }
    f.server.shutdown().await;
}

#[tokio::test]
async fn reviews_give_reasons() {
    let f = Fixture::start().await;
    f.rbac("clusterrolebindings", binding("lost", "ClusterRole", "nothing", "jane")).await;
    f.rbac(
        "namespaces/default/rolebindings",
        binding("v", "ClusterRole", "system:aggregate-to-view", "jane"),
    )
    .await;
    let review = |namespace: &str, verb: &str| {
        json!({ "spec": { "user": "jane", "resourceAttributes":
            { "verb": verb, "resource": "pods", "namespace": namespace } } })
    };
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let status = f.post(reviews, review("default", "list")).await.json()["status"].clone();
    let reason = "RBAC: allowed by RoleBinding \"v/default\" of ClusterRole \"system:aggregate-to-view\" to User \"jane\"";
    assert_eq!(status, json!({ "allowed": true, "reason": reason }));
    let missing = "clusterrole.rbac.authorization.k8s.io \"nothing\" not found";
    let status = f.post(reviews, review("default", "delete")).await.json()["status"].clone();
    assert_eq!(status, json!({ "allowed": false, "reason": format!("RBAC: {missing}") }));
    f.ask_as(Some(Caller::part("jane")), "DELETE", PODS, &[], "").await.refused(
        403,
        &format!(
            "pods is forbidden: User \"jane\" cannot deletecollection resource \"pods\" in API group \"\" \
             in the namespace \"default\": RBAC: {missing}"
        ),
    );

    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    assert_eq!(f.post(local, review("default", "list")).await.json()["status"]["allowed"], true);
    f.post(local, review("other", "list"))
        .await
        .refused(400, "spec.resourceAttributes.namespace must match namespace: default");
    let own = json!({ "spec": { "namespace": "default" } });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let status = f.post_as(&Caller::part("jane"), path, own).await.json()["status"].clone();
    assert_eq!((&status["incomplete"], &status["evaluationError"]), (&json!(true), &json!(missing)));
    let rules = status["resourceRules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["apiGroups"] == json!(["batch"])), "{rules:?}");
    f.server.shutdown().await;
}

#[tokio::test]
async fn writers_of_roles_stay_below_themselves() {
    let f = Fixture::start().await;
    let all = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create", "update", "patch"] },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
    ]);
    f.rbac("clusterroles", role("writer", all)).await;
    f.rbac("clusterrolebindings", binding("w", "ClusterRole", "writer", "ann")).await;
    let ann = Caller::part("ann");
    let pods = |verb: &str| json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] }]);
    let roles = format!("{GROUP}/namespaces/default/roles");
    assert_eq!(f.post_as(&ann, &roles, role("r", pods("get"))).await.code, 201);
    let head = "user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n";
    let missing = format!("{head}{{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}}");
    let refused = |what: &str| format!("{what} is forbidden: {missing}");
    f.post_as(&ann, &roles, role("s", pods("delete")))
        .await
        .refused(403, &refused("roles.rbac.authorization.k8s.io \"s\""));
    let headers = [("content-type", "application/json")];
    let body = role("r", pods("delete")).to_string();
    f.ask_as(Some(ann.clone()), "PUT", &format!("{roles}/r"), &headers, body)
        .await
        .refused(403, &refused("roles.rbac.authorization.k8s.io \"r\""));
    let gathers = json!({ "metadata": { "name": "g" },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] } });
    f.post_as(&ann, &format!("{GROUP}/clusterroles"), gathers).await.refused(
        403,
        "clusterroles.rbac.authorization.k8s.io \"g\" is forbidden: must have cluster-admin privileges to use an aggregationRule",
    );

    f.rbac("namespaces/default/roles", role("deleter", pods("delete"))).await;
    let bindings = format!("{GROUP}/namespaces/default/rolebindings");
    assert_eq!(f.post_as(&ann, &bindings, binding("a", "Role", "r", "joe")).await.code, 201);
    f.post_as(&ann, &bindings, binding("b", "Role", "deleter", "joe"))
        .await
        .refused(403, &refused("rolebindings.rbac.authorization.k8s.io \"b\""));
    f.post_as(&ann, &bindings, binding("c", "Role", "none", "joe"))
        .await
        .refused(404, "role.rbac.authorization.k8s.io \"none\" not found");
    f.server.shutdown().await;
}

/// What somebody removes from a default role is there again at the next start; what they added,
/// and what they marked as theirs, stays.
#[tokio::test]
async fn the_default_policy_is_completed_at_each_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("{GROUP}/clusterroles/{name}");
    let own = json!({ "apiGroups": ["a.b"], "resources": ["c"], "verbs": ["get"] });
    for start in 0..2 {
        let f = Fixture {
            server: super::Server::start(super::config(dir.path())).await.unwrap(),
            _dir: tempfile::tempdir().unwrap(),
        };
        let get = async |name: &str| f.get(&path(name)).await.json();
        let (basic, monitoring) = (get("system:basic-user").await, get("system:monitoring").await);
        if start == 0 {
            let patch = async |name: &str, body: Value| {
                let headers = [("content-type", "application/merge-patch+json")];
                let answer = f.ask("PATCH", &path(name), &headers, body.to_string()).await;
                assert_eq!(answer.code, 200, "{}", answer.text);
            };
            patch("system:basic-user", json!({ "rules": [own] })).await;
            let keep = json!({ "rbac.authorization.kubernetes.io/autoupdate": "false" });
            patch("system:monitoring", json!({ "rules": [], "metadata": { "annotations": keep } })).await;
        } else {
            let rules = basic["rules"].as_array().unwrap();
            assert!(rules.len() == 3 && rules[0] == own, "{rules:?}");
            assert!(monitoring["rules"].as_array().is_none_or(Vec::is_empty), "{monitoring}");
        }
        f.server.shutdown().await;
    }
}
