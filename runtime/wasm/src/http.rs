//! Serves an HTTP component on the pod's port, until SIGTERM.
//!
//! A component of WASI 0.2 gets a fresh instance for each request, because many guests keep state
//! that the next request must not see; one of WASI 0.3 was made to be reused. On SIGTERM no new
//! connection is taken, open ones finish what they are at, and the process exits with 0.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p2::bindings::ProxyPre as P2Pre;
use wasmtime_wasi_http::p3::bindings::ServicePre as P3Pre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::config::RunConfig;
use crate::host::{self, Host};
use crate::outcome::Outcome;
use crate::report::Reporter;
use crate::stop;
use crate::{engine, link};

/// How long an instance without work waits for the next request.
const IDLE: Duration = Duration::from_secs(1);

/// How often guests that are running give way to each other.
const TICK: Duration = Duration::from_millis(10);

/// Binds the port on every address of the pod.
pub fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|error| match error.kind() {
        // C libraries differ in their words for this, and it is what users get to see most.
        ErrorKind::AddrInUse => anyhow::anyhow!("listen on port {port}: address already in use"),
        _ => anyhow::anyhow!("listen on port {port}: {error}"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until SIGTERM, then drains.
pub async fn serve(
    config: &RunConfig,
    listener: TcpListener,
    reporter: &mut Reporter,
) -> anyhow::Result<Outcome> {
    let mut sigterm = stop::requested()?;
    let engine = engine::pooling()?;
    let out_of_memory = Arc::new(Notify::new());
    let handler = ProxyHandler::new(Server::new(config, &engine, &out_of_memory)?);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    reporter.ready();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors or of memory for a moment; those who hold them finish.
                    eprintln!("proa-wasm: accept: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            _ = sigterm.recv() => break,
            () = out_of_memory.notified() => return Ok(Outcome::OutOfMemory),
        };
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        let service = hyper::service::service_fn(move |request| respond(handler.clone(), request));
        let connection =
            connections.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // What goes wrong on a connection is its peer's business.
        tokio::spawn(async move { connection.await.ok() });
    }
    drop(listener);
    let _ = tokio::time::timeout(stop::grace(config), connections.shutdown()).await;
    Ok(Outcome::Exited(0))
}

async fn respond(
    handler: ProxyHandler<Server>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<WasiBody>, Infallible> {
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    Ok(handler.handle((), request).await.unwrap_or_else(|error| {
        eprintln!("proa-wasm: request failed: {error:?}");
        let body = Full::new(Bytes::from_static(b"the component failed to answer\n"));
        let mut response = hyper::Response::new(body.map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}

/// What makes instances.
struct Server {
    config: Arc<RunConfig>,
    engine: Engine,
    pre: ProxyPre<Host>,
    /// As many as there is room for.
    instances: Arc<Semaphore>,
    /// Requests one instance may take, in all and at a time.
    reuse: (usize, usize),
    /// Told when a guest was refused memory and ended of it.
    out_of_memory: Arc<Notify>,
    ticker: Arc<Ticker>,
}

impl Server {
    fn new(config: &RunConfig, engine: &Engine, out_of_memory: &Arc<Notify>) -> anyhow::Result<Self> {
        let component = engine::load_component(engine, Path::new(&config.compiled))?;
        let pre = link::component_linker(engine)?.instantiate_pre(&component)?;
        let memories = component.resources_required().map_or(1, |required| required.num_memories.max(1));
        let room = (engine::POOLED_MEMORIES / memories).max(1) as usize;
        // A directory that cannot be opened is found now, not at the first request.
        host::store(engine, config)?;
        let (pre, reuse) = match P3Pre::new(pre.clone()) {
            Ok(pre) => (ProxyPre::P3(pre), (128, 16)),
            Err(_) => (ProxyPre::P2(P2Pre::new(pre)?), (1, 1)),
        };
        Ok(Self {
            config: Arc::new(config.clone()),
            engine: engine.clone(),
            pre,
            instances: Arc::new(Semaphore::new(room)),
            reuse,
            out_of_memory: out_of_memory.clone(),
            ticker: Ticker::start(engine)?,
        })
    }
}

impl HandlerState for Server {
    type StoreData = Host;
    type WorkerExpiration = Idle;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Idle, Worker>> {
        let permit =
            self.instances.clone().acquire_owned().await.map_err(|_| wasmtime::format_err!("stopping"))?;
        let mut store =
            host::store(&self.engine, &self.config).map_err(|error| wasmtime::format_err!("{error:#}"))?;
        store.data_mut().permit = Some(permit);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let running = Running::new(&self.ticker);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy,
            view: WasiHttpView::http,
            expiration: Idle(Box::pin(tokio::time::sleep(IDLE))),
            state: Worker { reuse: self.reuse, out_of_memory: self.out_of_memory.clone(), _running: running },
        })
    }
}

/// Ends an instance that has had nothing to do for a while. A request itself has no time limit:
/// that is its client's to decide.
struct Idle(Pin<Box<Sleep>>);

impl WorkerExpiration for Idle {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        if status != WorkerStatus::Idle {
            return Poll::Pending;
        }
        let deadline = (start + IDLE).into();
        if self.0.deadline() != deadline {
            self.0.as_mut().reset(deadline);
        }
        self.0.as_mut().poll(cx)
    }
}

/// One instance at work.
struct Worker {
    reuse: (usize, usize),
    out_of_memory: Arc<Notify>,
    _running: Running,
}

impl WorkerState for Worker {
    type StoreData = Host;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        let (requests, at_a_time) = self.reuse;
        if total >= requests {
            ShouldAccept::Never
        } else if concurrent >= at_a_time {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Host>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(std::future::pending())
    }

    /// The container is out of memory when one of its guests is, as it would be for a server that
    /// is one process.
    fn drop(&self, _: Store<Host>, result: Result<(), wasmtime::Error>) {
        let Err(error) = result else { return };
        if host::memory_was_denied() {
            self.out_of_memory.notify_one();
            return;
        }
        eprintln!("proa-wasm: {error:?}");
    }
}

/// Lets guests that share a thread take turns: an epoch each [`TICK`] while any instance lives,
/// and no wake-up at all while none does.
struct Ticker {
    running: AtomicUsize,
    thread: std::sync::OnceLock<Thread>,
}

impl Ticker {
    fn start(engine: &Engine) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self { running: AtomicUsize::new(0), thread: std::sync::OnceLock::new() });
        let (seen, engine) = (ticker.clone(), engine.clone());
        let handle = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            loop {
                if seen.running.load(Ordering::Acquire) == 0 {
                    std::thread::park();
                } else {
                    std::thread::sleep(TICK);
                    engine.increment_epoch();
                }
            }
        })?;
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }
}

/// One living instance, as the ticker counts them.
struct Running(Arc<Ticker>);

impl Running {
    fn new(ticker: &Arc<Ticker>) -> Self {
        if ticker.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = ticker.thread.get()
        {
            thread.unpark();
        }
        Self(ticker.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
