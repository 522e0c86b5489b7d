//! The pod network on a real kernel, in a network namespace of its own without a way out.
//!
//! A pod is a thread with its own network namespace; the kernel takes a thread's number where it takes
//! a process's. What this cannot show without root is skipped, loudly; in CI it fails.

mod follow;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Far above what any of this takes, far below a lost packet's first repetition (1 s).
const AT_ONCE: Duration = Duration::from_millis(700);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);

/// A thread in a network namespace of its own that runs what it is given.
struct Pod {
    uid: String,
    thread: i32,
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Pod {
    fn new(uid: &str) -> Self {
        let (jobs, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, thread) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the test's own namespace could be made");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            received.into_iter().for_each(|job| job());
        });
        Self { uid: uid.into(), thread: thread.recv().unwrap(), jobs }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().expect("the pod's thread lives")
    }

    /// Answers each connection with the pod's name and the client's address.
    fn serve(&self, port: u16) {
        let name = self.uid.clone();
        self.run(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let peer = stream.peer_addr().unwrap().ip();
                    stream.write_all(format!("{name} {peer}").as_bytes()).unwrap();
                }
            });
        });
    }

    /// Answers each datagram with the pod's name.
    fn serve_udp(&self, port: u16) {
        let name = self.uid.clone();
        self.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(name.as_bytes(), from).unwrap();
                }
            });
        });
    }
}

/// Runs `test` in a new network namespace in which only loopback is up.
fn in_own_network(test: impl AsyncFnOnce() + Send + 'static) {
    let run = move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(std::env::var_os("CI").is_none(), "no network namespace: {error}");
            eprintln!("SKIPPED: a network namespace needs root: {error}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            Links::connect().unwrap().raise(link::LOOPBACK).await.unwrap();
            test().await;
        });
    };
    let thread = std::thread::spawn(run);
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

const TABLE: &str = "proa-test";

fn config() -> NetworkConfig {
    NetworkConfig {
        bridge: "proa0".into(),
        table: TABLE.into(),
        node_cidr: "10.42.0.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        dns_address: Ipv4Addr::new(10, 43, 0, 10),
        reserved: vec![SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 1), 6443)],
    }
}

/// What a server at `to` answers.
fn ask(to: (Ipv4Addr, u16)) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Which of the servers behind `to` answer.
fn names(to: (Ipv4Addr, u16), times: usize) -> BTreeSet<String> {
    let name = |answer: String| answer.split(' ').next().unwrap_or_default().to_owned();
    (0..times).map(|_| name(ask(to).unwrap())).collect()
}

fn assert_refused(to: (Ipv4Addr, u16)) {
    let started = Instant::now();
    let error = ask(to).expect_err("nobody has this address");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to:?}: {error}");
    assert!(started.elapsed() < AT_ONCE, "{to:?} took {:?}", started.elapsed());
}

fn service(address: Ipv4Addr, protocol: Protocol, port: u16, pick: Pick, to: &[Ipv4Addr]) -> Rules {
    let mut endpoints: Vec<_> = to.iter().map(|address| Endpoint { address: *address, port: 8080 }).collect();
    endpoints.sort();
    let on_host = address.is_unspecified();
    Rules::from([(Frontend { on_host, address, protocol, port }, Backends { pick, endpoints })])
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn services_reach_their_endpoints_from_pods_and_from_the_host() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let (a, b, client) = (Pod::new("a"), Pod::new("b"), Pod::new("client"));
        let at_a = network.attach("a", a.thread).await.unwrap();
        let at_b = network.attach("b", b.thread).await.unwrap();
        let at_client = network.attach("client", client.thread).await.unwrap();
        a.serve(8080);
        b.serve(8080);

        // Without a service in between, the client's own address arrives.
        let direct = client.run(move || ask((at_a, 8080)).unwrap());
        assert_eq!(direct, format!("a {at_client}"));

        network.set_services(service(SERVICE, Protocol::Tcp, 80, Pick::Random, &[at_a, at_b])).await.unwrap();
        assert_eq!(client.run(|| names((SERVICE, 80), 40)), set(&["a", "b"]));
        assert_eq!(names((SERVICE, 80), 40), set(&["a", "b"]));
        assert_eq!(
            client.run(|| ask((SERVICE, 80)).unwrap()).split(' ').nth(1),
            Some(&*at_client.to_string())
        );

        // Endpoints come and go while the network runs.
        network.set_services(service(SERVICE, Protocol::Tcp, 80, Pick::Random, &[at_b])).await.unwrap();
        assert_eq!(client.run(|| names((SERVICE, 80), 10)), set(&["b"]));
        // A pod that reaches itself is seen under the gateway's address.
        let itself = b.run(|| ask((SERVICE, 80)).unwrap());
        assert_eq!(itself, format!("b {}", network.gateway()));
        network.set_services(Rules::new()).await.unwrap();
        client.run(|| assert_refused((SERVICE, 80)));
        assert_refused((SERVICE, 80));
    });
}

