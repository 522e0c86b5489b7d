//! One check of a container, or one call of a lifecycle hook: HTTP, TCP, or a command inside.
//!
//! Used by probes and hooks. The texts of failures are the kubelet's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_sandbox::protocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::Url;

use super::names;
use crate::engine::Sandbox;

/// Bytes of an answer that are looked at.
const BODY_LIMIT: usize = 10 << 10;
/// Bytes of an answer that an Event shows.
const SHOWN_BODY: usize = 512;
/// Characters of a command's output that an Event shows, as the kubelet's do.
const SHOWN_OUTPUT: usize = 1024;
/// Requests of one check: the first, and where it is sent on.
const MAX_REQUESTS: usize = 10;
const USER_AGENT: &str = "kube-probe/1.35";

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A GET that must answer 200 to 399.
    Http {
        /// What is asked for.
        place: Place,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// A connection that must be accepted.
    Tcp {
        /// Where to connect.
        host: String,
        /// Port.
        port: u16,
    },
    /// A command that must exit with 0.
    Exec(Vec<String>),
    /// Only time passes.
    Sleep(Duration),
}

/// What an HTTP check asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Where to connect.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS; the certificate is not looked at.
    pub tls: bool,
    /// Path and query.
    pub path: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", bracketed(&self.host), self.port, self.path)
    }
}

impl Place {
    /// Where the header `Location` of an answer from here leads.
    fn redirected(&self, location: &str) -> Result<Place, String> {
        let failed =
            |why: &dyn std::fmt::Display| format!("failed to parse Location header {location:?}: {why}");
        let here = Url::parse(&self.to_string()).map_err(|e| failed(&e))?;
        let there = here.join(location).map_err(|e| failed(&e))?;
        let (Some(host), Some(port)) = (there.host_str(), there.port_or_known_default()) else {
            return Err(format!("unsupported protocol scheme {:?}", there.scheme()));
        };
        let query = there.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Place {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            tls: there.scheme() == "https",
            path: format!("{}{query}", there.path()),
        })
    }
}

/// Where a check finds its container.
#[derive(Clone)]
pub struct Target {
    /// The pod's sandbox.
    pub sandbox: Sandbox,
    /// The run's id in the sandbox.
    pub id: String,
}

impl Check {
    /// The check of a probe.
    pub fn of_probe(probe: &Probe, container: &Container, ip: IpAddr) -> Result<Check, String> {
        if let Some(exec) = &probe.exec {
            return Ok(Check::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = &probe.http_get {
            return of_http(http, container, ip);
        }
        match &probe.tcp_socket {
            Some(tcp) => Ok(Check::Tcp {
                host: tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string()),
                port: port(&tcp.port, container)?,
            }),
            None => Err("missing probe handler".to_owned()),
        }
    }

    /// The call of a hook.
    pub fn of_hook(hook: &LifecycleHandler, container: &Container, ip: IpAddr) -> Result<Check, String> {
        if let Some(exec) = &hook.exec {
            return Ok(Check::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = &hook.http_get {
            return of_http(http, container, ip);
        }
        match &hook.sleep {
            Some(sleep) => Ok(Check::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))),
            None => Err("invalid handler: no exec, httpGet or sleep".to_owned()),
        }
    }

    /// Does it. What it gives is a warning; an error is what the Event about it says.
    pub async fn run(&self, target: &Target, timeout: Duration) -> Result<Option<String>, String> {
        match self {
            Check::Http { place, headers } => {
                match tokio::time::timeout(timeout, Box::pin(get(place, headers))).await {
                    Ok(got) => got,
                    Err(_) => Err(format!(
                        "Get \"{place}\": context deadline exceeded \
                         (Client.Timeout exceeded while awaiting headers)"
                    )),
                }
            }
            Check::Tcp { host, port } => match tokio::time::timeout(timeout, connect(host, *port)).await {
                Ok(connected) => connected.map(|_| None),
                Err(_) => Err(format!("dial tcp {}:{port}: i/o timeout", bracketed(host))),
            },
            Check::Exec(args) => exec(args, target, timeout).await.map(|()| None),
            Check::Sleep(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(None)
            }
        }
    }
}

fn of_http(http: &HTTPGetAction, container: &Container, ip: IpAddr) -> Result<Check, String> {
    let path = http.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
    let headers = http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone()));
    let place = Place {
        host: http.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string()),
        port: port(&http.port, container)?,
        tls: http.scheme.as_deref() == Some("HTTPS"),
        path: if path.starts_with('/') { path } else { format!("/{path}") },
    };
    Ok(Check::Http { place, headers: headers.collect() })
}

