//! Questions over real sockets on loopback. The cluster is played, and so is the resolver elsewhere: it
//! is a second server with another domain.

use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::RData;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::Upstream;
use crate::zone::Zone;

const DEADLINE: Duration = Duration::from_secs(5);
const ENDPOINTS: u8 = 100;

/// Starts a server for `domain` and returns its address. It stops with the test's runtime.
async fn start(domain: &str, upstream: Upstream, complete: bool) -> SocketAddr {
    let config = DnsConfig {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        cluster_domain: domain.into(),
        own_ranges: vec![(Ipv4Addr::new(10, 43, 0, 0), 16)],
        ttl_seconds: DnsConfig::TTL_SECONDS,
        upstream,
        connections: 12,
    };
    let server = Server::bind(config).await.unwrap();
    let address = server.addresses()[0];
    if complete {
        *server.resolver.watched.write().unwrap() = Watched::of(zone());
    }
    tokio::spawn(async move { server.serve(&CancellationToken::new()).await });
    address
}

fn zone() -> Zone {
    let mut zone = Zone::default();
    for (name, spec) in [
        ("web", json!({"clusterIP": "10.43.0.7"})),
        ("many", json!({"clusterIP": "None"})),
        ("away", json!({"type": "ExternalName", "externalName": "web.default.svc.elsewhere.test"})),
        ("inner", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
    ] {
        let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        zone.apply_service(&serde_json::from_value(service).unwrap());
    }
    let endpoints: Vec<_> =
        (1..=ENDPOINTS).map(|host| json!({"addresses": [format!("10.42.0.{host}")]})).collect();
    let slice = json!({"metadata": {"name": "many-1", "namespace": "default",
        "labels": {"kubernetes.io/service-name": "many"}}, "addressType": "IPv4", "endpoints": endpoints});
    zone.apply_slice(&serde_json::from_value(slice).unwrap());
    zone
}

fn question(name: &str, asked: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), asked));
    message
}

async fn udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("an answer in time").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    exchange(&mut stream, message).await.expect("an answer")
}

/// The answer over this connection; none if that has ended.
async fn exchange(stream: &mut TcpStream, message: &Message) -> Option<Message> {
    let exchange = async {
        let bytes = message.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await?;
        stream.write_all(&bytes).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(DEADLINE, exchange).await.expect("an answer or the end in time").ok()?;
    Some(Message::from_vec(&answer).unwrap())
}

fn addresses(message: &Message) -> Vec<String> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.to_string()),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

fn nobody() -> Upstream {
    Upstream::Servers(vec![])
}