/// What a pod sends changes no route of the host: the settings are those of a new link and of one that
/// another process made.
#[test]
fn nothing_from_a_pod_is_news_of_routes() {
    in_own_network(async || {
        // New links have what this says.
        for setting in ["ipv4/conf/default/accept_redirects", "ipv6/conf/default/accept_ra"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        let check = |link: &str| {
            for (setting, want) in [
                ("ipv4/conf/LINK/accept_redirects", "0"),
                ("ipv6/conf/LINK/accept_ra", "0"),
                ("ipv6/conf/LINK/accept_redirects", "0"),
                ("ipv6/conf/LINK/disable_ipv6", "1"),
            ] {
                let path = format!("/proc/sys/net/{}", setting.replace("LINK", link));
                assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), want, "{path}");
            }
        };
        let pod = Pod::new("pod");
        let first = Network::start(config()).await.unwrap();
        first.attach("pod", pod.thread).await.unwrap();
        let links = ["proa0".to_owned(), first.link_name("pod")];
        links.iter().for_each(|link| check(link));
        for link in &links {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/accept_redirects"), "1").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "0").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), "1").unwrap();
        }
        drop(first);
        let _second = Network::start(config()).await.unwrap();
        links.iter().for_each(|link| check(link));
    });
}

/// A link used to drop everything for up to a second after it was made, now and then.
#[test]
fn a_pod_is_reached_as_soon_as_it_is_attached() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        for number in 0..12 {
            let pod = Pod::new(&format!("pod-{number}"));
            pod.serve(8080);
            let started = Instant::now();
            let address = network.attach(&pod.uid, pod.thread).await.unwrap();
            let attached = started.elapsed();
            let gateway = network.gateway();
            pod.run(move || assert_refused((gateway, 8080)));
            ask((address, 8080)).unwrap();
            let talked = started.elapsed();
            assert!(talked < AT_ONCE, "attached in {attached:?}, reached after {talked:?}");
        }
    });
}

#[test]
fn a_client_sticks_until_its_time_is_over_or_its_endpoint_is_gone() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let pods: Vec<Pod> = (0..8).map(|n| Pod::new(&format!("pod-{n}"))).collect();
        let mut at = Vec::new();
        for pod in &pods {
            at.push(network.attach(&pod.uid, pod.thread).await.unwrap());
            pod.serve(8080);
        }
        let rules = |timeout_seconds, to: &[Ipv4Addr]| {
            service(SERVICE, Protocol::Tcp, 80, Pick::Client { timeout_seconds }, to)
        };
        network.set_services(rules(3600, &at)).await.unwrap();
        let first = names((SERVICE, 80), 20);
        assert_eq!(first.len(), 1);
        // Others may come and go.
        let mine = pods.iter().position(|pod| first.contains(&pod.uid)).unwrap();
        network.set_services(rules(3600, &at[mine..=mine])).await.unwrap();
        assert_eq!(names((SERVICE, 80), 5), first);
        network.set_services(rules(3600, &at)).await.unwrap();
        assert_eq!(names((SERVICE, 80), 20), first);
        // A client whose endpoint is gone gets another at once, and then sticks to that.
        let others: Vec<Ipv4Addr> = at.iter().filter(|a| **a != at[mine]).copied().collect();
        network.set_services(rules(3600, &others)).await.unwrap();
        let second = names((SERVICE, 80), 20);
        assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
        network.set_services(rules(3600, &at)).await.unwrap();
        assert_eq!(names((SERVICE, 80), 20), second);

        // A client that stays away for longer than its time is forgotten: eight endpoints, so that
        // eight times the same is one in two million.
        network.set_services(rules(1, &at)).await.unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            assert_eq!(names((SERVICE, 80), 3).len(), 1);
            seen.extend(names((SERVICE, 80), 1));
            std::thread::sleep(Duration::from_millis(1300));
        }
        assert!(seen.len() > 1, "always {seen:?}");
    });
}

