//! Requests made with a real key, as clients send them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use expect_test::expect;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use super::request::Request;
use super::signers::{self, API_CLIENT, NODE_CLIENT, NODE_SERVING};
use crate::check::{created, refusals};
use crate::{Part, Write, built_in};

/// A request in PEM for this subject and these alternative names.
fn pem(common_name: &str, organization: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn base() -> String {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "spec": {
            "request": BASE64.encode(pem("jane", "devs", &[])),
            "signerName": API_CLIENT, "usages": ["client auth"],
        },
    })
    .to_string()
}

#[test]
fn what_a_request_asks_for() {
    let text = pem("system:node:a", "system:nodes", &["a.example", "10.0.0.1"]);
    let read = Request::read(text.as_bytes()).unwrap();
    assert_eq!((read.common_name.as_str(), read.organizations.len()), ("system:node:a", 1));
    assert_eq!(read.dns_names, ["a.example"]);
    assert_eq!(read.ips, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(Request::read(b"nonsense").is_err());
    let wrong = text.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    assert_eq!(Request::read(wrong.as_bytes()).unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
}

#[test]
fn rules() {
    refusals(
        &base(),
        &[
            "{spec: {request: eA==}}",
            "{spec: {usages: []}}",
            "{spec: {usages: [client auth, client auth, hacking]}}",
            "{spec: {signerName: ''}}",
            "{spec: {signerName: kubernetes.io/legacy-unknown}}",
            "{spec: {signerName: plain}}",
            "{spec: {signerName: plain/name}}",
            "{spec: {signerName: a.b/c/d}}",
            "{spec: {expirationSeconds: 599}}",
            "{metadata: {name: a/b}}",
            "{metadata: {name: 'node:A_b'}, spec: {expirationSeconds: 600}, status: {certificate: eA==}}",
        ],
        expect![[r#"
            spec.request: Invalid value: "eA==": PEM block type must be CERTIFICATE REQUEST
            spec.usages: Required value
            spec.usages[1]: Duplicate value: "client auth"
            spec.usages[2]: Unsupported value: "hacking": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
            spec.signerName: Required value
            spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version
            spec.signerName: Invalid value: "plain": must be a fully qualified domain and path of the form 'example.com/signer-name'
            spec.signerName: Invalid value: "plain": should be a domain with at least two segments separated by dots
            spec.signerName: Invalid value: "a.b/c/d": must be a fully qualified domain and path of the form 'example.com/signer-name'
            spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)
            metadata.name: Invalid value: "a/b": may not contain '/'
            accepted: {"metadata":{"name":"node:A_b"},"spec":{"expirationSeconds":600},"status":{"certificate":"eA=="}}
        "#]],
    );
    created(
        "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, spec: {request: eA==, signerName: a.b/c}}",
        expect![[r#"
            422 CertificateSigningRequest.certificates.k8s.io "x" is invalid: [spec.request: Invalid value: "eA==": PEM block type must be CERTIFICATE REQUEST, spec.usages: Required value]
        "#]],
    );
}

/// The conditions after a change of one part, or the errors.
fn changed(old: &Value, part: Part, status: Value) -> Result<Value, String> {
    let table = built_in::table();
    let kind = table.by_kind("certificates.k8s.io/v1", "CertificateSigningRequest").unwrap();
    let mut new = old.clone();
    new["status"] = status;
    kind.apply_rules(Write::Update(old, &part), new).map_err(|refusal| refusal.to_string())
}

#[test]
fn who_may_change_what_of_the_status() {
    let table = built_in::table();
    let kind = table.by_kind("certificates.k8s.io/v1", "CertificateSigningRequest").unwrap();
    let mut object: Value = serde_json::from_str(&base()).unwrap();
    object["metadata"] = json!({ "name": "x" });
    let object = kind.apply_rules(Write::Create, object).unwrap();
    let condition = |type_: &str, status: &str| json!({ "type": type_, "status": status });
    let with = |list: &[Value]| json!({ "conditions": list });

    let ignored = changed(&object, Part::STATUS, with(&[condition("Approved", "True")])).unwrap();
    assert!(ignored.pointer("/status/conditions").is_none(), "{ignored}");
    let approved = changed(&object, Part::APPROVAL, with(&[condition("Approved", "True")])).unwrap();
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    let issued = changed(
        &approved,
        Part::APPROVAL,
        json!({ "certificate": "eA==", "conditions": approved["status"]["conditions"] }),
    );
    assert!(issued.unwrap()["status"].get("certificate").is_none());
    for (old, part, status) in [
        (&object, Part::APPROVAL, with(&[condition("Approved", "False")])),
        (&object, Part::APPROVAL, with(&[condition("Approved", "True"), condition("Denied", "True")])),
        (&approved, Part::APPROVAL, json!({})),
        (&object, Part::STATUS, json!({ "certificate": "eA==" })),
        (&object, Part::STATUS, with(&[condition("Other", "")])),
    ] {
        changed(old, part, status.clone()).expect_err(&status.to_string());
    }
    let kept = changed(&approved, Part::STATUS, json!({})).unwrap();
    assert_eq!(kept["status"]["conditions"][0]["type"], "Approved", "the decision stays");
}

#[track_caller]
fn check(signer: &str, text: &str, usages: &[&str], expected: &str) {
    let usages: Vec<String> = usages.iter().map(|u| (*u).to_owned()).collect();
    let found = signers::check(signer, &Request::read(text.as_bytes()).unwrap(), &usages);
    let found = found.map_or("not ours".to_owned(), |result| result.err().unwrap_or_default());
    assert_eq!(found, expected);
}

#[test]
fn what_each_signer_signs() {
    let client = &["digital signature", "client auth"];
    let server = &["digital signature", "key encipherment", "server auth"];
    let node = pem("system:node:a", "system:nodes", &[]);
    let serving = pem("system:node:a", "system:nodes", &["10.0.0.1"]);
    check(NODE_CLIENT, &node, client, "");
    check(NODE_CLIENT, &node, &["client auth"], "usages did not match [client auth digital signature]");
    check(NODE_CLIENT, &node, server, "usages did not match [client auth digital signature]");
    check(NODE_CLIENT, &serving, client, "IP subjectAltNames are not allowed");
    check(
        NODE_CLIENT,
        &pem("a", "system:nodes", &[]),
        client,
        "subject common name does not begin with system:node:",
    );
    check(NODE_CLIENT, &pem("system:node:a", "x", &[]), client, "subject organization is not system:nodes");
    check(NODE_SERVING, &serving, server, "");
    check(NODE_SERVING, &node, server, "DNS or IP subjectAltName is required");
    check(NODE_SERVING, &serving, client, "usages did not match [digital signature server auth]");
    check(API_CLIENT, &pem("jane", "devs", &[]), &["client auth"], "");
    let masters = pem("jane", "system:masters", &[]);
    let text = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    check(API_CLIENT, &masters, &["client auth"], text);
    check(API_CLIENT, &pem("jane", "", &[]), server, "usages did not match [client auth]");
    check("example.com/other", &node, &[], "not ours");
}
