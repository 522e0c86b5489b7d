//! Who gets which certificate without asking anybody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::*;
use crate::controllers::tests::{at, object, seen, stamp};
use crate::world::facts::{Key, Object};
use crate::world::plan::{Change, Plan, Verb};
use proa_kinds::Part;
use proa_kinds::built_in::certificate_signing_request::signers::{API_CLIENT, NODE_CLIENT, NODE_SERVING};
use rcgen::DnType;

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVER: &[&str] = &["digital signature", "server auth"];
const BOOTSTRAPPER: (&str, &str) = ("system:bootstrap:abcdef", "system:bootstrappers");
const NODE_A: (&str, &str) = ("system:node:a", "system:nodes");

/// A request in PEM for this subject and these alternative names.
fn pem(common_name: &str, organization: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (attribute, value) in [(DnType::OrganizationName, organization), (DnType::CommonName, common_name)] {
        if !value.is_empty() {
            params.distinguished_name.push(attribute, value);
        }
    }
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn csr(signer: &str, request: &str, usages: &[&str], by: (&str, &str), status: Value) -> Object {
    let spec = json!({
        "request": BASE64.encode(request), "signerName": signer, "usages": usages,
        "username": by.0, "groups": [by.1, "system:authenticated"],
    });
    object(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        "x",
        json!({
            "spec": spec, "status": status,
        }),
    )
}

fn node(name: &str, address: &str) -> Object {
    let addresses = json!([
        { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name },
        { "type": "InternalDNS", "address": format!("{name}.host") },
    ]);
    object("v1", "Node", name, json!({ "status": { "addresses": addresses } }))
}

fn key() -> Key {
    Key::new("", "x")
}

#[track_caller]
fn check(csr: Object, others: &[Object], approved: bool) {
    let mut objects = vec![csr];
    objects.extend_from_slice(others);
    let plan = reconcile_approval(&seen(objects), &key(), at(100));
    assert_eq!(!plan.is_empty(), approved, "{plan:?}");
    if let Some(action) = plan.actions.first() {
        let Verb::Patch { part, change: Change::Conditions(list), .. } = &action.verb else {
            panic!("{action:?}")
        };
        assert_eq!(*part, Part::APPROVAL);
        assert_eq!((&list[0]["type"], &list[0]["status"]), (&json!("Approved"), &json!("True")));
    }
}

#[test]
fn client_certificates() {
    let a = || pem("system:node:a", "system:nodes", &[]);
    let none = || json!({});
    check(csr(NODE_CLIENT, &a(), CLIENT, BOOTSTRAPPER, none()), &[], true);
    check(csr(NODE_CLIENT, &a(), CLIENT, BOOTSTRAPPER, none()), &[node("b", "10.0.0.2")], true);
    check(csr(NODE_CLIENT, &a(), CLIENT, BOOTSTRAPPER, none()), &[node("a", "10.0.0.1")], false);
    check(csr(NODE_CLIENT, &a(), CLIENT, NODE_A, none()), &[node("a", "10.0.0.1")], true);
    check(csr(NODE_CLIENT, &a(), CLIENT, ("system:node:b", "system:nodes"), none()), &[], false);
    check(csr(NODE_CLIENT, &a(), CLIENT, ("system:node:a", "others"), none()), &[], false);
    check(csr(NODE_CLIENT, &a(), CLIENT, ("jane", "system:masters"), none()), &[], false);
    check(csr(NODE_CLIENT, &a(), SERVER, BOOTSTRAPPER, none()), &[], false);
    check(csr(API_CLIENT, &a(), CLIENT, BOOTSTRAPPER, none()), &[], false);
    check(csr(NODE_CLIENT, &pem("root", "system:masters", &[]), CLIENT, BOOTSTRAPPER, none()), &[], false);
    let denied = json!({ "conditions": [{ "type": "Denied", "status": "True" }] });
    check(csr(NODE_CLIENT, &a(), CLIENT, BOOTSTRAPPER, denied), &[], false);
}

fn serving(names: &[&str]) -> Object {
    csr(NODE_SERVING, &pem("system:node:a", "system:nodes", names), SERVER, NODE_A, json!({}))
}

#[test]
fn serving_certificates() {
    let (a, b) = (node("a", "10.0.0.1"), node("b", "10.0.0.2"));
    check(serving(&["10.0.0.1", "a"]), &[a.clone(), b.clone()], true);
    check(serving(&["10.0.0.1"]), std::slice::from_ref(&b), false);
    check(serving(&["10.0.0.2"]), &[a.clone(), b], false);
    check(serving(&["10.0.0.1"]), &[a.clone(), node("b", "10.0.0.1")], false);
    check(serving(&["10.0.0.1", "b"]), std::slice::from_ref(&a), false);
    check(serving(&["10.0.0.1", "a.host"]), std::slice::from_ref(&a), false);
    for special in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "224.0.0.1"] {
        check(serving(&[special]), &[node("a", special)], false);
    }
    for spec in [
        json!({ "spec": { "clusterIPs": ["10.0.0.1"] } }),
        json!({ "spec": { "externalIPs": ["10.0.0.1"] } }),
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }] } } }),
    ] {
        check(serving(&["10.0.0.1"]), &[a.clone(), object("v1", "Service", "s", spec)], false);
    }
    let api = object(
        "v1",
        "Endpoints",
        "kubernetes",
        json!({
            "metadata": { "namespace": "default" }, "subsets": [{ "addresses": [{ "ip": "10.0.0.1" }] }],
        }),
    );
    check(serving(&["10.0.0.1"]), &[a.clone(), api], false);
    let bootstrapper = csr(
        NODE_SERVING,
        &pem("system:node:a", "system:nodes", &["10.0.0.1"]),
        SERVER,
        BOOTSTRAPPER,
        json!({}),
    );
    check(bootstrapper, &[a], false);
}

