//! What clients made for a stock server rely on, answer by answer.

use super::*;

const JSON: (&str, &str) = ("content-type", "application/json");
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

#[tokio::test]
async fn paths_that_nobody_serves() {
    let fixture = Fixture::start().await;
    for path in [
        "/api/v1/nothings",
        "/apis/none.example/v1/things",
        "/nowhere",
        "/api/v1/namespaces/default/pods/p/x",
    ] {
        let answer = fixture.get(path).await;
        assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"), "{path}");
    }
    fixture.get(&format!("{PODS}/p")).await.refused(404, "pods \"p\" not found");
    // kubectl looks into the details of this one.
    let patch = ("content-type", "application/strategic-merge-patch+json");
    let answer = fixture.ask("PATCH", &format!("{PODS}/p/ephemeralcontainers"), &[patch], "{}").await;
    assert_eq!((answer.code, &answer.json()["details"]), (404, &json!({})));
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let list = fixture.get(definitions).await;
    assert_eq!((list.code, &list.json()["items"]), (200, &json!([])));
    assert_eq!(fixture.ask("POST", definitions, &[JSON], "{}").await.code, 404);
}

#[tokio::test]
async fn versions_of_what_is_replaced() {
    let fixture = Fixture::start().await;
    let map = |version: Value, data: &str| {
        json!({"metadata": {"name": "m", "resourceVersion": version}, "data": {"a": data}}).to_string()
    };
    assert_eq!(fixture.ask("POST", CONFIG_MAPS, &[JSON], map(Value::Null, "1")).await.code, 201);
    let path = format!("{CONFIG_MAPS}/m");
    for (version, code) in [("0", 200), ("", 200), ("1", 409)] {
        assert_eq!(
            fixture.ask("PUT", &path, &[JSON], map(version.into(), version)).await.code,
            code,
            "{version:?}"
        );
    }
    let merge = ("content-type", "application/merge-patch+json");
    let patch = json!({"metadata": {"resourceVersion": "0"}, "data": {"a": "2"}}).to_string();
    assert_eq!(fixture.ask("PATCH", &path, &[merge], patch).await.code, 200);

    // Of some kinds nobody replaces what he has not seen.
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": ""}});
    let budget = json!({"metadata": {"name": "l"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}});
    for (list, resource, body) in
        [(LEASES, "leases.coordination.k8s.io", lease), (BUDGETS, "poddisruptionbudgets.policy", budget)]
    {
        let made = fixture.ask("POST", list, &[JSON], body.to_string()).await.json();
        if list == LEASES {
            assert_eq!(made["spec"], json!({"holderIdentity": ""}), "a pointer");
        }
        let path = format!("{list}/l");
        for version in [Value::Null, "".into(), "0".into()] {
            let mut body = body.clone();
            body["metadata"]["resourceVersion"] = version;
            let text = format!(
                "{resource} \"l\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            );
            fixture.ask("PUT", &path, &[JSON], body.to_string()).await.refused(422, &text);
        }
        // A controller may write in between, and then has to be seen as well.
        let replaced = async {
            loop {
                let seen = fixture.ask("GET", &path, &[], String::new()).await.text;
                match fixture.ask("PUT", &path, &[JSON], seen).await.code {
                    409 => {}
                    code => return code,
                }
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), replaced).await, Ok(200));
    }
}

