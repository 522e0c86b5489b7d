//! TLS: certificates by server name out of Secrets, and the protocol by ALPN.

use std::net::SocketAddr;

use base64::Engine;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::client::{self, Connection};
use crate::endpoint::echo;
use crate::world::{World, route, until};

/// A self-signed certificate for a name, and the Secret with it.
fn certificate(secret: &str, name: &str) -> (CertificateDer<'static>, Value) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let encoded = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": "ns", "name": secret},
        "data": {"tls.crt": encoded(made.cert.pem()), "tls.key": encoded(made.signing_key.serialize_pem())}});
    (made.cert.der().clone(), object)
}

/// The objects of a route with `tls` in its Ingress.
fn secured(host: &str, endpoint: SocketAddr, tls: Value) -> Vec<Value> {
    let mut objects = route(host, &[endpoint]);
    objects[0]["spec"]["tls"] = tls;
    objects
}

async fn trusts(world: &World, name: &str, certificate: &CertificateDer<'static>) -> bool {
    client::tls(world.https, name, certificate, &[]).await.is_ok()
}

#[tokio::test]
async fn both_versions_of_http_by_alpn() {
    let (trusted, secret) = certificate("cert", "a.example");
    let tls = json!([{"hosts": ["a.example"], "secretName": "cert"}]);
    let mut objects = secured("a.example", echo("one").await, tls);
    objects.push(secret);
    let world = World::routed(&objects).await;
    for (offered, chosen) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let stream = client::tls(world.https, "a.example", &trusted, offered).await.unwrap();
        let protocol = stream.get_ref().1.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
        assert_eq!(protocol.as_deref(), chosen);
        let mut connection = match chosen {
            Some("h2") => Connection::http2(stream).await,
            _ => Connection::http1(stream).await,
        };
        for path in ["/1", "/2"] {
            let answer = connection.get("a.example", path).await;
            assert!(answer.text.starts_with(&format!("one GET {path}\n")), "{}", answer.text);
            assert!(answer.text.contains("\nx-forwarded-proto: https\n"), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_certificate_for_each_name() {
    let endpoint = echo("one").await;
    let (one, one_secret) = certificate("one", "one.wild.example");
    let (wild, wild_secret) = certificate("wild", "*.wild.example");
    let mut objects =
        secured("one.wild.example", endpoint, json!([{"hosts": ["One.Wild.Example"], "secretName": "one"}]));
    objects.extend(secured(
        "*.wild.example",
        endpoint,
        json!([{"hosts": ["*.wild.example"], "secretName": "wild"}]),
    ));
    objects.extend([one_secret, wild_secret]);
    let world = World::routed(&objects).await;
    assert!(trusts(&world, "one.wild.example", &one).await);
    assert!(!trusts(&world, "one.wild.example", &wild).await, "the exact name goes first");
    assert!(trusts(&world, "two.wild.example", &wild).await);
    // Others are shown a certificate that nobody trusts, until there is one for them.
    let (default, default_secret) = certificate("default", "other.test");
    for unknown in ["a.two.wild.example", "wild.example", "other.test", "127.0.0.1"] {
        let refused = client::tls(world.https, unknown, &wild, &[]).await.unwrap_err();
        assert!(refused.to_string().contains("invalid peer certificate"), "{unknown}: {refused}");
    }
    assert!(!trusts(&world, "other.test", &default).await);
    world.api.put(&default_secret);
    until("the default certificate", || trusts(&world, "other.test", &default)).await;
}

#[tokio::test]
async fn a_certificate_without_hosts_is_for_all_other_names() {
    let (any, secret) = certificate("any", "whatever.test");
    let mut objects = secured("a.example", echo("one").await, json!([{"secretName": "any"}]));
    objects.push(secret);
    let world = World::routed(&objects).await;
    assert!(trusts(&world, "whatever.test", &any).await);
    // Only what is set for the whole ingress goes before it.
    let (set, set_secret) = certificate("default", "whatever.test");
    world.api.put(&set_secret);
    until("the certificate that is set", || trusts(&world, "whatever.test", &set)).await;
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    let (trusted, secret) = certificate("cert", "a.example");
    let tls = json!([{"hosts": ["a.example"], "secretName": "cert"}]);
    let mut objects = secured("a.example", echo("one").await, tls.clone());
    objects.push(secret);
    let mut both = secured("both.example", echo("two").await, json!([{"hosts": ["both.example"]}]));
    both[0]["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/ssl-redirect": "false"});
    objects.extend(both);
    let mut never = route("never.example", &[echo("three").await]);
    never[0]["metadata"]["annotations"] = json!({"kubernetes.io/ingress.allow-http": "false"});
    objects.extend(never);
    let world = World::routed(&objects).await;
    let answer = client::get(world.http, "a.example:81", "/x/../y?q=1").await;
    assert_eq!(answer.status, 308);
    let expected = format!("https://a.example:{}/y?q=1", world.https.port());
    assert_eq!(answer.headers["location"], expected);
    let stream = client::tls(world.https, "a.example", &trusted, &[]).await.unwrap();
    assert_eq!(Connection::http1(stream).await.get("a.example", "/").await.status, 200);
    assert_eq!(client::get(world.http, "both.example", "/").await.status, 200);
    let stream = client::tls(world.https, "a.example", &trusted, &[]).await.unwrap();
    assert_eq!(Connection::http1(stream).await.get("never.example", "/").await.status, 200);
    let never = client::get(world.http, "never.example", "/").await;
    assert_eq!(never.text, "404 Not Found: it is served over HTTPS only\n");
}

#[tokio::test]
async fn reloads_while_serving() {
    let (first, secret) = certificate("cert", "a.example");
    let tls = json!([{"hosts": ["a.example"], "secretName": "cert"}]);
    let mut objects = secured("a.example", echo("one").await, tls);
    objects.push(secret.clone());
    let world = World::routed(&objects).await;
    let stream = client::tls(world.https, "a.example", &first, &["h2"]).await.unwrap();
    let mut connection = Connection::http2(stream).await;
    assert_eq!(connection.get("a.example", "/").await.status, 200);
    let (second, renewed) = certificate("cert", "a.example");
    world.api.put(&renewed);
    until("the new certificate", || trusts(&world, "a.example", &second)).await;
    assert!(!trusts(&world, "a.example", &first).await);
    assert_eq!(connection.get("a.example", "/").await.status, 200, "what is open stays open");
    // A Secret that is broken or gone takes only the certificate away, and comes back whole.
    let mut broken = renewed.clone();
    broken["data"]["tls.crt"] = secret["data"]["tls.crt"].clone();
    world.api.put(&broken);
    until("no certificate", || async { !trusts(&world, "a.example", &second).await }).await;
    world.api.put(&renewed);
    until("the certificate again", || trusts(&world, "a.example", &second)).await;
    world.api.delete(&renewed);
    until("no certificate", || async { !trusts(&world, "a.example", &second).await }).await;
    assert_eq!(connection.get("a.example", "/").await.status, 200);
    assert_eq!(client::get(world.http, "a.example", "/").await.status, 308);
}