/// A port by number, or by its name among the container's ports.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match (named, name.parse()) {
                (Some(port), _) => port.container_port,
                (None, Ok(number)) => number,
                (None, Err(_)) => {
                    return Err(format!("couldn't find port: {name} in container {}", container.name));
                }
            }
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Asks, and goes where the answers send it as long as that is the same host: what another host
/// says tells nothing of the container.
async fn get(first: &Place, headers: &[(String, String)]) -> Result<Option<String>, String> {
    let mut place = first.clone();
    let mut headers = headers.to_vec();
    for _ in 0..MAX_REQUESTS {
        let answer = ask(&place, &headers).await.map_err(|error| format!("Get \"{place}\": {error}"))?;
        let code = answer.status.as_u16();
        let next = match code {
            200..=299 => return Ok(None),
            301 | 302 | 303 | 307 | 308 => answer.location.as_deref(),
            300..=399 => None,
            _ => return Err(format!("HTTP probe failed with statuscode: {code}")),
        };
        let next = next.map(|location| place.redirected(location)).transpose();
        match next.map_err(|error| format!("Get \"{place}\": {error}"))? {
            Some(next) if next.host.eq_ignore_ascii_case(&first.host) => {
                if (&next.host, next.port) != (&place.host, place.port) {
                    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
                }
                place = next;
            }
            _ => return Ok(Some(format!("Probe terminated redirects, Response body: {}", answer.body))),
        }
    }
    Err(format!("Get \"{place}\": stopped after {MAX_REQUESTS} redirects"))
}

/// What matters of an answer.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    /// The beginning of it.
    body: String,
}

async fn ask(place: &Place, headers: &[(String, String)]) -> Result<Answer, String> {
    let stream = connect(&place.host, place.port).await?;
    if place.tls {
        exchange(super::tls::connect(stream, &place.host).await?, place, headers).await
    } else {
        exchange(stream, place, headers).await
    }
}

async fn exchange<S>(stream: S, place: &Place, headers: &[(String, String)]) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let uri: Uri = place.path.parse().map_err(|e| text(&e))?;
    let mut request = Request::get(uri).body(Empty::<bytes::Bytes>::new()).map_err(|e| text(&e))?;
    let host = format!("{}:{}", bracketed(&place.host), place.port);
    let host = HeaderValue::try_from(host).map_err(|e| text(&e))?;
    let all = request.headers_mut();
    all.insert(http::header::HOST, host);
    all.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    all.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    all.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    // The pod's own take their places, each as often as it is there; a request has one host.
    headers.iter().for_each(|(name, _)| drop(all.remove(name)));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|e| text(&e))?;
        if name != http::header::HOST || !all.contains_key(&name) {
            all.append(name, HeaderValue::try_from(value).map_err(|e| text(&e))?);
        }
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
    let status = answer.status();
    let location = answer.headers().get(http::header::LOCATION);
    let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // Reading the answer spares the server a broken connection.
    let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    drop(driver);
    let body = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BODY)]).into_owned();
    Ok(Answer { status, location, body })
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {}:{port}: {why}", bracketed(host))
    };
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => names::look_up(host).await.map_err(|why| format!("dial tcp: {why}"))?,
    };
    let addresses: Vec<SocketAddr> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    TcpStream::connect(&addresses[..]).await.map_err(failed)
}

