//! Bodies as kubectl 1.33 sends them (`bodies/`, one per create command), and malformed ones.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn envelope(body: &[u8]) -> Result<Value, String> {
    super::envelope(body, &Budget::new())
}

fn check(body: &[u8], expected: &Expect) {
    let decoded = envelope(body).expect("decodes");
    expected.assert_eq(&decoded.to_string());
}

macro_rules! body {
    ($name:literal) => {
        include_bytes!(concat!("bodies/", $name, ".pb"))
    };
}

#[test]
fn kubectl_create_bodies() {
    check(
        body!("deployment"),
        &expect![[
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"nginx","image":"nginx","ports":[{"containerPort":80}],"resources":{}}]}},"strategy":{}}}"#
        ]],
    );
    check(
        body!("configmap"),
        &expect![[
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"a":"b"},"binaryData":{"bin":"/wAB"}}"#
        ]],
    );
    check(
        body!("secret"),
        &expect![[
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"creds"},"data":{"password":"aHVudGVyMg=="}}"#
        ]],
    );
    check(
        body!("service"),
        &expect![[
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"ports":[{"name":"80-http","protocol":"TCP","port":80,"targetPort":"http"}],"selector":{"app":"web"},"type":"NodePort"}}"#
        ]],
    );
    check(
        body!("ingress"),
        &expect![[
            r#"{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"web"},"spec":{"tls":[{"hosts":["example.com"],"secretName":"web-tls"}],"rules":[{"host":"example.com","http":{"paths":[{"path":"/path","backend":{"service":{"name":"web","port":{"number":80}}},"pathType":"Prefix"}]}}]}}"#
        ]],
    );
    check(
        body!("job"),
        &expect![[
            r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"once"},"spec":{"template":{"metadata":{},"spec":{"containers":[{"name":"once","image":"busybox","command":["date"],"resources":{}}],"restartPolicy":"Never"}}}}"#
        ]],
    );
    check(
        body!("cronjob"),
        &expect![[
            r#"{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"tick"},"spec":{"schedule":"*","jobTemplate":{"metadata":{"name":"tick"},"spec":{"template":{"metadata":{},"spec":{"containers":[{"name":"tick","image":"busybox","command":["date"],"resources":{}}],"restartPolicy":"OnFailure"}}}}}}"#
        ]],
    );
    check(
        body!("namespace"),
        &expect![[r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"team"},"spec":{}}"#]],
    );
    check(
        body!("serviceaccount"),
        &expect![[r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot"}}"#]],
    );
    check(
        body!("token"),
        &expect![[
            r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{},"spec":{"expirationSeconds":600}}"#
        ]],
    );
    check(
        body!("role"),
        &expect![[
            r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"reader"},"rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]}"#
        ]],
    );
    check(
        body!("rolebinding"),
        &expect![[
            r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"readers"},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"ann"},{"kind":"ServiceAccount","name":"robot","namespace":"default"}],"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"reader"}}"#
        ]],
    );
    check(
        body!("quota"),
        &expect![[
            r#"{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"q"},"spec":{"hard":{"cpu":"1","memory":"1Gi"}}}"#
        ]],
    );
    check(
        body!("pdb"),
        &expect![[
            r#"{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"p"},"spec":{"minAvailable":"50%","selector":{"matchLabels":{"app":"web"}}}}"#
        ]],
    );
    check(
        body!("priorityclass"),
        &expect![[
            r#"{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"high"},"value":1000,"preemptionPolicy":"Never"}"#
        ]],
    );
    check(
        body!("can-i"),
        &expect![[
            r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","metadata":{},"spec":{"resourceAttributes":{"namespace":"default","verb":"create","resource":"pods"}}}"#
        ]],
    );
    check(
        body!("whoami"),
        &expect![[r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview","metadata":{}}"#]],
    );
}

#[test]
fn what_is_decoded_fits_the_types() {
    fn fits<T: serde::de::DeserializeOwned>(body: &[u8]) {
        let decoded = envelope(body).expect("decodes");
        serde_json::from_value::<T>(decoded).expect("fits");
    }
    fits::<k8s_openapi::api::apps::v1::Deployment>(body!("deployment"));
    fits::<k8s_openapi::api::core::v1::Service>(body!("service"));
    fits::<k8s_openapi::api::core::v1::Secret>(body!("secret"));
    fits::<k8s_openapi::api::networking::v1::Ingress>(body!("ingress"));
    fits::<k8s_openapi::api::batch::v1::CronJob>(body!("cronjob"));
    fits::<k8s_openapi::api::authentication::v1::TokenRequest>(body!("token"));
    fits::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(body!("pdb"));
    fits::<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview>(body!("can-i"));
}

/// Writes a field with a length.
fn bytes(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(inner.len() as u64, &mut out);
    out.extend_from_slice(inner);
    out
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, raw)].concat()
}