#[test]
fn node_ports_and_host_ports_lead_to_pods() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let at_a = network.attach("a", a.thread).await.unwrap();
        network.attach("b", b.thread).await.unwrap();
        a.serve(8080);
        b.serve(8080);
        let gateway = network.gateway();
        let (any, loopback) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST);
        let mut rules = service(any, Protocol::Tcp, 30080, Pick::Random, &[at_a]);
        rules.extend(service(any, Protocol::Tcp, 30081, Pick::Client { timeout_seconds: 60 }, &[at_a]));
        network.set_services(rules).await.unwrap();
        let port =
            HostPort { protocol: Protocol::Tcp, host_address: any, host_port: 9000, container_port: 8080 };
        let taken = HostPort { host_port: 30080, ..port };
        let only_here = HostPort { host_address: loopback, host_port: 9001, ..port };
        network.set_host_ports("b", &[port, taken, only_here]).await.unwrap();
        for address in [gateway, loopback] {
            for (port, name) in [(30080, "a"), (30081, "a"), (9000, "b")] {
                assert_eq!(names((address, port), 5), set(&[name]), "{address}:{port}");
            }
        }
        assert_eq!(b.run(move || names((gateway, 30080), 5)), set(&["a"]));
        assert_eq!(names((loopback, 9001), 5), set(&["b"]));
        assert_refused((gateway, 9001));
        // What listens on another loopback address of the host stays there.
        assert_refused((Ipv4Addr::new(127, 0, 0, 53), 9000));
        network.set_host_ports("b", &[]).await.unwrap();
        assert_refused((gateway, 9000));
    });
}

#[test]
fn what_the_host_has_itself_is_not_taken_over() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let pod = Pod::new("pod");
        let address = network.attach("pod", pod.thread).await.unwrap();
        pod.serve(8080);
        let (gateway, dns) = (network.gateway(), config().dns_address);
        let listener = TcpListener::bind((gateway, 6443)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(b"host").unwrap();
            }
        });
        let any = Ipv4Addr::UNSPECIFIED;
        let port =
            HostPort { protocol: Protocol::Tcp, host_address: any, host_port: 6443, container_port: 8080 };
        // A Service that asks for the host's address, and a host port on all of them.
        let mut rules = service(gateway, Protocol::Tcp, 6443, Pick::Random, &[address]);
        rules.extend(service(dns, Protocol::Tcp, 53, Pick::Random, &[address]));
        network.set_services(rules).await.unwrap();
        network.set_host_ports("pod", &[port, HostPort { host_port: 53, ..port }]).await.unwrap();
        for from_pod in [false, true] {
            let reach = move || {
                assert_eq!(ask((gateway, 6443)).unwrap(), "host");
                assert_refused((dns, 53));
            };
            if from_pod { pod.run(reach) } else { reach() }
        }
        assert_eq!(ask((Ipv4Addr::LOCALHOST, 6443)).unwrap().split(' ').next(), Some("pod"));

        let refusal =
            async |port: HostPort| network.set_host_ports("pod", &[port]).await.unwrap_err().to_string();
        let at = |address: [u8; 4]| HostPort { host_address: address.into(), ..port };
        assert_eq!(
            refusal(at(gateway.octets())).await,
            "hostPort 6443 is where the cluster itself listens on this node"
        );
        for elsewhere in [[10, 43, 0, 10], [192, 0, 2, 1]] {
            let shown = Ipv4Addr::from(elsewhere);
            assert_eq!(
                refusal(at(elsewhere)).await,
                format!("hostIP {shown} is not an address of this node")
            );
        }
    });
}

/// A pod that may make packets of its own does not get to what listens on the host's loopback.
#[test]
fn loopback_stays_the_hosts_own() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let pod = Pod::new("pod");
        network.attach("pod", pod.thread).await.unwrap();
        let loopback = Ipv4Addr::LOCALHOST;
        let heard = UdpSocket::bind((loopback, 4000)).unwrap();
        heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        pod.run(move || {
            // 127/8 leaves the pod like any other address.
            for command in [
                "ip route del local 127.0.0.0/8 dev lo table local",
                "ip route del local 127.0.0.1 dev lo table local",
                "ip route add 127.0.0.1/32 via 10.42.0.1 dev eth0 onlink",
            ] {
                Command::new("sh").args(["-c", command]).status().unwrap();
            }
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let _ = socket.send_to(b"from a pod", (loopback, 4000));
        });
        let error = heard.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let own = UdpSocket::bind((loopback, 0)).unwrap();
        own.send_to(b"from the host", (loopback, 4000)).unwrap();
        assert_eq!(heard.recv(&mut [0; 16]).unwrap(), 13);
    });
}

