//! The instances of an HTTP component: each works on one request at a time.
//!
//! A component of WASI 0.2 gets a fresh instance for each request, because many guests keep state
//! that the next request must not see; one of WASI 0.3 was made to be used again. An instance ends
//! with its request when that fails, when its client has gone or when its time is over, and never
//! takes another one's request with it.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wasmtime::component::Component;
use wasmtime::{AsContextMut, Engine, PoolConcurrencyLimitError, Store, UpdateDeadline};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{Prepared, Proxy, ProxyPre, Request, Response};
use wasmtime_wasi_http::p2::bindings::ProxyPre as P2Pre;
use wasmtime_wasi_http::p3::bindings::ServicePre as P3Pre;

use crate::config::RunConfig;
use crate::exchange::{Exchange, Over};
use crate::host::{self, Host, Shared};
use crate::program::Served;
use crate::room::{PAGE, Room, Slot};
use crate::ticker::{Running, Ticker};
use crate::{engine, link};

/// How long an instance without work waits for the next request.
const IDLE: Duration = Duration::from_secs(1);
/// Most instances without work.
const MOST_IDLE: usize = 16;
/// Requests that one instance of WASI 0.3 takes, one after the other.
const REUSE: u32 = 128;

/// Where the answer to a request goes.
pub type Reply = oneshot::Sender<wasmtime::Result<Response>>;

/// Makes instances and keeps those that can be used again.
pub struct Instances {
    shared: Arc<Shared>,
    ticker: Arc<Ticker>,
    first: Factory,
    /// Instances that the first factory's pool has place for; `None` if it has no pool.
    pooled: Option<Arc<Semaphore>>,
    /// For more instances than the pool holds. Made when they are needed, because a larger pool
    /// would cost every start.
    beyond: OnceCell<Factory>,
    /// The compiled file, open, because its name does not lead there any more.
    file: File,
    idle: Mutex<Vec<Idle>>,
}

/// One engine, and what it makes instances from.
struct Factory {
    engine: Engine,
    pre: ProxyPre<Host>,
}

/// One instance. The store goes before its place in the pool.
struct Instance {
    store: Store<Host>,
    proxy: Proxy,
    requests: u32,
    _place: Option<OwnedSemaphorePermit>,
}

struct Idle {
    instance: Instance,
    since: Instant,
}

impl Instances {
    /// Instances of the container's component, and the room that they have.
    pub fn new(config: &RunConfig, served: Served) -> anyhow::Result<(Arc<Self>, Room)> {
        let Served { engine, component, is_pooled, file } = served;
        let ticker = Ticker::start()?;
        let required = component.resources_required();
        let memories = required.as_ref().map_or(1, |required| required.num_memories.max(1));
        let initial = required.and_then(|required| required.max_initial_memory_size).unwrap_or(0);
        let room = Room::new(config, initial * PAGE * u64::from(memories));
        let places = (engine::POOLED_MEMORIES / memories).max(1) as usize;
        let shared = Shared::new(config, Some(room.memory().clone()));
        // A directory that cannot be opened is found now, not at the first request.
        host::store(&engine, &shared)?;
        let instances = Self {
            first: Factory::new(engine, &component, &ticker)?,
            shared,
            ticker,
            pooled: is_pooled.then(|| Arc::new(Semaphore::new(places))),
            beyond: OnceCell::new(),
            file,
            idle: Mutex::default(),
        };
        Ok((Arc::new(instances), room))
    }

    /// Works on one request until it is done or over.
    pub async fn run(self: Arc<Self>, request: Request, reply: Reply, exchange: Arc<Exchange>, slot: Slot) {
        // Given back after the instance has gone.
        let _slot = slot;
        let over = tokio::select! {
            biased;
            over = exchange.over() => over,
            () = self.work(request, reply, &exchange) => return,
        };
        if over == Over::Late {
            let limit = Duration::from_millis(self.shared.config.requests.timeout_ms);
            eprintln!("proa-wasm: a request took longer than {limit:?} and was ended");
        }
    }

