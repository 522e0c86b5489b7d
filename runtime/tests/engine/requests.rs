//! Requests to HTTP components: what one may take, and what it leaves to the others.

use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proa_runtime::engine::Compiled;
use proa_sandbox::protocol::{Container, Payload, RequestLimits};

use crate::tests;
use crate::world::{LIMIT, Pod, World, rest};

tests![
    requests_end_with_their_clients,
    requests_end_in_time,
    what_does_not_fit_waits_and_probes_do_not,
    more_requests_than_pooled_memories,
    one_request_out_of_memory,
    broken_answers_look_broken,
    requests_name_their_host,
    large_tables,
    descriptors_stay_behind,
];

/// A 16 MiB container has so many slots for the component, whose memory begins with 17 or 18 pages:
/// 8 MiB of pages, 9 for each.
const SLOTS: usize = 14;

fn http(world: &World, pod: &Pod, what: &Compiled, port: u16, limits: RequestLimits) -> Container {
    let mut container = world.wasm(pod, &format!("w-{port}"), what, port, &[]);
    let Payload::Wasm { requests, .. } = &mut container.payload else { panic!("a Wasm container") };
    *requests = limits;
    container
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
}

/// Hundredths of a second of processor time that a process has used.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Waits until a process does nothing.
async fn idle(pid: i32) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let before = ticks(pid);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if ticks(pid) <= before + 1 {
            return;
        }
        assert!(Instant::now() < deadline, "it works on");
    }
}

