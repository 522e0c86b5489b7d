//! `/podProxy/{namespace}/{pod}/{uid}/{scheme}/{port}/…`: a request that the API server was asked
//! to carry to a pod, done by the node that runs it.
//!
//! Merged into the node's HTTP server. The connection goes to the address that this node gave the
//! pod, whatever an object in the API says, and to no other pod of the same name. What the pod
//! answers goes back as it is; a refusal of this node's own has a header that says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderValue, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proa_api::names::{PROXY_HOST_HEADER, PROXY_REFUSED_HEADER};
use proa_api::shares::{Share, Shares};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::node::descriptors::{self, Allowed};
use crate::node::shown_pods::{Shown, ShownPods};
use crate::pod::probe::tls;

/// A pod must have taken the connection by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A pod that takes nothing for so long of what is sent to it is given up.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a request that wait to be taken by a pod.
const BUFFER: usize = 64 << 10;
/// Parts of the path before the pod's own.
const PREFIX_PARTS: usize = 6;

/// Status code and text.
type Refusal = (StatusCode, String);
/// Namespace, pod, uid, scheme, port.
type PodPath = Path<Vec<(String, String)>>;

#[derive(Clone)]
struct Server {
    pods: ShownPods,
    /// Requests under way, by the pod's uid.
    open: Arc<Shares<String>>,
}

/// The routes.
pub fn router(pods: ShownPods) -> Router {
    let pod = "/podProxy/{namespace}/{pod}/{uid}/{scheme}/{port}";
    Router::new()
        .route(&format!("{pod}/"), any(serve))
        .route(&format!("{pod}/{{*path}}"), any(serve))
        .with_state(Server { pods, open: shares(Allowed::of(descriptors::limit()).proxied) })
}

fn shares(all: usize) -> Arc<Shares<String>> {
    Shares::new(all, all / 4)
}

async fn serve(State(server): State<Server>, Path(path): PodPath, request: Request) -> Response {
    match carry(&server, &path, request).await {
        Ok(response) => response,
        Err(refusal) => {
            let mut response = refusal.into_response();
            response.headers_mut().insert(PROXY_REFUSED_HEADER, HeaderValue::from_static("true"));
            response
        }
    }
}

async fn carry(server: &Server, path: &[(String, String)], request: Request) -> Result<Response, Refusal> {
    let part = |name: &str| {
        path.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let shown = server.pods.get(part("namespace"), part("pod"));
    let shown = shown.filter(|shown| shown.pod.metadata.uid.as_deref() == Some(part("uid")));
    let shown = shown.ok_or_else(|| unreachable("pod does not exist"))?;
    let address = address(&shown, part("port"))?;
    let share = server.open.take(part("uid").to_owned()).ok_or_else(|| {
        let text = "too many requests are carried to this pod, or by this node";
        (StatusCode::TOO_MANY_REQUESTS, text.to_owned())
    })?;
    let stream = match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| unreachable(&dial_text(address, &error)))?,
        Err(_) => return Err(unreachable(&format!("dial tcp {address}: i/o timeout"))),
    };
    // What is typed into a WebSocket is small and wanted at once.
    let _ = stream.set_nodelay(true);
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_LIMIT)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
    }
    if part("scheme") == "https" {
        let name = address.ip().to_string();
        let shaken = tokio::time::timeout(CONNECT_LIMIT, tls::connect(stream, &name)).await;
        let shaken = shaken.unwrap_or_else(|_| Err("net/http: TLS handshake timeout".to_owned()));
        exchange(shaken.map_err(|why| unreachable(&why))?, share, request).await
    } else {
        exchange(stream, share, request).await
    }
}

/// Where the pod listens. On the node's own network only what its containers declare is a port of
/// the pod; the rest is the node's.
fn address(shown: &Shown, port: &str) -> Result<SocketAddr, Refusal> {
    let not_allowed = |why: &str| (StatusCode::BAD_REQUEST, format!("address not allowed{why}"));
    let port: u16 = port.parse().map_err(|_| not_allowed(""))?;
    let ip = shown.status.pod_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast());
    let ip = ip.ok_or_else(|| not_allowed(""))?;
    let spec = shown.pod.spec.as_ref();
    let on_host = spec.is_some_and(|spec| spec.host_network == Some(true));
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let mut declared = containers.iter().flat_map(|c| c.ports.iter().flatten());
    if on_host && !declared.any(|known| known.container_port == i32::from(port)) {
        return Err(not_allowed(&format!(
            ": no container of this pod on the node's network declares port {port}"
        )));
    }
    Ok(SocketAddr::new(ip, port))
}