#[tokio::test]
async fn answers_over_udp_and_tcp() {
    let server = start("cluster.local", nobody(), true).await;
    let message = question("WEB.default.svc.cluster.local.", RecordType::A);
    for answer in [udp(server, &message).await, tcp(server, &message).await] {
        assert_eq!(answer.metadata.id, 4711);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(addresses(&answer), ["10.43.0.7"]);
        // Some clients insist on getting the name back as they wrote it.
        assert_eq!(answer.answers[0].name.to_ascii(), "WEB.default.svc.cluster.local.");
        assert_eq!(answer.answers[0].ttl, DnsConfig::TTL_SECONDS);
    }
    let missing = udp(server, &question("x.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn long_answers_are_cut_on_udp_and_whole_on_tcp() {
    let server = start("cluster.local", nobody(), true).await;
    let mut message = question("many.default.svc.cluster.local.", RecordType::A);
    let small = udp(server, &message).await;
    assert!(small.metadata.truncation && addresses(&small).len() < 50);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let large = udp(server, &message).await;
    assert!(large.metadata.truncation && addresses(&large).len() > addresses(&small).len());
    assert!(large.edns.is_some());
    let whole = tcp(server, &message).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(addresses(&whole).len(), usize::from(ENDPOINTS));
}

#[tokio::test]
async fn other_names_are_asked_elsewhere() {
    let elsewhere = start("elsewhere.test", nobody(), true).await;
    let server = start("cluster.local", Upstream::Servers(vec![elsewhere]), true).await;
    let found = udp(server, &question("web.default.svc.elsewhere.test.", RecordType::A)).await;
    assert_eq!(addresses(&found), ["10.43.0.7"]);
    assert!(!found.metadata.authoritative);
    let missing = udp(server, &question("x.default.svc.elsewhere.test.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
    let none = udp(server, &question("web.default.svc.elsewhere.test.", RecordType::MX)).await;
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));

    // An alias leads out of the cluster, or to another name in it, but not round in a circle.
    let away = udp(server, &question("away.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(away.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(addresses(&away), ["10.43.0.7"]);
    let inner = udp(server, &question("inner.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!((inner.answers.len(), addresses(&inner)), (2, vec!["10.43.0.7".to_owned()]));
    let circle = udp(server, &question("loop.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(circle.metadata.response_code, ResponseCode::ServFail);

    // What is the cluster's own is never asked elsewhere, even if it does not exist.
    let reverse = udp(server, &question("9.0.43.10.in-addr.arpa.", RecordType::PTR)).await;
    assert_eq!(reverse.metadata.response_code, ResponseCode::NXDomain);
    assert!(reverse.metadata.authoritative);
}

#[tokio::test]
async fn without_anyone_to_ask_the_answer_is_a_failure_at_once() {
    let text = |servers: &[&str]| servers.iter().map(|s| format!("nameserver {s}\n")).collect::<String>();
    let server = start("cluster.local", nobody(), true).await;
    let failed = udp(server, &question("www.example.com.", RecordType::A)).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);

    // A file that names only this server names nobody.
    let own: Vec<_> = ["10.43.0.10:53", "127.0.0.9:53"].iter().map(|a| a.parse().unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, text(&["10.43.0.10", "127.0.0.9"])).unwrap();
    let forwarder = Forwarder::new(Upstream::ResolvConf(path), own);
    let failed = forwarder
        .ask(Ipv4Addr::LOCALHOST.into(), &Name::from_ascii("www.example.com.").unwrap(), RecordType::A)
        .await;
    assert_eq!(failed.code, ResponseCode::ServFail);
    let missing = Forwarder::new(Upstream::ResolvConf(dir.path().join("none")), vec![]);
    let failed = missing
        .ask(Ipv4Addr::LOCALHOST.into(), &Name::from_ascii("www.example.com.").unwrap(), RecordType::A)
        .await;
    assert_eq!(failed.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn nothing_is_denied_before_the_cluster_is_known() {
    let server = start("cluster.local", nobody(), false).await;
    let early = udp(server, &question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn odd_questions_are_refused() {
    let server = start("cluster.local", nobody(), true).await;
    let mut update = question("web.default.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(udp(server, &update).await.metadata.response_code, ResponseCode::NotImp);
    let transfer = question("cluster.local.", RecordType::AXFR);
    assert_eq!(tcp(server, &transfer).await.metadata.response_code, ResponseCode::Refused);
    let mut none = question("cluster.local.", RecordType::A);
    none.queries.clear();
    assert_eq!(udp(server, &none).await.metadata.response_code, ResponseCode::FormErr);
    let mut future = question("cluster.local.", RecordType::SOA);
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    assert_eq!(udp(server, &future).await.metadata.response_code.low(), ResponseCode::BADVERS.low());
}

#[tokio::test]
async fn a_client_has_few_connections() {
    let server = start("cluster.local", nobody(), true).await;
    let connect = async |client: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(client.parse().unwrap()).unwrap();
        socket.connect(server).await.unwrap()
    };
    let message = question("web.default.svc.cluster.local.", RecordType::A);
    let is_open = async |stream: &mut TcpStream| exchange(stream, &message).await.is_some();
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(connect("127.0.0.1:0").await);
        assert!(is_open(kept.last_mut().unwrap()).await);
    }
    assert!(!is_open(&mut connect("127.0.0.1:0").await).await, "a fourth is dropped");
    assert!(is_open(&mut connect("127.0.0.2:0").await).await, "another client is let in");
    drop(kept);
    let room = async { while !is_open(&mut connect("127.0.0.1:0").await).await {} };
    timeout(DEADLINE, room).await.expect("room");
}

#[tokio::test]
async fn a_port_in_use_is_said_in_a_sentence() {
    let taken = start("cluster.local", nobody(), true).await;
    let config = DnsConfig {
        listen: vec![taken],
        cluster_domain: "cluster.local".into(),
        own_ranges: vec![],
        ttl_seconds: 5,
        upstream: nobody(),
        connections: 1,
    };
    let error = Server::bind(config).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("DNS cannot listen on {taken}: Address already in use")), "{error}");
}

/// One that asks for much that nobody answers keeps no other client's question from being passed on.
#[tokio::test]
async fn what_one_client_asks_elsewhere_leaves_room_for_others() {
    let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream = Upstream::Servers(vec![elsewhere.local_addr().unwrap()]);
    let server = start("cluster.local", upstream, true).await;
    let flood = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    flood.connect(server).await.unwrap();
    let mut buffer = [0; 512];
    // Questions that are refused come back at once.
    let refused = async {
        for number in 0.. {
            let asked = question(&format!("n{number}.example."), RecordType::A);
            flood.send(&asked.to_vec().unwrap()).await.unwrap();
            let answer = timeout(Duration::from_millis(20), flood.recv(&mut buffer)).await;
            if answer.is_ok() {
                return number;
            }
        }
        unreachable!()
    };
    assert!(timeout(DEADLINE, refused).await.expect("a refusal") < 512);
    let other = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).await.unwrap();
    other.connect(server).await.unwrap();
    other.send(&question("other.example.", RecordType::A).to_vec().unwrap()).await.unwrap();
    let passed_on = async {
        let mut seen = [0; 512];
        loop {
            let length = elsewhere.recv(&mut seen).await.unwrap();
            if seen[..length].to_ascii_lowercase().windows(5).any(|bytes| bytes == b"other") {
                return;
            }
        }
    };
    timeout(DEADLINE, passed_on).await.expect("the question is passed on");
}
