//! One check of a container, or one call of a lifecycle hook: HTTP, TCP, or a command inside.
//!
//! Used by probes and hooks. The texts of failures are the kubelet's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_sandbox::protocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::engine::Sandbox;

/// Bytes of an answer that are looked at.
const BODY_LIMIT: usize = 10 << 10;
const USER_AGENT: &str = "kube-probe/1.35";

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A GET that must answer 200 to 399.
    Http {
        /// Where to connect.
        host: String,
        /// Port.
        port: u16,
        /// Over TLS; the certificate is not looked at.
        tls: bool,
        /// Path and query.
        path: String,
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

    /// Does it. An error is what the Event about it says.
    pub async fn run(&self, target: &Target, timeout: Duration) -> Result<(), String> {
        let limited =
            async |work: std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>| {
                let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
                tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(late.to_owned()))
            };
        match self {
            Check::Http { host, port, tls, path, headers } => {
                let scheme = if *tls { "https" } else { "http" };
                let url = format!("{scheme}://{}:{port}{path}", bracketed(host));
                let get = limited(Box::pin(get(host, *port, *tls, path, headers))).await;
                // A bad status is told as it is, a failed exchange with its address.
                get.map_err(|e| if e.starts_with("HTTP probe") { e } else { format!("Get \"{url}\": {e}") })
            }
            Check::Tcp { host, port } => match tokio::time::timeout(timeout, connect(host, *port)).await {
                Ok(connected) => connected.map(drop),
                Err(_) => Err(format!("dial tcp {}:{port}: i/o timeout", bracketed(host))),
            },
            Check::Exec(args) => exec(args, target, timeout).await,
            Check::Sleep(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
        }
    }
}

fn of_http(http: &HTTPGetAction, container: &Container, ip: IpAddr) -> Result<Check, String> {
    let path = http.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
    let headers = http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone()));
    Ok(Check::Http {
        host: http.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string()),
        port: port(&http.port, container)?,
        tls: http.scheme.as_deref() == Some("HTTPS"),
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: headers.collect(),
    })
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

async fn get(
    host: &str,
    port: u16,
    tls: bool,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let stream = connect(host, port).await?;
    if tls {
        let stream = super::tls::connect(stream, host).await?;
        exchange(stream, host, port, path, headers).await
    } else {
        exchange(stream, host, port, path, headers).await
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let uri: Uri = path.parse().map_err(|e| text(&e))?;
    let mut request = Request::get(uri).body(Empty::<bytes::Bytes>::new()).map_err(|e| text(&e))?;
    let host = HeaderValue::try_from(format!("{}:{port}", bracketed(host))).map_err(|e| text(&e))?;
    let all = request.headers_mut();
    all.insert(http::header::HOST, host);
    all.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    all.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    all.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|e| text(&e))?;
        all.insert(name, HeaderValue::try_from(value).map_err(|e| text(&e))?);
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
    let status = answer.status();
    // Reading the answer spares the server a broken connection.
    let _ = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
    drop(driver);
    match status.as_u16() {
        200..=399 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
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
    match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await.map_err(failed),
        Err(_) => TcpStream::connect((host, port)).await.map_err(failed),
    }
}

async fn exec(args: &[String], target: &Target, timeout: Duration) -> Result<(), String> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let request = protocol::Request::Exec { id: target.id.clone(), args: args.to_vec(), timeout_ms };
    match target.sandbox.request(request).await {
        Ok(protocol::Reply::Executed { exit_code: 0, .. }) => Ok(()),
        Ok(protocol::Reply::Executed { output, exit_code }) if output.is_empty() => {
            Err(format!("command exited with {exit_code}"))
        }
        Ok(protocol::Reply::Executed { output, .. }) => Err(output),
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
            let (host, path) = (host.to_owned(), path.to_owned());
            Check::Http { host, port, tls, path, headers: vec![] }
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

    #[tokio::test]
    async fn answers_and_refusals() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for code in ["200 OK", "302 Found", "503 Busy"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let headers = [("X-Test".to_owned(), "1".to_owned())];
        assert_eq!(get("127.0.0.1", port, false, "/", &headers).await, Ok(()));
        assert_eq!(get("127.0.0.1", port, false, "/", &headers).await, Ok(()));
        let failed = Err("HTTP probe failed with statuscode: 503".to_owned());
        assert_eq!(get("127.0.0.1", port, false, "/", &headers).await, failed);
        let refused = connect("127.0.0.1", port).await.map(drop);
        assert_eq!(refused, Err(format!("dial tcp 127.0.0.1:{port}: connect: connection refused")));
    }
}
