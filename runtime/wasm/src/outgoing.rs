//! Requests that guests make over `wasi:http`: over connections that all instances of a container
//! share, and that are kept for a while.
//!
//! A connection carries nothing of who uses it, so that the next instance may have it. Servers are
//! trusted that the system, the cluster's CA, or a CA that the pod names vouches for.

use std::error::Error as StdError;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use cap_primitives::fs::{OpenOptions, open, open_ambient_dir};
use http::uri::{Scheme, Uri};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::Instant;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::config::{Preopen, RunConfig};
use crate::patient::Patient;

/// Connections without work that are kept for one server.
const IDLE_PER_HOST: usize = 32;
/// How long they are kept: less than most servers keep theirs.
const IDLE: Duration = Duration::from_secs(15);
/// Limits that a guest sets none for, as `wasi:http` hosts have them.
const DEFAULT_LIMIT: Duration = Duration::from_secs(600);
/// Most bytes of a file of certificates.
const CERTIFICATES: u64 = 4 << 20;
/// Where a pod finds its service account, and the CA of its cluster there.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// Names a file of certificates that are trusted too, as other programs have it.
const CERTIFICATE_FILE: &str = "SSL_CERT_FILE";

/// An answer, and when the exchange is over for whoever asked.
pub type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

type BoxError = Box<dyn StdError + Send + Sync>;

/// Sends requests.
pub struct Outgoing {
    config: Arc<Trust>,
    client: OnceLock<Client<Connector, WasiBody>>,
}

impl Outgoing {
    /// For the guests of one container. Nothing is made before the first request.
    pub fn new(config: &RunConfig) -> Self {
        let named = config.env.iter().find(|(name, _)| name == CERTIFICATE_FILE);
        let mut files = vec![SERVICE_ACCOUNT.to_owned()];
        files.extend(named.map(|(_, path)| path.clone()));
        let config = Trust { preopens: config.preopens.clone(), files, tls: OnceLock::new() };
        Self { config: Arc::new(config), client: OnceLock::new() }
    }

    /// Sends one request and awaits the head of its answer.
    pub async fn send(
        &self,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Sent, Error> {
        if request.uri().authority().is_none() {
            return Err(Error::HttpRequestUriInvalid);
        }
        let or_default = |limit: Option<Duration>| limit.unwrap_or(DEFAULT_LIMIT);
        let first_byte = or_default(options.first_byte_timeout);
        let connecting = Connecting::new(or_default(options.connect_timeout));
        let client = self.client.get_or_init(|| client(&self.config));
        let sent = CONNECTING.scope(connecting.clone(), client.request(request));
        let mut sent = std::pin::pin!(sent);
        let mut deadline = Instant::now() + first_byte;
        let response = loop {
            match tokio::time::timeout_at(deadline, &mut sent).await {
                Ok(answered) => break answered.map_err(|error| meaning(&error))?,
                // Time counts from when there is a connection, which has a limit of its own.
                Err(_) => match connecting.connected() {
                    Some(since) if since + first_byte > deadline => deadline = since + first_byte,
                    Some(_) => return Err(Error::ConnectionReadTimeout),
                    None => deadline = Instant::now() + first_byte,
                },
            }
        };
        let between_bytes = or_default(options.between_bytes_timeout);
        let response = response.map(|body| {
            Patient::new(body.map_err(Error::from), between_bytes, || Error::ConnectionReadTimeout)
                .boxed_unsync()
        });
        Ok((response, Box::new(std::future::ready(Ok(())))))
    }
}

fn client(trust: &Arc<Trust>) -> Client<Connector, WasiBody> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .build(Connector { http, trust: trust.clone() })
}

/// How far one request's own connection is: at work until `until`, or there `since`. A request that
/// needs none of its own has one from the beginning.
#[derive(Clone)]
struct Connecting {
    limit: Duration,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Connecting {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Arc::new(Mutex::new(Some(Instant::now()))) }
    }

    fn connected(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

tokio::task_local! {
    /// The request that a connection is made for. The client makes connections where it is polled,
    /// and has no other way to tell for whom.
    static CONNECTING: Connecting;
}

/// Makes connections.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    trust: Arc<Trust>,
}

impl tower::Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = CONNECTING.try_with(Clone::clone).unwrap_or_else(|_| Connecting::new(DEFAULT_LIMIT));
        let (mut http, trust) = (self.http.clone(), self.trust.clone());
        connecting.set(None);
        Box::pin(async move {
            let made = async move {
                if uri.scheme() == Some(&Scheme::HTTPS) {
                    HttpsConnector::from((http, trust.tls().clone())).call(uri).await
                } else {
                    Ok(MaybeHttpsStream::Http(http.call(uri).await?))
                }
            };
            let made = tokio::time::timeout(connecting.limit, made).await;
            connecting.set(Some(Instant::now()));
            made.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}

/// Whom guests trust.
struct Trust {
    preopens: Vec<Preopen>,
    /// Files of certificates, by the guest's names.
    files: Vec<String>,
    /// Made when it is needed: the system's certificates alone are hundreds.
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Trust {
    fn tls(&self) -> &Arc<ClientConfig> {
        self.tls.get_or_init(|| {
            let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            for file in &self.files {
                match read_certificates(&self.preopens, file) {
                    Ok(certificates) => drop(roots.add_parsable_certificates(certificates)),
                    // A pod may have no service account.
                    Err(_) if file == SERVICE_ACCOUNT => {}
                    Err(error) => eprintln!("proa-wasm: {CERTIFICATE_FILE}={file}: {error}"),
                }
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring has the default versions of TLS");
            Arc::new(config.with_root_certificates(roots).with_no_client_auth())
        })
    }
}

/// The certificates in a file that the guest can see, read as the guest would: never out of the
/// directory it was given.
fn read_certificates(preopens: &[Preopen], path: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let (preopen, inside) = preopens
        .iter()
        .filter_map(|preopen| {
            let inside = path.strip_prefix(preopen.target.trim_end_matches('/'))?.strip_prefix('/')?;
            Some((preopen, inside))
        })
        .min_by_key(|(_, inside)| inside.len())
        .ok_or(io::ErrorKind::NotFound)?;
    let directory = open_ambient_dir(Path::new(&preopen.source), cap_primitives::ambient_authority())?;
    let file = open(&directory, Path::new(inside), OpenOptions::new().read(true))?;
    let mut pem = Vec::new();
    file.take(CERTIFICATES).read_to_end(&mut pem)?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(io::Error::other)
}

/// What went wrong, in the words of `wasi:http`.
fn meaning(error: &legacy::Error) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut is_dns = false;
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            };
        }
        is_dns |= error.to_string() == "dns error";
        cause = match error.downcast_ref::<io::Error>() {
            // What an error was made from is not its source.
            Some(io) => match io.get_ref() {
                Some(inner) if !is_dns => Some(inner),
                _ => return of_io(io, is_dns),
            },
            None => error.source(),
        };
    }
    if error.is_connect() { Error::DestinationUnavailable } else { Error::HttpProtocolError }
}