/// One request on a connection of its own, which ends when the client or the pod ends it: with the answer
/// that is dropped goes the connection, as one whose pod takes nothing would not see that by itself.
async fn exchange<S>(stream: S, share: Share<String>, mut request: Request) -> Result<Response, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::fmt::Display| unreachable(&error.to_string());
    let client = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    *request.uri_mut() = own_path(request.uri()).map_err(|error| failed(&error))?;
    *request.version_mut() = http::Version::HTTP_11;
    match request.headers_mut().remove(PROXY_HOST_HEADER) {
        Some(host) => drop(request.headers_mut().insert(header::HOST, host)),
        None if request.headers().contains_key(header::HOST) => {}
        None => drop(request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"))),
    }
    let mut builder = hyper::client::conn::http1::Builder::new();
    let made = builder.max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(|error| failed(&error))?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection to a pod ended");
        }
    }));
    let mut response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    response.headers_mut().remove(PROXY_REFUSED_HEADER);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        drop(connection.detach());
        let pod = hyper::upgrade::on(&mut response);
        // Without a client's connection to join, the pod's is dropped and ends.
        if let Some(client) = client {
            tokio::spawn(async move {
                join(client, pod).await;
                drop(share);
            });
        }
        return Ok(response.map(Body::new));
    }
    // How the pod's connection framed the body is not how the next does.
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    response.headers_mut().remove(header::CONNECTION);
    let held = (connection, share);
    let until_its_end = move |frame| {
        let _ = &held;
        frame
    };
    Ok(response.map(|body| Body::new(body.map_frame(until_its_end))))
}

/// The pod's own path and query, as they were sent.
fn own_path(uri: &Uri) -> Result<Uri, http::uri::InvalidUri> {
    let text = uri.path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or("/");
    let slash = text.match_indices('/').nth(PREFIX_PARTS).map_or(text.len(), |(at, _)| at);
    let own = &text[slash..];
    if own.is_empty() { Ok(Uri::from_static("/")) } else { own.parse() }
}

async fn join(client: OnUpgrade, pod: OnUpgrade) {
    let (client, pod) = match tokio::try_join!(client, pod) {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "a stream to a pod was not upgraded"),
    };
    let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut pod).await {
        tracing::debug!(%error, "a stream to a pod broke off");
    }
}

fn unreachable(why: &str) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {why}"))
}

fn dial_text(address: SocketAddr, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => format!("connect: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[track_caller]
    fn check(ip: &str, host: bool, port: &str, expected: Result<&str, &str>) {
        let pod = json!({"spec": {"hostNetwork": host,
            "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]}});
        let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod).unwrap());
        let status = serde_json::from_value(json!({"podIP": ip})).unwrap();
        let found = address(&Shown { pod, status }, port).map(|found| found.to_string());
        let found = found.map_err(|(_, why)| why);
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{ip} {port}");
    }

    #[test]
    fn only_the_pods_own_address() {
        check("10.42.0.7", false, "22", Ok("10.42.0.7:22"));
        check("127.0.0.1", false, "22", Err("address not allowed"));
        check("", false, "22", Err("address not allowed"));
        check("192.0.2.1", true, "8080", Ok("192.0.2.1:8080"));
        let why = "address not allowed: no container of this pod on the node's network declares port 22";
        check("192.0.2.1", true, "22", Err(why));
    }

    /// A pod that takes nothing keeps nothing of a client that has left.
    #[tokio::test]
    async fn a_request_that_is_given_up_takes_its_connection_with_it() {
        let all = shares(4);
        for answer in ["", "HTTP/1.1 200 OK\r\n\r\n"] {
            let (mut pod, ours) = tokio::io::duplex(1024);
            pod.write_all(answer.as_bytes()).await.unwrap();
            let chunk = || Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b'x'; 16384]));
            let body = Body::from_stream(futures::stream::repeat_with(chunk));
            let request = Request::post("/podProxy/n/p/u/http/80/").body(body).unwrap();
            let share = all.take("u".to_owned()).unwrap();
            assert!(all.take("u".to_owned()).is_none());
            let asked =
                tokio::time::timeout(Duration::from_millis(100), exchange(ours, share, request)).await;
            assert_eq!(asked.is_ok(), !answer.is_empty());
            drop(asked);
            // Nothing is written to what is not there.
            let ended = async {
                while pod.write(&[]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the end");
            assert!(all.take("u".to_owned()).is_some());
        }
    }

    #[test]
    fn the_pod_sees_its_own_path() {
        for (asked, expected) in
            [("/podProxy/n/p/u/http/80/", "/"), ("/podProxy/n/p/u/http/80/a%2Fb/?c=/d", "/a%2Fb/?c=/d")]
        {
            assert_eq!(own_path(&asked.parse().unwrap()).unwrap(), expected);
        }
    }
}