async fn exec(args: &[String], target: &Target, timeout: Duration) -> Result<(), String> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let request = protocol::Request::Exec { id: target.id.clone(), args: args.to_vec(), timeout_ms };
    match target.sandbox.request(request).await {
        Ok(protocol::Reply::Executed { exit_code: 0, .. }) => Ok(()),
        Ok(protocol::Reply::Executed { output, exit_code }) if output.is_empty() => {
            Err(format!("command exited with {exit_code}"))
        }
        Ok(protocol::Reply::Executed { output, .. }) => Err(output.chars().take(SHOWN_OUTPUT).collect()),
        Ok(protocol::Reply::Failed { message, .. }) => Err(message),
        Ok(other) => Err(format!("unexpected answer of the sandbox: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(probe: Value, expected: Result<Check, &str>) {
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container: Container = serde_json::from_value(container).unwrap();
        let probe: Probe = serde_json::from_value(probe).unwrap();
        let found = Check::of_probe(&probe, &container, [10, 42, 0, 7].into());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn checks_of_probes() {
        let http = |host: &str, port, tls, path: &str| {
            let place = Place { host: host.to_owned(), port, tls, path: path.to_owned() };
            Check::Http { place, headers: vec![] }
        };
        check(json!({"httpGet": {"port": 80}}), Ok(http("10.42.0.7", 80, false, "/")));
        check(
            json!({"httpGet": {"port": "web", "path": "h?x=1", "scheme": "HTTPS", "host": "h"}}),
            Ok(http("h", 8080, true, "/h?x=1")),
        );
        check(
            json!({"tcpSocket": {"port": "web"}}),
            Ok(Check::Tcp { host: "10.42.0.7".to_owned(), port: 8080 }),
        );
        check(json!({"tcpSocket": {"port": "x"}}), Err("couldn't find port: x in container c"));
        check(json!({"exec": {"command": ["a"]}}), Ok(Check::Exec(vec!["a".to_owned()])));
        check(json!({}), Err("missing probe handler"));
    }

    /// A server that gives these answers, one for each request, and says what it was asked for.
    async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let n = stream.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..n]).into_owned());
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
            asked
        });
        (port, task)
    }

    #[test]
    fn names_are_looked_up_without_a_thread() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let connected = tokio::time::timeout(Duration::from_secs(5), connect("localhost", port)).await;
            assert!(connected.expect("no thread is waited for").is_ok());
            let error = connect("name.invalid.", port).await.unwrap_err();
            assert!(error.starts_with("dial tcp: lookup name.invalid.: "), "{error}");
            drop(release);
            let _ = busy.await;
        });
    }

    fn place(port: u16) -> Place {
        Place { host: "127.0.0.1".to_owned(), port, tls: false, path: "/a/b?c".to_owned() }
    }

    #[tokio::test]
    async fn answers_and_refusals() {
        let end = "Content-Length: 0\r\n\r\n";
        let answers = ["200 OK", "503 Busy"].map(|status| format!("{status}\r\n{end}")).to_vec();
        let (port, served) = server(answers).await;
        let headers = [("X-Test".to_owned(), "1".to_owned())];
        assert_eq!(get(&place(port), &headers).await, Ok(None));
        let failed = Err("HTTP probe failed with statuscode: 503".to_owned());
        assert_eq!(get(&place(port), &headers).await, failed);
        served.await.unwrap();
        let refused = connect("127.0.0.1", port).await.map(drop);
        assert_eq!(refused, Err(format!("dial tcp 127.0.0.1:{port}: connect: connection refused")));
    }

    #[tokio::test]
    async fn headers_are_sent_as_often_as_they_are_there() {
        let (port, served) = server(vec!["200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()]).await;
        let headers = [("X-A", "1"), ("x-a", "2"), ("Accept", "a/b"), ("Host", "h"), ("host", "i")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(get(&place(port), &headers).await, Ok(None));
        let asked = served.await.unwrap().concat();
        let of = |wanted: &str| -> Vec<String> {
            let lines = asked.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned()).collect()
        };
        assert_eq!(of("x-a"), ["1", "2"]);
        assert_eq!(of("accept"), ["a/b"]);
        assert_eq!(of("host"), ["h"]);
        assert_eq!(of("user-agent"), [USER_AGENT]);
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host() {
        let to = |location: &str| format!("302 Found\r\nLocation: {location}\r\nContent-Length: 2\r\n\r\nhi");
        let (port, served) =
            server(vec![to("d?e"), to("/f"), "404 No\r\nContent-Length: 0\r\n\r\n".to_owned()]).await;
        let failed = Err("HTTP probe failed with statuscode: 404".to_owned());
        assert_eq!(get(&place(port), &[]).await, failed, "what it is sent to counts");
        let asked = served.await.unwrap();
        let asked: Vec<_> = asked.iter().filter_map(|request| request.lines().next()).collect();
        assert_eq!(asked, ["GET /a/b?c HTTP/1.1", "GET /a/d?e HTTP/1.1", "GET /f HTTP/1.1"]);

        // Another host, and an answer that leads nowhere, are successes with a warning.
        let nowhere = "304 Not Modified\r\n\r\n".to_owned();
        let (port, _served) = server(vec![to("http://192.0.2.1/"), nowhere]).await;
        let warned = |body: &str| Ok(Some(format!("Probe terminated redirects, Response body: {body}")));
        assert_eq!(get(&place(port), &[]).await, warned("hi"));
        assert_eq!(get(&place(port), &[]).await, warned(""));

        let (port, _served) = server(vec![to("/again"); 11]).await;
        let endless = Err(format!("Get \"http://127.0.0.1:{port}/again\": stopped after 10 redirects"));
        assert_eq!(get(&place(port), &[]).await, endless);
    }
}