    async fn work(self: &Arc<Self>, request: Request, reply: Reply, exchange: &Exchange) {
        let _running = Running::new(&self.ticker);
        let mut instance = match self.take().await {
            Ok(instance) => instance,
            Err(error) => {
                eprintln!("proa-wasm: cannot make an instance: {error:?}");
                let _ = reply.send(Err(error));
                return;
            }
        };
        // Before the instance, if this is given up.
        let whole = exchange.fail_unless_whole();
        match instance.work(request, reply, exchange).await {
            Ok(()) => {
                whole.done();
                self.keep(instance);
            }
            Err(error) => {
                drop(whole);
                if instance.store.data().was_denied_memory() {
                    eprintln!("proa-wasm: a request asked for more memory than its instance may have");
                }
                eprintln!("proa-wasm: request failed: {error:?}");
            }
        }
    }

    async fn take(&self) -> wasmtime::Result<Instance> {
        if let Some(idle) = self.idle().pop() {
            return Ok(idle.instance);
        }
        let place = match &self.pooled {
            None => return self.first.instantiate(&self.shared, None).await,
            Some(pooled) => pooled.clone().try_acquire_owned().ok(),
        };
        if let Some(place) = place {
            match self.first.instantiate(&self.shared, Some(place)).await {
                // The pool has place for as many memories, but maybe not for what else it takes.
                Err(error) if error.is::<PoolConcurrencyLimitError>() => {}
                instance => return instance,
            }
        }
        let beyond = self.beyond.get_or_try_init(async || self.make_beyond()).await?;
        beyond.instantiate(&self.shared, None).await
    }

    fn make_beyond(&self) -> wasmtime::Result<Factory> {
        let made = engine::on_demand().and_then(|engine| {
            let component = engine::load_open_component(&engine, &self.file)?;
            Factory::new(engine, &component, &self.ticker)
        });
        made.map_err(|error| wasmtime::format_err!("{error:#}"))
    }

    /// Keeps an instance that may be used again, for a while.
    fn keep(self: &Arc<Self>, mut instance: Instance) {
        instance.requests += 1;
        let reusable = matches!(instance.proxy, Proxy::P3(_)) && instance.requests < REUSE;
        let mut idle = self.idle();
        if !reusable || idle.len() >= MOST_IDLE {
            return;
        }
        idle.push(Idle { instance, since: Instant::now() });
        if idle.len() == 1 {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Ends instances that have waited long enough, until there are none.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE).await;
            let mut idle = self.idle();
            let (waited, wait): (Vec<_>, Vec<_>) =
                std::mem::take(&mut *idle).into_iter().partition(|idle| idle.since.elapsed() >= IDLE);
            *idle = wait;
            let is_empty = idle.is_empty();
            drop(idle);
            drop(waited);
            if is_empty {
                return;
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Factory {
    fn new(engine: Engine, component: &Component, ticker: &Ticker) -> anyhow::Result<Self> {
        let pre = link::component_linker(&engine)?.instantiate_pre(component)?;
        let pre = match P3Pre::new(pre.clone()) {
            Ok(pre) => ProxyPre::P3(pre),
            Err(_) => ProxyPre::P2(P2Pre::new(pre)?),
        };
        ticker.add(&engine);
        Ok(Self { engine, pre })
    }

    async fn instantiate(
        &self,
        shared: &Shared,
        place: Option<OwnedSemaphorePermit>,
    ) -> wasmtime::Result<Instance> {
        let mut store =
            host::store(&self.engine, shared).map_err(|error| wasmtime::format_err!("{error:#}"))?;
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let proxy = self.pre.instantiate_async(&mut store).await?;
        store.data_mut().started();
        Ok(Instance { store, proxy, requests: 0, _place: place })
    }
}

impl Instance {
    /// Works on a request until the guest has nothing to do for it any more.
    async fn work(&mut self, request: Request, reply: Reply, exchange: &Exchange) -> wasmtime::Result<()> {
        let proxy = &self.proxy;
        let worked = self.store.run_concurrent(async |accessor| {
            let prepared = accessor.with(|mut store| {
                Prepared::new(store.as_context_mut(), proxy, request, WasiHttpView::http, reply)
            })?;
            prepared.run(accessor, std::future::pending()).await?;
            if matches!(proxy, Proxy::P3(_)) {
                // The answer goes through the store, which must be there until it has gone.
                exchange.served().await;
            }
            std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            wasmtime::error::Ok(())
        });
        worked.await.flatten()
    }
}