fn of_io(error: &io::Error, is_dns: bool) -> Error {
    if is_dns {
        return Error::DnsError { rcode: Some(error.to_string()), info_code: None };
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Error::ConnectionTerminated
        }
        _ => Error::DestinationUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http_body_util::{Empty, Full};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    fn config(preopens: Vec<Preopen>, env: &[(&str, &str)]) -> RunConfig {
        let env: Vec<_> = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        serde_json::from_value(serde_json::json!({"compiled": "", "shape": "http", "args": [], "env": env,
            "cwd": "/", "preopens": preopens, "files": [], "memory_bytes": null, "port": 80,
            "grace_period_seconds": 1, "user": null, "report_fd": null}))
        .expect("a configuration")
    }

    /// A server that counts its connections.
    async fn serve(tls: Option<TlsAcceptor>) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let answer = hyper::service::service_fn(async |_| {
                        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(b"answer"))))
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => server.serve_connection(TokioIo::new(stream), answer).await.ok(),
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => server.serve_connection(TokioIo::new(stream), answer).await.ok(),
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        (address, connections)
    }

    async fn ask(outgoing: &Outgoing, url: &str, options: RequestOptions) -> Result<Bytes, Error> {
        let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
        let request = http::Request::get(url).body(body).expect("a request");
        let (response, _) = outgoing.send(request, options).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn connections_are_used_again() {
        let (address, connections) = serve(None).await;
        let outgoing = Outgoing::new(&config(Vec::new(), &[]));
        for _ in 0..20 {
            let url = format!("http://{address}/");
            assert_eq!(ask(&outgoing, &url, RequestOptions::default()).await.expect("an answer"), "answer");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn trusts_whom_the_pod_trusts() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["127.0.0.1".to_owned()];
        let certificate =
            rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("a server");
        let (address, connections) = serve(Some(TlsAcceptor::from(Arc::new(server)))).await;
        let url = format!("https://{address}/");
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = |target: &str| {
            let source = dir.path().join("mounted").display().to_string();
            vec![Preopen { source, target: target.to_owned(), read_only: true }]
        };
        std::fs::create_dir(dir.path().join("mounted")).expect("a directory");
        std::fs::write(dir.path().join("mounted/ca.crt"), certificate.pem()).expect("a file");
        std::fs::write(dir.path().join("outside"), certificate.pem()).expect("a file");
        std::os::unix::fs::symlink("../outside", dir.path().join("mounted/link")).expect("a link");
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        for (config, trusted) in [
            (config(Vec::new(), &[]), false),
            (config(mounted(account), &[]), true),
            (config(mounted("/etc/ca"), &[("SSL_CERT_FILE", "/etc/ca/ca.crt")]), true),
            // Never what the guest itself cannot read.
            (config(mounted("/etc/ca"), &[("SSL_CERT_FILE", "/etc/ca/link")]), false),
            (config(mounted("/etc/ca"), &[("SSL_CERT_FILE", "/etc/ca/../outside")]), false),
        ] {
            let outgoing = Outgoing::new(&config);
            connections.store(0, Ordering::Relaxed);
            for _ in 0..3 {
                match ask(&outgoing, &url, RequestOptions::default()).await {
                    Ok(answer) => assert!(trusted && answer == "answer"),
                    Err(error) => {
                        assert!(!trusted && matches!(error, Error::TlsCertificateError), "{error:?}")
                    }
                }
            }
            assert!(!trusted || connections.load(Ordering::Relaxed) == 1, "a connection each");
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        let outgoing = Outgoing::new(&config(Vec::new(), &[]));
        let none = RequestOptions::default();
        let error = ask(&outgoing, "http://127.0.0.1:1/", none).await.expect_err("an error");
        assert!(matches!(error, Error::ConnectionRefused), "{error:?}");
        let error = ask(&outgoing, "http://name.invalid/", none).await.expect_err("an error");
        assert!(matches!(error, Error::DnsError { .. }), "{error:?}");
        // One that accepts and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", silent.local_addr().expect("an address"));
        let limit = Some(Duration::from_millis(50));
        let options = RequestOptions { first_byte_timeout: limit, ..none };
        let error = ask(&outgoing, &url, options).await.expect_err("an error");
        assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
        let (answers, _) = serve(None).await;
        ask(&outgoing, &format!("http://{answers}/"), none).await.expect("others go on");
    }
}
