//! PodSecurity as clients meet it: refusals, warnings, labels.

use serde_json::{Value, json};

use super::{Answer, Fixture};

const NAMESPACE: &str = "/api/v1/namespaces/secure";
const PODS: &str = "/api/v1/namespaces/secure/pods";

fn pod(name: &str, context: Value) -> Value {
    let container = json!({ "name": "c", "image": "i", "securityContext": context });
    json!({ "metadata": { "name": name }, "spec": { "containers": [container] } })
}

fn template(context: Value) -> Value {
    let labels = json!({ "a": "b" });
    let mut template = pod("", context);
    template["metadata"] = json!({ "labels": labels });
    json!({
        "metadata": { "name": "d" }, "spec": { "selector": { "matchLabels": labels }, "template": template },
    })
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap());
    all.map(|text| text.strip_prefix("299 - ").unwrap().replace("\\\"", "'").replace('"', "")).collect()
}

impl Fixture {
    async fn label(&self, query: &str, labels: Value) -> Answer {
        let headers = [("content-type", "application/merge-patch+json")];
        let body = json!({ "metadata": { "labels": labels } }).to_string();
        self.ask("PATCH", &format!("{NAMESPACE}?{query}"), &headers, body).await
    }
}

#[tokio::test]
async fn pods_keep_to_the_labels_of_their_namespace() {
    let f = Fixture::start().await;
    let namespace = |labels: Value| json!({ "metadata": { "name": "secure", "labels": labels } });
    let unknown = namespace(json!({ "pod-security.kubernetes.io/enforce": "strict" }));
    f.post("/api/v1/namespaces", unknown).await.refused(
        422,
        "Namespace \"secure\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted",
    );
    let warns = json!({ "pod-security.kubernetes.io/warn": "baseline", "pod-security.kubernetes.io/audit": "restricted" });
    assert_eq!(f.post("/api/v1/namespaces", namespace(warns)).await.code, 201);

    // Warned of only.
    let privileged = json!({ "privileged": true });
    let made = f.post(PODS, pod("old", privileged.clone())).await;
    let text = "privileged (container 'c' must not set securityContext.privileged=true)";
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(warnings(&made), [format!("would violate PodSecurity 'baseline:latest': {text}")]);

    // Who makes the level stricter hears of what is there, also without doing it.
    let enforce =
        json!({ "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": null });
    for query in ["dryRun=All", ""] {
        let labelled = f.label(query, enforce.clone()).await;
        assert_eq!(
            warnings(&labelled),
            [
                "existing pods in namespace 'secure' violate the new PodSecurity enforce level 'baseline:latest'",
                "old: privileged"
            ],
            "{}",
            labelled.text
        );
    }
    assert!(warnings(&f.label("", json!({ "other": "label" })).await).is_empty());

    // Refused, but what is there stays and may change where it does not matter.
    f.post(PODS, pod("new", privileged.clone())).await.refused(
        403,
        "pods \"new\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set \
         securityContext.privileged=true)",
    );
    let merge = [("content-type", "application/merge-patch+json")];
    let change = async |patch: Value| f.ask("PATCH", &format!("{PODS}/old"), &merge, patch.to_string()).await;
    assert_eq!(change(json!({ "metadata": { "labels": { "a": "b" } } })).await.code, 200);
    let image =
        json!([{ "op": "replace", "path": "/spec/containers/0/image", "value": "other" }]).to_string();
    let headers = [("content-type", "application/json-patch+json")];
    let changed = f.ask("PATCH", &format!("{PODS}/old"), &headers, image).await;
    assert_eq!(changed.code, 403, "{}", changed.text);
    assert_eq!(f.post(PODS, pod("good", json!({}))).await.code, 201);

    // A template is warned of, its pods are refused.
    let deployments = "/apis/apps/v1/namespaces/secure/deployments";
    let made = f.post(deployments, template(privileged)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(warnings(&made), [format!("would violate PodSecurity 'baseline:latest': {text}")]);
    let why = "pods \\\"d-";
    let refused = async || {
        let events = f.get("/api/v1/namespaces/secure/events").await.text;
        events.contains("FailedCreate") && events.contains(why) && events.contains("violates PodSecurity")
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !refused().await {
        assert!(std::time::Instant::now() < deadline, "no Event says why");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // By version.
    let version = json!({ "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.7" });
    assert_eq!(f.label("", version).await.code, 200);
    assert_eq!(f.post(PODS, pod("seven", json!({ "runAsNonRoot": true }))).await.code, 201);
    f.post(PODS, pod("eight", json!({}))).await.refused(
        403,
        "pods \"eight\" is forbidden: violates PodSecurity \"restricted:v1.7\": runAsNonRoot != true (pod or container \"c\" \
         must set securityContext.runAsNonRoot=true)",
    );
    f.server.shutdown().await;
}