#[tokio::test]
async fn bodies_of_the_wrong_kind_or_type() {
    let fixture = Fixture::start().await;
    let post = |body: Value| fixture.ask("POST", PODS, &[JSON], body.to_string());
    post(json!({"apiVersion": "apps/v1", "kind": "Deployment"})).await.refused(
        400,
        "Deployment in version \"v1\" cannot be handled as a Pod: converting (v1.Deployment) to (core.Pod): unknown conversion",
    );
    let map = json!({"metadata": {"name": "m"}}).to_string();
    assert_eq!(fixture.ask("POST", CONFIG_MAPS, &[JSON], map).await.code, 201);
    for (type_, body) in [
        ("application/merge-patch+json", r#"{"data":"x"}"#),
        ("application/strategic-merge-patch+json", r#"{"data":{"a":1}}"#),
        ("application/json-patch+json", r#"[{"op":"add","path":"/data","value":[]}]"#),
    ] {
        let answer =
            fixture.ask("PATCH", &format!("{CONFIG_MAPS}/m"), &[("content-type", type_)], body).await;
        assert_eq!(
            (answer.code, &answer.json()["reason"]),
            (422, &json!("Invalid")),
            "{type_}: {}",
            answer.text
        );
        assert!(answer.text.contains("json: cannot unmarshal"), "{}", answer.text);
    }
    // What does not fit for another reason stays what it was.
    let other = r#"{"metadata":{"name":"n"}}"#;
    let merge = ("content-type", "application/merge-patch+json");
    assert_eq!(fixture.ask("PATCH", &format!("{CONFIG_MAPS}/m"), &[merge], other).await.code, 400);
}

/// What cannot be read in a patched Scale is neither no replicas nor any version.
#[tokio::test]
async fn scales_of_the_wrong_type() {
    let fixture = Fixture::start().await;
    let pod = json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let spec = json!({ "replicas": 3, "selector": { "matchLabels": { "a": "b" } }, "template": pod });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made =
        fixture.ask("POST", path, &[JSON], json!({ "metadata": { "name": "d" }, "spec": spec }).to_string());
    assert_eq!(made.await.code, 201);
    let scale = format!("{path}/d/scale");
    for (patch, field) in [
        (r#"{"spec":5}"#, "number into Go struct field Scale.spec of type v1.ScaleSpec"),
        (r#"{"spec":"x"}"#, "string into Go struct field Scale.spec of type v1.ScaleSpec"),
        (r#"{"spec":[3]}"#, "array into Go struct field Scale.spec of type v1.ScaleSpec"),
        (r#"{"spec":{"replicas":"3"}}"#, "string into Go struct field ScaleSpec.spec.replicas of type int32"),
        (
            r#"{"metadata":{"resourceVersion":5},"spec":{"replicas":2}}"#,
            "number into Go struct field ObjectMeta.metadata.resourceVersion of type string",
        ),
        (
            r#"{"metadata":{"uid":5},"spec":{"replicas":2}}"#,
            "number into Go struct field ObjectMeta.metadata.uid of type string",
        ),
    ] {
        let merge = ("content-type", "application/merge-patch+json");
        let answer = fixture.ask("PATCH", &scale, &[merge], patch).await;
        answer.refused(
            422,
            &format!(" \"\" is invalid: patch: Invalid value: {patch:?}: json: cannot unmarshal {field}"),
        );
    }
    assert_eq!(fixture.get(&scale).await.json()["spec"]["replicas"], 3);
    fixture.server.shutdown().await;
}

/// Zero values that Go leaves out are the same as nothing, whoever writes them.
#[tokio::test]
async fn a_client_that_leaves_out_zeroes_changes_nothing() {
    let fixture = Fixture::start().await;
    let container = |extra: Value| {
        let mut container = json!({"name": "c", "image": "i", "resources": {}});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        container
    };
    let body = |hosts: Value, extra: Value| {
        let mut spec = json!({"containers": [container(extra)], "automountServiceAccountToken": false});
        spec.as_object_mut().unwrap().extend(hosts.as_object().unwrap().clone());
        json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}},
        })
        .to_string()
    };
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let wordy = body(
        json!({"hostNetwork": false, "hostPID": false, "nodeName": "", "tolerations": []}),
        json!({"tty": false, "stdin": false, "args": [], "ports": [{"containerPort": 80, "hostPort": 0}],
               "securityContext": {"allowPrivilegeEscalation": false}}),
    );
    let made = fixture.ask("POST", path, &[JSON], wordy.clone()).await.json();
    let spec = &made["spec"]["template"]["spec"];
    assert_eq!(made["spec"]["replicas"], 0);
    assert_eq!(spec["automountServiceAccountToken"], false);
    for absent in ["hostNetwork", "hostPID", "nodeName", "tolerations"] {
        assert!(spec.get(absent).is_none(), "{absent} in {spec}");
    }
    let stored = &spec["containers"][0];
    assert_eq!(stored["securityContext"], json!({"allowPrivilegeEscalation": false}));
    assert_eq!(stored["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));
    assert!(
        stored.get("tty").is_none() && stored.get("stdin").is_none() && stored.get("args").is_none(),
        "{stored}"
    );

    let terse = body(
        json!({}),
        json!({"ports": [{"containerPort": 80}], "securityContext": {"allowPrivilegeEscalation": false}}),
    );
    let merge = ("content-type", "application/merge-patch+json");
    let zero = r#"{"spec":{"paused":false,"minReadySeconds":0,"template":{"spec":{"hostIPC":false}}}}"#;
    for (method, header, sent) in
        [("PUT", JSON, terse.as_str()), ("PUT", JSON, wordy.as_str()), ("PATCH", merge, zero)]
    {
        let answer = fixture.ask(method, &format!("{path}/d"), &[header], sent.to_owned()).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
        // The controller writes its annotation and the status meanwhile, but nothing counts as a change.
        let (after, generation) = (answer.json(), "/metadata/generation");
        assert_eq!(after.pointer(generation), made.pointer(generation), "{sent}");
        assert_eq!(after["spec"], made["spec"], "{sent}");
    }
}

#[tokio::test]
async fn a_status_that_is_put_is_filled_in() {
    let fixture = Fixture::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = fixture.ask("POST", PODS, &[JSON], pod.to_string()).await.json();
    let mut bare = made.clone();
    bare.as_object_mut().unwrap().remove("status");
    // The scheduler says meanwhile that there is no node.
    bare["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let put = fixture.ask("PUT", &format!("{PODS}/p/status"), &[JSON], bare.to_string()).await;
    assert_eq!((put.code, &put.json()["status"]), (200, &made["status"]), "{}", put.text);
}

#[tokio::test]
async fn answers_for_people_and_about_people() {
    let fixture = Fixture::start().await;
    for (path, headers) in [
        ("/version?pretty=true", &[] as &[(&str, &str)]),
        (
            "/version",
            &[("user-agent", "Mozilla/5.0"), ("accept", "text/html,application/xml;q=0.9,*/*;q=0.8")],
        ),
    ] {
        let answer = fixture.ask("GET", path, headers, "").await;
        assert!(answer.text.starts_with("{\n  \"") && answer.text.ends_with("\n}\n"), "{}", answer.text);
    }
    let plain = fixture.get("/version").await;
    assert!(!plain.text.contains('\n'), "{}", plain.text);
    for field in ["gitCommit", "gitTreeState", "gitVersion", "buildDate", "goVersion", "compiler", "platform"]
    {
        assert!(plain.json()[field].is_string(), "{field}");
    }

    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let body = json!({"spec": {"namespace": "default"}}).to_string();
    let table = ("accept", TABLE.split(',').next().unwrap());
    assert_eq!(fixture.ask("POST", reviews, &[JSON, table], body.clone()).await.code, 406);
    let admin = Caller { groups: vec!["system:masters".to_owned()], ..Caller::system("admin") };
    let review = fixture.ask_as(Some(admin), "POST", reviews, &[JSON, ("accept", TABLE)], body).await.json();
    for list in ["resourceRules", "nonResourceRules"] {
        let rules: Vec<String> =
            review["status"][list].as_array().unwrap().iter().map(Value::to_string).collect();
        let distinct: std::collections::BTreeSet<&String> = rules.iter().collect();
        assert_eq!(rules.len(), distinct.len(), "{rules:?}");
        assert!(!rules.is_empty());
    }
}

#[tokio::test]
async fn what_a_cluster_has_of_its_own() {
    let fixture = Fixture::start().await;
    let services =
        "/api/v1/namespaces/kube-system/services?labelSelector=kubernetes.io%2Fcluster-service%3Dtrue";
    let list = fixture.get(services).await.json();
    assert_eq!(list["items"][0]["metadata"]["name"], "kube-dns");
    for (name, code) in
        [("default", 403), ("kube-system", 403), ("kube-public", 403), ("kube-node-lease", 200)]
    {
        let deleted = fixture.ask("DELETE", &format!("/api/v1/namespaces/{name}"), &[], "").await;
        assert_eq!(deleted.code, code, "{name}: {}", deleted.text);
    }
}