#[track_caller]
fn decodes(api_version: &str, kind: &str, raw: &[u8], pointer: &str, expected: Value) {
    let decoded = envelope(&body(api_version, kind, raw)).expect("decodes");
    assert_eq!(decoded.pointer(pointer), Some(&expected), "{}", decoded);
}

#[test]
fn types_that_are_no_objects_in_json() {
    let time = [varint(1, 1_700_000_000), varint(2, 5)].concat();
    decodes(
        "v1",
        "Pod",
        &bytes(1, &bytes(8, &time)),
        "/metadata/creationTimestamp",
        json!("2023-11-14T22:13:20Z"),
    );
    decodes(
        "coordination.k8s.io/v1",
        "Lease",
        &bytes(2, &bytes(4, &[varint(1, 1), varint(2, 1500)].concat())),
        "/spec/renewTime",
        json!("1970-01-01T00:00:01.000001Z"),
    );
    let negative = bytes(2, &varint(1, (-1_i64).cast_unsigned()));
    decodes("autoscaling/v1", "Scale", &negative, "/spec/replicas", json!(-1));
    let data = [bytes(1, b"k"), bytes(2, &[0, 255])].concat();
    decodes("v1", "Secret", &bytes(2, &data), "/data/k", json!("AP8="));
    decodes("v1", "Secret", &bytes(2, &bytes(1, b"empty")), "/data/empty", json!(""));
    let extra = [bytes(1, b"scopes"), bytes(2, &[bytes(1, b"a"), bytes(1, b"b")].concat())].concat();
    decodes(
        "authentication.k8s.io/v1",
        "SelfSubjectReview",
        &bytes(2, &bytes(1, &bytes(4, &extra))),
        "/status/userInfo/extra/scopes",
        json!(["a", "b"]),
    );
    let raw = bytes(2, &bytes(1, br#"{"a":[1]}"#));
    decodes("apps/v1", "ControllerRevision", &raw, "/data", json!({"a": [1]}));
    decodes("policy/v1", "DeleteOptions", &varint(1, 0), "/gracePeriodSeconds", json!(0));
}

#[test]
fn zero_values_are_kept_where_they_mean_something() {
    let spec = [varint(1, 0), varint(5, 0), varint(7, 0)].concat();
    let decoded = envelope(&body("apps/v1", "Deployment", &bytes(2, &spec))).expect("decodes");
    assert_eq!(decoded["spec"], json!({"replicas": 0}));
    let port = [bytes(1, b""), varint(2, 0), varint(3, 80), bytes(4, b"")].concat();
    let pod = bytes(2, &bytes(2, &[bytes(1, b"a"), bytes(6, &port)].concat()));
    decodes("v1", "Pod", &pod, "/spec/containers/0/ports/0", json!({"containerPort": 80}));
}

#[test]
fn malformed_bodies_are_refused() {
    let refused = |body: &[u8], text: &str| {
        let refusal = envelope(body).expect_err("refused");
        assert!(refusal.contains(text), "{refusal}");
    };
    refused(b"{}", "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]");
    refused(b"k8s\0", "'Kind' is missing");
    refused(&body("v1", "Unheard", b""), "no kind \"Unheard\" is registered for version \"v1\"");
    refused(&body("v1", "Pod", &[0x0a, 0x05]), "proto: unexpected EOF");
    refused(&body("v1", "Pod", &[0xff; 12]), "proto: integer overflow");
    refused(&body("v1", "Pod", &varint(2, 1)), "proto: Pod.spec: wrong wireType");
    refused(
        &body("v1", "Pod", &bytes(1, &bytes(1, &[0xff]))),
        "ObjectMeta.name: string field contains invalid UTF-8",
    );
    let mut nested = varint(1, 1);
    for _ in 0..200 {
        // JSONSchemaProps.not holds another JSONSchemaProps.
        nested = bytes(28, &nested);
    }
    let schema = bytes(2, &bytes(7, &bytes(4, &bytes(1, &nested))));
    refused(&body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &schema), "nested deeper");
    let mut inside = body("v1", "Pod", b"");
    for _ in 0..200 {
        inside = body("apps/v1", "ControllerRevision", &bytes(2, &bytes(1, &inside)));
    }
    refused(&inside, "nested deeper");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = envelope(&body("v1", "Pod", &raw));
        let _ = envelope(&body("apps/v1", "Deployment", &raw));
        let _ = envelope(&[MAGIC, &raw].concat());
    }

    #[test]
    fn no_change_of_a_body_makes_it_panic(at in 0usize..218, byte in any::<u8>(), cut in 0usize..218) {
        let mut body = body!("deployment").to_vec();
        if let Some(slot) = body.get_mut(at) {
            *slot = byte;
        }
        let _ = envelope(&body);
        body.truncate(cut);
        let _ = envelope(&body);
    }
}
