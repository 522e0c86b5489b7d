//! Nodes over real TLS on loopback: whom the API server believes, and upgrades end to end.

use std::net::Ipv4Addr;
use std::path::Path;

use axum::routing::get;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use jiff::Timestamp;
use proa_kinds::{Part, built_in};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::pki::Pair;
use crate::registry::{Caller, RegistryConfig, WriteOptions};

/// `/echo` is an upgrade that sends back what it gets.
fn router() -> Router {
    let echo = async |mut request: axum::extract::Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let answer =
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        answer.body(Body::empty()).unwrap()
    };
    Router::new().route("/hello", get(async || "hello")).route("/echo", get(echo))
}

/// Serves every connection of a listener with `answer`.
async fn serve<I, F, R>(stream: I, answer: F)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Result<Response<Body>, std::convert::Infallible>>,
{
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    let _ = connection.with_upgrades().await;
}

/// A node's server with this certificate; its address.
async fn remote(pki: &Pki, pair: &Pair) -> SocketAddr {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = tls.accept(stream).await else { continue };
            tokio::spawn(serve(stream, |request| router().oneshot(request.map(Body::new))));
        }
    });
    address
}

struct World {
    pki: Pki,
    registry: Registry,
    kubelets: Arc<Kubelets>,
}

impl World {
    fn new(dir: &Path) -> World {
        let pki = Pki::open(&dir.join("pki"), &[], "https://issuer", Timestamp::now()).unwrap();
        let registry =
            Registry::open(&dir.join("store.redb"), built_in::table(), RegistryConfig::default()).unwrap();
        let kubelets = Arc::new(Kubelets::new(&pki, registry.clone()).unwrap());
        World { pki, registry, kubelets }
    }

    /// A Node that is at this address, or says so.
    async fn node(&self, name: &str, address: SocketAddr) {
        let table = self.registry.kinds();
        let kind = table.by_plural("", "v1", "nodes").unwrap();
        let caller = Caller::system("system:test");
        let options = WriteOptions::default();
        let mut node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        self.registry.create(&caller, kind, "", node.clone(), &options).await.unwrap();
        node["status"] = json!({
            "addresses": [{ "type": "InternalIP", "address": address.ip().to_string() }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": address.port() } },
        });
        self.registry.update(&caller, kind, "", name, Part::STATUS, node, &options).await.unwrap();
    }

    fn certificate(&self, user: &str) -> Pair {
        let names = ["127.0.0.1".to_owned()];
        self.pki.authority().issue_server(user, &names, Timestamp::now()).unwrap()
    }

    async fn ask(&self, node: &str) -> Result<String, String> {
        let request = Request::get("/hello").body(Body::empty()).unwrap();
        let answer = self.kubelets.request(node, request).await.map_err(|refusal| refusal.to_string())?;
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_node_is_believed_by_its_own_certificate_only() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    world.kubelets.add_local("here", router());
    assert_eq!(world.ask("here").await.unwrap(), "hello");
    assert_eq!(world.ask("nowhere").await.unwrap_err(), "nodes \"nowhere\" not found");

    let address = remote(&world.pki, &world.certificate("system:node:far")).await;
    world.node("far", address).await;
    assert_eq!(world.ask("far").await.unwrap(), "hello");
    world.node("thief", address).await;
    let text = format!("Get \"https://{address}/hello\": tls: the certificate is not that of node \"thief\"");
    assert_eq!(world.ask("thief").await.unwrap_err(), text);

    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Pki::open(elsewhere.path(), &[], "https://issuer", Timestamp::now()).unwrap();
    let names = ["127.0.0.1".to_owned()];
    let foreign = stranger.authority().issue_server("system:node:bad", &names, Timestamp::now()).unwrap();
    world.node("bad", remote(&world.pki, &foreign).await).await;
    assert!(world.ask("bad").await.unwrap_err().contains("invalid peer certificate"));

    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    world.node("off", closed).await;
    let text = format!("Get \"https://{closed}/hello\": dial tcp {closed}: connect: connection refused");
    assert_eq!(world.ask("off").await.unwrap_err(), text);
}

/// What a client does with an upgrade, through an API server that only passes it on.
async fn echoed(kubelets: Arc<Kubelets>, node: &'static str) -> String {
    let (client, server) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(server, move |request| {
        let kubelets = kubelets.clone();
        async move { Ok(kubelets.request(node, request.map(Body::new)).await.unwrap()) }
    }));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/echo").header("host", "api").header("connection", "upgrade");
    let request = request.header("upgrade", "echo").body(Body::empty()).unwrap();
    let mut answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["upgrade"]), (101, &"echo".parse().unwrap()));
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"there and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn an_upgrade_reaches_the_node_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    world.kubelets.add_local("here", router());
    let address = remote(&world.pki, &world.certificate("system:node:far")).await;
    world.node("far", address).await;
    for node in ["here", "far"] {
        assert_eq!(echoed(world.kubelets.clone(), node).await, "there and back", "{node}");
    }
}

/// A node that takes nothing keeps nothing of a client that has left.
#[tokio::test]
async fn a_request_that_is_given_up_takes_its_connection_with_it() {
    for answer in ["", "HTTP/1.1 200 OK\r\n\r\n"] {
        let (mut node, ours) = tokio::io::duplex(1024);
        node.write_all(answer.as_bytes()).await.unwrap();
        let chunk = || Ok::<_, io::Error>(bytes::Bytes::from_static(&[b'x'; 16384]));
        let body = Body::from_stream(futures::stream::repeat_with(chunk));
        let request = Request::post("/podProxy/n/p/u/http/80/").body(body).unwrap();
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let asked = tokio::time::timeout(Duration::from_millis(100), send(ours, address, request)).await;
        assert_eq!(asked.is_ok(), !answer.is_empty());
        drop(asked);
        // Nothing is written to what is not there.
        let ended = async {
            while node.write(&[]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the end");
    }
}

#[test]
fn addresses() {
    let node = |status: Value| json!({ "status": status });
    let address = |type_: &str, ip: &str| json!({ "type": type_, "address": ip });
    let check = |status: Value, expected: Option<&str>| {
        assert_eq!(address_of(&node(status.clone())).map(|a| a.to_string()).as_deref(), expected, "{status}");
    };
    check(json!({}), None);
    check(json!({ "addresses": [address("Hostname", "a")] }), None);
    let both = [address("ExternalIP", "192.0.2.1"), address("InternalIP", "10.0.0.1")];
    check(json!({ "addresses": both }), Some("10.0.0.1:10250"));
    let port = json!({ "kubeletEndpoint": { "Port": 1 } });
    check(json!({ "addresses": both, "daemonEndpoints": port }), Some("10.0.0.1:1"));
}
