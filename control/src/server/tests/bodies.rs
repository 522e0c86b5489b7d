//! What is taken as an object, and how large it may be.

use super::*;

#[tokio::test]
async fn bodies_are_checked() {
    let f = Fixture::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    f.post(deployments, json!({ "apiVersion": "v1", "kind": "Deployment" }))
        .await
        .refused(
            400,
            "Deployment in version \"v1\" cannot be handled as a Deployment: no kind \"Deployment\" is registered \
             for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        );
    f.post(CONFIG_MAPS, json!({ "metadata": { "name": "a", "namespace": "other" } })).await.refused(
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    assert_eq!(f.ask("POST", CONFIG_MAPS, &[], "{").await.code, 400);
    assert_eq!(f.ask("POST", CONFIG_MAPS, &[("content-type", "text/plain")], "{}").await.code, 415);
    let large = f.ask("POST", CONFIG_MAPS, &[], vec![b' '; 3 * 1024 * 1024 + 1]).await;
    assert_eq!(large.code, 413);

    let misspelt = json!({ "metadata": { "name": "a" }, "dat": { "k": "v" } });
    let strict = f.post(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), misspelt.clone()).await;
    assert_eq!(strict.code, 400, "{}", strict.text);
    let text = strict.json()["message"].as_str().unwrap().to_owned();
    assert!(text.contains("strict decoding error: unknown field \"dat\""), "{text}");
    let warned = f.post(&format!("{CONFIG_MAPS}?dryRun=All"), misspelt.clone()).await;
    assert_eq!(warned.code, 201, "{}", warned.text);
    assert!(warned.headers["warning"].to_str().unwrap().starts_with("299 - \"unknown field \\\"dat\\\""));
    let ignored = f.post(&format!("{CONFIG_MAPS}?fieldValidation=Ignore"), misspelt).await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (201, None));
    assert_eq!(f.post(&format!("{CONFIG_MAPS}?dryRun=Some"), json!({})).await.code, 422);

    f.ask("PUT", &format!("{CONFIG_MAPS}/a"), &[], r#"{"metadata":{"name":"b"}}"#)
        .await
        .refused(400, "the name of the object (b) does not match the name on the URL (a)");
    f.server.shutdown().await;
}

#[tokio::test]
async fn what_is_stored_is_bounded() {
    let f = Fixture::start().await;
    let data = |size: usize| json!({ "metadata": { "name": "big" }, "data": { "k": "x".repeat(size) } });
    let pod = |size: usize| {
        let spec = json!({ "containers": [{ "name": "c", "image": "i" }] });
        json!({ "metadata": { "name": "big", "annotations": {} }, "spec": spec, "x": "y".repeat(size) })
    };
    f.post(CONFIG_MAPS, data(4 << 20)).await.refused(413, "Request entity too large: limit is 3145728");
    assert_eq!(f.post(CONFIG_MAPS, data(1000)).await.code, 201);
    assert_eq!(f.post(PODS, pod(1000)).await.code, 201);
    // Patch by patch a list grows, until it would be too large.
    let path = format!("{PODS}/big");
    let tolerations: Vec<Value> = (0..1000)
        .map(|i| json!({ "op": "add", "path": "/spec/tolerations/-", "value": { "key": format!("k{i}.{}", "x".repeat(50)), "operator": "Exists", "effect": "NoSchedule" } }))
        .collect();
    let patch = async |of: usize| {
        let body: Vec<&Value> = tolerations.iter().cycle().take(of).collect();
        let headers = [("content-type", "application/json-patch+json")];
        f.ask("PATCH", &path, &headers, serde_json::to_string(&body).unwrap()).await
    };
    patch(10_001).await.refused(
        413,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
    );
    let mut codes = Vec::new();
    let text = loop {
        let answer = patch(10_000).await;
        codes.push(answer.code);
        if answer.code != 200 || codes.len() > 9 {
            break answer.json()["message"].as_str().unwrap_or_default().to_owned();
        }
    };
    assert_eq!(codes.last(), Some(&413), "{codes:?} {text}");
    assert!(
        text.starts_with("Request entity too large: the object would have ")
            && text.ends_with("limit is 1572864"),
        "{text}"
    );
    let stored = f.get(&path).await.text.len();
    assert!((1_000_000..1_572_864).contains(&stored), "{stored}");
    // It can still be made smaller, and deleted.
    let headers = [("content-type", "application/merge-patch+json")];
    let smaller =
        f.ask("PATCH", &path, &headers, json!({ "metadata": { "labels": { "a": "b" } } }).to_string()).await;
    assert_eq!(smaller.code, 200, "{}", &smaller.text[..200.min(smaller.text.len())]);
    assert_eq!(f.ask("DELETE", &path, &[], "").await.code, 200);
    f.server.shutdown().await;
}

#[tokio::test]
async fn what_protects_and_cannot_be_read_never_counts_as_absent() {
    let f = Fixture::start().await;
    f.config_map("kept").await;
    let path = format!("{CONFIG_MAPS}/kept");
    for options in [
        r#"{"dryRun":"All"}"#,
        r#"{"dryRun":[1]}"#,
        r#"{"preconditions":{"uid":5}}"#,
        r#"{"preconditions":"x"}"#,
        r#"{"preconditions":{"resourceVersion":1}}"#,
        r#"{"propagationPolicy":5}"#,
    ] {
        let answer = f.ask("DELETE", &path, &[], options).await;
        assert_eq!(answer.code, 400, "{options}: {}", answer.text);
        let eviction = format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","deleteOptions":{options}}}"#);
        let answer = f.ask("POST", &format!("{PODS}/p/eviction"), &[], eviction).await;
        assert_eq!(answer.code, 400, "{options}: {}", answer.text);
    }
    assert_eq!(f.ask("DELETE", &format!("{path}?dryRun="), &[], "").await.code, 422);
    assert_eq!(f.post(&format!("{CONFIG_MAPS}?dryRun="), json!({"metadata": {"name": "b"}})).await.code, 422);
    assert_eq!(f.get(&path).await.code, 200);

    let token = "/api/v1/namespaces/kube-system/serviceaccounts/default/token";
    for spec in [
        json!({"audiences": "vault"}),
        json!({"audiences": [5]}),
        json!("x"),
        json!(5),
        json!([]),
        json!(true),
    ] {
        let answer = f.post(token, json!({ "spec": spec })).await;
        assert_eq!(answer.code, 400, "{spec}: {}", answer.text);
    }
    let review = json!({"spec": {"token": "t", "audiences": "vault"}});
    assert_eq!(f.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.code, 400);
    f.server.shutdown().await;
}

#[tokio::test]
async fn a_binding_makes_no_pod_that_cannot_be_read() {
    let f = Fixture::start().await;
    let spec = json!({ "containers": [{ "name": "c", "image": "i" }] });
    assert_eq!(f.post(PODS, json!({ "metadata": { "name": "p" }, "spec": spec })).await.code, 201);
    let bind = async |metadata: Value, node: &str| {
        let body = json!({ "metadata": metadata, "target": { "kind": "Node", "name": node } });
        f.post(&format!("{PODS}/p/binding"), body).await.code
    };
    assert_eq!(bind(json!({ "annotations": { "x": 5 } }), "n").await, 400);
    assert_eq!(bind(json!({ "annotations": { "!!bad key": "a" } }), "n").await, 422);
    assert_eq!(bind(json!({}), "no/such node\n").await, 422);
    assert_eq!(bind(json!({ "annotations": { "a/b": "c" } }), "n").await, 201);
    let finalize = json!({ "metadata": { "name": "default" }, "spec": { "finalizers": [1, { "a": 2 }] } });
    let path = "/api/v1/namespaces/default/finalize";
    assert_eq!(f.ask("PUT", path, &[], finalize.to_string()).await.code, 400);
    f.server.shutdown().await;
}

#[tokio::test]
async fn keys_that_are_there_twice_cost_little() {
    let f = Fixture::start().await;
    let key = "k".repeat(500_000);
    let body = format!(r#"{{"{key}":{{{}}}}}"#, vec![r#""a":1"#; 2000].join(","));
    let strict = f.ask("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), &[], body).await;
    assert_eq!(strict.code, 400);
    assert!(strict.text.len() < 100_000, "{} bytes are told", strict.text.len());
    f.server.shutdown().await;
}

/// Misspelt fields of what is not stored would be absent ones: a token for anybody, a scale of none.
#[tokio::test]
async fn what_is_not_stored_is_validated_too() {
    let f = Fixture::start().await;
    let template = json!({
        "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let spec = json!({ "replicas": 2, "selector": { "matchLabels": { "a": "b" } }, "template": template });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(f.post(deployments, json!({ "metadata": { "name": "d" }, "spec": spec })).await.code, 201);
    let account = json!({ "metadata": { "name": "a" } });
    assert_eq!(f.post("/api/v1/namespaces/default/serviceaccounts", account).await.code, 201);
    let scale = format!("{deployments}/d/scale");
    let token = "/api/v1/namespaces/default/serviceaccounts/a/token";
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let misspelt = json!({ "metadata": { "name": "d" }, "spec": { "replica": 5 } });
    let asked =
        json!({ "spec": { "resourceAttributes": { "verb": "get", "resource": "pods", "namespaces": "x" } } });
    let cases = [
        ("POST", token, "application/json", json!({ "spec": { "audience": ["vault"] } }), "spec.audience"),
        ("POST", review, "application/json", asked, "spec.resourceAttributes.namespaces"),
        ("PUT", &scale, "application/json", misspelt.clone(), "spec.replica"),
        ("PATCH", &scale, "application/merge-patch+json", misspelt, "spec.replica"),
    ];
    for (method, path, media_type, body, field) in cases {
        let headers = [("content-type", media_type)];
        let strict =
            f.ask(method, &format!("{path}?fieldValidation=Strict"), &headers, body.to_string()).await;
        assert!(matches!(strict.code, 400 | 422), "{method} {path}: {} {}", strict.code, strict.text);
        assert!(strict.text.contains("unknown field") && strict.text.contains(field), "{}", strict.text);
        let bogus = f.ask(method, &format!("{path}?fieldValidation=Bogus"), &headers, body.to_string()).await;
        assert_eq!(bogus.code, 422, "{method} {path}");
        let warned = f.ask(method, &format!("{path}?dryRun=All"), &headers, body.to_string()).await;
        let warning = warned.headers.get("warning").map(|text| text.to_str().unwrap()).unwrap_or_default();
        assert!(warning.contains(field), "{method} {path}: {warning:?} {}", warned.text);
    }
    f.server.shutdown().await;
}