async fn requests_end_with_their_clients(world: Arc<World>) {
    let pod = world.pod().await;
    for (port, what) in [(8002, &world.http), (8003, &world.http_p3)] {
        let id = format!("w-{port}");
        let mut container = http(&world, &pod, what, port, RequestLimits::default());
        container.resources.memory_bytes = Some(16 << 20);
        pod.start(container).await;
        // Two that spin.
        let spinning: Vec<_> = (0..2).map(|_| pod.send(port, &get("/spin"))).collect();
        pod.said(&id, "spinning").await;
        drop(spinning);
        idle(pod.pid(&id).await).await;
        // As many that wait as there are slots: gone, they leave them to others.
        let waiting: Vec<_> = (0..SLOTS).map(|_| pod.send(port, &get("/sleep?3600000"))).collect();
        pod.said(&id, "sleeping").await;
        drop(waiting);
        let begun = Instant::now();
        assert_eq!(pod.get(port, "/").expect("an answer").0, 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    // One that reads, of a body that breaks off; one that writes, to nobody.
    let body = "POST /length HTTP/1.1\r\nHost: pod\r\nContent-Length: 100\r\n\r\nhalf";
    drop(pod.send(8002, body));
    let mut stream = pod.send(8002, &get("/endless"));
    stream.read_exact(&mut [0; 1000]).expect("a part of it");
    stream.shutdown(Shutdown::Both).expect("closed");
    drop(stream);
    idle(pod.pid("w-8002").await).await;
    pod.stop().await;
}

async fn requests_end_in_time(world: Arc<World>) {
    let pod = world.pod().await;
    for (port, what) in [(8002, &world.http), (8003, &world.http_p3)] {
        let limits = RequestLimits { timeout_ms: 500, ..RequestLimits::default() };
        pod.start(http(&world, &pod, what, port, limits)).await;
        for path in ["/spin", "/sleep?3600000"] {
            let begun = Instant::now();
            let (status, text) = pod.get(port, path).expect("an answer");
            assert_eq!((status, text.as_str()), (504, "the component did not answer in time"), "{path}");
            let took = begun.elapsed();
            assert!((Duration::from_millis(450)..Duration::from_secs(10)).contains(&took), "{took:?}");
        }
        idle(pod.pid(&format!("w-{port}")).await).await;
        assert_eq!(pod.get(port, "/").expect("an answer").0, 200);
    }
    pod.said("w-8002", "a request took longer than 500ms and was ended").await;
    // Half a body, and an answer that goes on.
    let body = "POST /length HTTP/1.1\r\nHost: pod\r\nContent-Length: 100\r\n\r\nhalf";
    assert!(rest(pod.send(8002, body)).starts_with("HTTP/1.1 504"));
    let mut stream = pod.send(8002, &get("/endless"));
    let cut = std::io::copy(&mut stream, &mut std::io::sink());
    assert!(cut.is_ok() || cut.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    pod.stop().await;
}

async fn what_does_not_fit_waits_and_probes_do_not(world: Arc<World>) {
    let pod = world.pod().await;
    let node = Some([127, 0, 0, 1].into());
    let mut container = http(
        &world,
        &pod,
        &world.http,
        8080,
        RequestLimits { node_address: node, ..RequestLimits::default() },
    );
    container.resources.memory_bytes = Some(16 << 20);
    pod.start(container).await;
    let held: Vec<_> = (0..SLOTS).map(|_| pod.send(8080, &get("/sleep?3600000"))).collect();
    let deadline = Instant::now() + LIMIT;
    while pod.log("w-8080").matches("sleeping").count() < SLOTS {
        assert!(Instant::now() < deadline, "{}", pod.log("w-8080"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (begun, turned_away) = (Instant::now(), pod.send(8080, &get("/")));
    let probe = "GET / HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-probe/1.35\r\nConnection: close\r\n\r\n";
    assert!(rest(pod.send(8080, probe)).starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(5), "a probe has waited {:?}", begun.elapsed());
    let answer = rest(turned_away);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
    let waits = pod.send(8080, &get("/"));
    drop(held);
    assert!(rest(waits).starts_with("HTTP/1.1 200"));
    pod.stop().await;
}

async fn more_requests_than_pooled_memories(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(http(&world, &pod, &world.http, 8080, RequestLimits::default())).await;
    let begun = Instant::now();
    let asked: Vec<_> = (0..200).map(|_| pod.send(8080, &get("/sleep?1500"))).collect();
    for stream in asked {
        assert!(rest(stream).ends_with("slept\n\r\n0\r\n\r\n"));
    }
    // At the same time, not one after the other.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.pid("w-8080").await));
    let pss = memory.unwrap_or_default().lines().find(|line| line.starts_with("Pss:")).map(str::to_owned);
    eprintln!("  200 requests of 1.5 s: {:?}, then {}", begun.elapsed(), pss.unwrap_or_default());
    pod.stop().await;
}

async fn one_request_out_of_memory(world: Arc<World>) {
    let pod = world.pod().await;
    let mut container = http(&world, &pod, &world.http, 8080, RequestLimits::default());
    container.resources.memory_bytes = Some(64 << 20);
    pod.start(container).await;
    let others: Vec<_> = (0..20).map(|_| pod.send(8080, &get("/sleep?1500"))).collect();
    pod.said("w-8080", "sleeping").await;
    assert_eq!(pod.get(8080, "/take?100").expect("an answer").0, 500);
    assert_eq!(pod.get(8080, "/eat").expect("an answer").0, 500);
    assert_eq!(pod.get(8080, "/take?20").expect("an answer"), (200, "20971520 bytes".to_owned()));
    for other in others {
        assert!(rest(other).starts_with("HTTP/1.1 200"));
    }
    pod.said("w-8080", "a request asked for more memory than its instance may have").await;
    assert!(pod.states().await.iter().all(|state| state.exit.is_none()));
    // All together do not get more than the container has.
    let eaters: Vec<_> = (0..6).map(|_| pod.send(8080, &get("/eat"))).collect();
    eaters.into_iter().for_each(|eater| assert!(rest(eater).starts_with("HTTP/1.1 500")));
    assert_eq!(pod.get(8080, "/").expect("an answer").0, 200);
    // By annotation.
    let limits = RequestLimits { instance_memory_bytes: Some(8 << 20), ..RequestLimits::default() };
    pod.start(http(&world, &pod, &world.http, 8081, limits)).await;
    assert_eq!(pod.get(8081, "/take?20").expect("an answer").0, 500);
    assert_eq!(pod.get(8081, "/take?4").expect("an answer").0, 200);
    pod.stop().await;
}

async fn broken_answers_look_broken(world: Arc<World>) {
    let pod = world.pod().await;
    for (port, what, first) in [(8002, &world.http, "half"), (8003, &world.http_p3, "hello from 0.3")] {
        pod.start(http(&world, &pod, what, port, RequestLimits::default())).await;
        let text = rest(pod.send(port, &get("/half")));
        assert!(text.starts_with("HTTP/1.1 200") && text.contains(first), "{text}");
        assert!(!text.contains("\r\n0\r\n"), "it ends with its last chunk: {text}");
        let (read, ended) = over_http2(pod.connect(port), "/half").await;
        assert!(read.contains(first), "{read}");
        let error = ended.expect_err("the stream ends as if the answer were whole");
        let reset = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(reset.contains("internal error"), "{error:?}");
        assert_eq!(pod.get(port, "/").expect("an answer").0, 200);
    }
    pod.stop().await;
}

/// What comes of an answer, and how it ends.
async fn over_http2(stream: TcpStream, path: &str) -> (String, Result<(), hyper::Error>) {
    stream.set_nonblocking(true).expect("a setting");
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream).expect("a stream"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("http://pod{path}")).body(Empty::<bytes::Bytes>::new());
    let response = sender.send_request(request.expect("a request")).await.expect("an answer");
    let (mut body, mut read) = (response.into_body(), String::new());
    let ended = loop {
        match body.frame().await {
            None => break Ok(()),
            Some(Err(error)) => break Err(error),
            Some(Ok(frame)) => {
                read.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&b""[..], |data| data)));
            }
        }
    };
    connection.abort();
    (read, ended)
}

async fn requests_name_their_host(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(http(&world, &pod, &world.http, 8080, RequestLimits::default())).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "200"),
        ("GET / HTTP/1.0\r\n", "200"),
    ] {
        let mut line = String::new();
        let stream = pod.send(8080, &format!("{head}\r\n"));
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        assert_eq!(line.split(' ').nth(1), Some(status), "{head:?}: {line}");
    }
    pod.stop().await;
}

async fn large_tables(world: Arc<World>) {
    let pod = world.pod().await;
    pod.start(http(&world, &pod, &world.tables, 8080, RequestLimits::default())).await;
    assert_eq!(pod.get(8080, "/").expect("an answer"), (200, "a large table".to_owned()));
    pod.stop().await;
}

async fn descriptors_stay_behind(world: Arc<World>) {
    // As whoever starts the node may have it: open, and inherited by whatever is started.
    let file = std::fs::File::open(world.path("exit.wasm")).expect("a file");
    let name = world.path("exit.wasm").canonicalize().expect("a name");
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("inherited");
    let pod = world.pod().await;
    drop(file);
    pod.start(http(&world, &pod, &world.http, 8080, RequestLimits::default())).await;
    pod.start(world.shell(&pod, "c-0", "sleep 1000")).await;
    for pid in [pod.sandbox.pid(), pod.pid("w-8080").await, pod.pid("c-0").await] {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
        let open: Vec<_> = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        assert!(!open.contains(&name), "{open:?}");
    }
    pod.stop().await;
}