#[test]
fn addresses_of_nobody_are_refused_at_once() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let pod = Pod::new("pod");
        network.attach("pod", pod.thread).await.unwrap();
        for to in [
            (Ipv4Addr::new(10, 42, 0, 200), 80),
            (Ipv4Addr::new(10, 42, 99, 1), 80),
            (Ipv4Addr::new(10, 43, 200, 9), 443),
        ] {
            assert_refused(to);
            pod.run(move || assert_refused(to));
            pod.run(move || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                // The kernel limits how many such answers it sends in a second, to all of the
                // machine's namespaces together: one that is left out comes for the next packet.
                let refused = (0..25).any(|_| {
                    let sent = socket.send(b"anyone").map(|_| 0);
                    let error = sent.and_then(|_| socket.recv(&mut [0; 8])).unwrap_err();
                    error.kind() == io::ErrorKind::ConnectionRefused
                });
                assert!(refused, "{to:?}");
            });
        }
        // The host's own addresses are not among them: a closed port answers for itself, and the DNS
        // server can bind its address.
        let dns = config().dns_address;
        let listener = UdpSocket::bind((dns, 53)).unwrap();
        pod.run(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.send_to(b"question", (dns, 53)).unwrap();
        });
        listener.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(listener.recv(&mut [0; 16]).unwrap(), 8);
    });
}

#[test]
fn udp_clients_move_on_when_their_endpoint_goes() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let (a, b, client) = (Pod::new("a"), Pod::new("b"), Pod::new("client"));
        let at_a = network.attach("a", a.thread).await.unwrap();
        let at_b = network.attach("b", b.thread).await.unwrap();
        network.attach("client", client.thread).await.unwrap();
        a.serve_udp(8080);
        b.serve_udp(8080);
        let rules = |to| service(SERVICE, Protocol::Udp, 53, Pick::Random, &[to]);
        let socket = client.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket.connect((SERVICE, 53)).unwrap();
            socket
        });
        for (to, name) in [(at_a, "a"), (at_b, "b")] {
            network.set_services(rules(to)).await.unwrap();
            socket.send(b"who").unwrap();
            let mut answer = [0; 8];
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!(&answer[..length], name.as_bytes());
        }
    });
}

#[test]
fn a_new_process_finds_the_pods_and_the_rules_again() {
    in_own_network(async || {
        let first = Network::start(config()).await.unwrap();
        let pod = Pod::new("pod");
        let address = first.attach("pod", pod.thread).await.unwrap();
        pod.serve(8080);
        let rules = service(SERVICE, Protocol::Tcp, 80, Pick::Random, &[address]);
        first.set_services(rules.clone()).await.unwrap();
        drop(first);

        let second = Network::start(config()).await.unwrap();
        assert_eq!(second.adopt("pod").await, Some(address));
        assert_eq!(second.adopt("unknown").await, None);
        // The old rules hold until the new ones are known.
        assert_eq!(names((SERVICE, 80), 5), set(&["pod"]));
        second.set_services(rules).await.unwrap();
        assert_eq!(names((SERVICE, 80), 5), set(&["pod"]));

        // The same namespace again changes nothing, a new one takes the address over.
        assert_eq!(second.attach("pod", pod.thread).await.unwrap(), address);
        assert_eq!(names((SERVICE, 80), 5), set(&["pod"]));
        let again = Pod::new("again");
        assert_eq!(second.attach("pod", again.thread).await.unwrap(), address);
        again.serve(8080);
        assert_eq!(names((SERVICE, 80), 5), set(&["again"]));

        // A freed address is not given out again at once.
        let other = Pod::new("other");
        second.detach("pod").await.unwrap();
        assert_refused((address, 8080));
        assert_ne!(second.attach("other", other.thread).await.unwrap(), address);
    });
}

#[test]
fn remove_all_leaves_nothing() {
    in_own_network(async || {
        let network = Network::start(config()).await.unwrap();
        let pods: Vec<_> = (0..3).map(|i| Pod::new(&format!("pod-{i}"))).collect();
        for pod in &pods {
            network.attach(&pod.uid, pod.thread).await.unwrap();
        }
        // Development aid: the layout as the usual program prints it.
        if let Ok(listed) = Command::new("nft").args(["list", "table", "ip", TABLE]).output() {
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(text.contains("vmap @frontends") && text.contains("oifname \"proa0\""), "{text}");
        }
        for _ in 0..2 {
            network.remove_all().await.unwrap();
            let links: Vec<_> =
                network.0.links.list().await.unwrap().into_iter().map(|link| link.name).collect();
            assert_eq!(links, ["lo"]);
            assert!(!nft::table_exists(TABLE).unwrap());
        }
        Network::remove_left_over("proa0", TABLE).await.unwrap();
    });
}