#[test]
fn no_node_gets_a_certificate_for_a_name_or_an_address_of_the_cluster() {
    let approves = |node: &str, asked: &str| {
        let shown = ["Hostname", "InternalDNS", "InternalIP"].map(|t| json!({ "type": t, "address": asked }));
        let user = format!("system:node:{node}");
        let by = (user.as_str(), "system:nodes");
        let request = csr(NODE_SERVING, &pem(&user, "system:nodes", &[asked]), SERVER, by, json!({}));
        let node = object("v1", "Node", node, json!({ "status": { "addresses": shown } }));
        let mut seen = seen(vec![request, node]);
        seen.settings.cluster_cidr = "10.42.0.0/16".into();
        seen.settings.service_cidr = "10.43.0.0/16".into();
        seen.settings.api_names = vec!["api.example.com".to_owned(), "192.0.2.7".to_owned()].into();
        !reconcile_approval(&seen, &key(), at(100)).is_empty()
    };
    for name in ["evil", "kubernetes-1.example.com", "api2.example.com"] {
        assert!(approves(name, name), "{name}");
    }
    // What a node shows as its own is not its own for that.
    for name in ["*.default.svc", "KUBERNETES.default.svc", "Localhost", "EVIL", "evil.", "*", "b"] {
        assert!(!approves("evil", name), "{name}");
    }
    // Nor is what it calls itself, where it is somebody else's name.
    for name in [
        "localhost",
        "x.localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "x.default.svc",
        "svc",
        "x.default.svc.cluster.local",
        "x.cluster.local",
        "api.example.com",
    ] {
        assert!(!approves(name, name), "{name}");
    }
    assert!(approves("evil", "192.0.2.8"));
    for address in ["10.42.9.1", "10.43.0.200", "192.0.2.7", "::ffff:10.43.0.1"] {
        assert!(!approves("evil", address), "{address}");
    }
}

fn approved(extra: Value) -> Value {
    let mut status =
        json!({ "conditions": [{ "type": "Approved", "status": "True", "lastUpdateTime": stamp(100) }] });
    if let Some(extra) = extra.as_object() {
        status.as_object_mut().unwrap().extend(extra.clone());
    }
    status
}

fn signing(csr: Object) -> Plan {
    reconcile_signing(&seen(vec![csr]), &key(), at(1000))
}

#[test]
fn only_what_is_approved_is_signed() {
    let text = pem("jane", "devs", &[]);
    let by = ("jane", "devs");
    assert!(signing(csr(API_CLIENT, &text, &["client auth"], by, json!({}))).is_empty());
    assert!(signing(csr("example.com/x", &text, &["client auth"], by, approved(json!({})))).is_empty());
    let issued = approved(json!({ "certificate": "eA==" }));
    assert!(signing(csr(API_CLIENT, &text, &["client auth"], by, issued)).is_empty());

    let plan = signing(csr(API_CLIENT, &text, &["client auth"], by, approved(json!({}))));
    let Verb::SignCertificate { usages, not_after, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!((usages.as_slice(), *not_after), (&["client auth".to_owned()][..], at(1000 + 365 * 86400)));

    let plan = signing(csr(API_CLIENT, &text, &["server auth"], by, approved(json!({}))));
    let Verb::Patch { part, change: Change::Conditions(list), .. } = &plan.actions[0].verb else {
        panic!("{plan:?}")
    };
    assert_eq!(*part, Part::STATUS);
    assert_eq!(list[0]["message"], "usages did not match [client auth]");
}

#[test]
fn old_requests_go() {
    let goes = |status: Value, now: i64| {
        let csr = csr(API_CLIENT, &pem("jane", "", &[]), &["client auth"], ("jane", ""), status);
        let plan = reconcile_cleaning(&seen(vec![csr]), &key(), at(now));
        assert_ne!(plan.is_empty(), plan.again_at.is_none() && !plan.actions.is_empty());
        !plan.actions.is_empty()
    };
    let issued = || approved(json!({ "certificate": "eA==" }));
    let denied =
        || json!({ "conditions": [{ "type": "Denied", "status": "True", "lastUpdateTime": stamp(100) }] });
    assert!(!goes(json!({}), 86399) && goes(json!({}), 86400));
    assert!(!goes(issued(), 3699) && goes(issued(), 3700));
    assert!(!goes(denied(), 3699) && goes(denied(), 3700));
    assert!(!goes(approved(json!({})), 86400 * 30), "its signer may be somebody else, and slow");
}