#[test]
fn networks_of_two_nodes_are_removed_one_by_one() {
    in_own_network(async || {
        let beside = NetworkConfig {
            bridge: "proa1".into(),
            table: "proa-other".into(),
            node_cidr: "10.52.0.0/24".parse().unwrap(),
            cluster_cidr: "10.52.0.0/16".parse().unwrap(),
            service_cidr: "10.53.0.0/16".parse().unwrap(),
            dns_address: Ipv4Addr::new(10, 53, 0, 10),
            reserved: Vec::new(),
        };
        let (one, other) =
            (Network::start(config()).await.unwrap(), Network::start(beside.clone()).await.unwrap());
        let pods = [Pod::new("one"), Pod::new("other")];
        one.attach(&pods[0].uid, pods[0].thread).await.unwrap();
        let at_other = other.attach(&pods[1].uid, pods[1].thread).await.unwrap();
        // A client of one's service keeps its address past the rules of the other.
        let client = Pod::new("client");
        let at_client = other.attach(&client.uid, client.thread).await.unwrap();
        pods[1].serve(8080);
        let address = Ipv4Addr::new(10, 53, 0, 7);
        other.set_services(service(address, Protocol::Tcp, 80, Pick::Random, &[at_other])).await.unwrap();
        assert_eq!(client.run(move || ask((address, 80)).unwrap()), format!("other {at_client}"));
        other.detach(&client.uid).await.unwrap();
        let names = async || {
            let links = other.0.links.list().await.unwrap().into_iter().map(|link| link.name);
            links.collect::<BTreeSet<_>>()
        };
        let before = names().await;
        Network::remove_left_over("proa0", TABLE).await.unwrap();
        let left = names().await;
        assert!(left.iter().all(|name| !name.starts_with("proa0")) && left.len() + 2 == before.len());
        assert!(!nft::table_exists(TABLE).unwrap() && nft::table_exists("proa-other").unwrap());

        // Where two nodes share the names, the last of them removes what is everybody's.
        let shared = |uid: &str| link_name_in(SHARED_LINK_LETTERS, "proa1", uid);
        other.detach(&pods[1].uid).await.unwrap();
        for uid in ["a", "b"] {
            other.0.links.make_device(&shared(uid)).await.unwrap();
        }
        let remove = async |uid: &str| {
            Network::remove_shared("proa1", "proa-other", &[uid.to_owned()]).await.unwrap();
            (names().await, nft::table_exists("proa-other").unwrap())
        };
        let (names, table) = remove("a").await;
        assert!(table && names == BTreeSet::from(["lo".into(), "proa1".into(), shared("b")]), "{names:?}");
        let (names, table) = remove("b").await;
        assert!(!table && names == BTreeSet::from(["lo".into()]), "{names:?}");
    });
}

#[test]
fn what_cannot_work_is_refused_in_a_sentence() {
    in_own_network(async || {
        let start = async |change: fn(&mut NetworkConfig)| {
            let mut wrong = config();
            change(&mut wrong);
            Network::start(wrong).await.err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(
            start(|c| c.dns_address = Ipv4Addr::new(10, 99, 0, 10)).await,
            "the DNS address 10.99.0.10 is not in the services' range 10.43.0.0/16"
        );
        assert_eq!(
            start(|c| c.service_cidr = "10.42.128.0/17".parse().unwrap()).await,
            "the pods' range 10.42.0.0/16 and the services' range 10.42.128.0/17 overlap"
        );
        assert_eq!(
            start(|c| c.node_cidr = "10.50.0.0/24".parse().unwrap()).await,
            "the node's range 10.50.0.0/24 is not a range of at least four addresses in 10.42.0.0/16"
        );
        let links = Links::connect().unwrap();
        let device = links.make_device("lan0").await.unwrap();
        links.add_address(device, Ipv4Addr::new(10, 42, 7, 7)).await.unwrap();
        assert_eq!(
            start(|_| {}).await,
            "the range 10.42.0.0/16 is in use on this host, which has the address 10.42.7.7 on lan0"
        );
    });
}
