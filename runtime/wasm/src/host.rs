//! What a guest sees of its host: one value per instance, made from the container's settings.
//!
//! A guest may use the pod's network and the directories it was given, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::config::RunConfig;
use crate::outgoing::{Outgoing, Sent};
use crate::room::Memory;

/// The state of one component instance.
pub struct Host {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    limits: Limits,
}

impl Host {
    /// Whether the guest has asked for more memory than it may have.
    pub fn was_denied_memory(&self) -> bool {
        self.limits.denied
    }
}

/// The state of one core module instance.
pub struct CoreHost {
    /// WASI 0.1.
    pub wasi: WasiP1Ctx,
    limits: Limits,
}

/// What all instances of a container share.
pub struct Shared {
    /// The container's settings.
    pub config: RunConfig,
    /// For requests that guests make.
    outgoing: Arc<Outgoing>,
    /// Where instances take the memory from that they grow into; `None` for one instance, which may
    /// have the container's.
    memory: Option<Memory>,
}

impl Shared {
    /// For the one instance of a command, or the many of a server.
    pub fn new(config: &RunConfig, memory: Option<Memory>) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), outgoing: Arc::new(Outgoing::new(config)), memory })
    }
}

/// A store for one component instance.
pub fn store(engine: &Engine, shared: &Shared) -> anyhow::Result<Store<Host>> {
    let host = Host {
        wasi: wasi(&shared.config)?.build(),
        http: WasiHttpCtx::new(),
        hooks: Hooks(shared.outgoing.clone()),
        table: ResourceTable::new(),
        limits: Limits::new(&shared.config, shared.memory.clone()),
    };
    let mut store = Store::new(engine, host);
    store.limiter(|host| &mut host.limits);
    Ok(store)
}

/// A store for one core module instance.
pub fn core_store(engine: &Engine, config: &RunConfig) -> anyhow::Result<Store<CoreHost>> {
    let host = CoreHost { wasi: wasi(config)?.build_p1(), limits: Limits::new(config, None) };
    let mut store = Store::new(engine, host);
    store.limiter(|host| &mut host.limits);
    Ok(store)
}

fn wasi(config: &RunConfig) -> anyhow::Result<WasiCtxBuilder> {
    let mut builder = WasiCtxBuilder::new();
    builder
        .inherit_stdin()
        .inherit_stdout()
        .inherit_stderr()
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true)
        .args(&config.args)
        .envs(&config.env);
    if !config.cwd.is_empty() {
        builder.initial_cwd(&config.cwd);
    }
    for dir in &config.preopens {
        let perms = if dir.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        builder
            .preopened_dir(&dir.source, &dir.target, perms)
            .map_err(|e| anyhow::anyhow!("mount {} at {}: {e}", dir.source, dir.target))?;
    }
    Ok(builder)
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Requests of guests go out over the connections of their container.
struct Hooks(Arc<Outgoing>);

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        // Resolves when the guest has taken up the answer, which changes nothing here.
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let outgoing = self.0.clone();
        Box::new(async move { outgoing.send(request, options.unwrap_or_default()).await })
    }
}

/// Set when a guest was refused memory: what follows from it is reported as out of memory. One
/// for the process, because the process is the container.
static DENIED: AtomicBool = AtomicBool::new(false);

/// Whether a guest has asked for more memory than the container may have.
pub fn memory_was_denied() -> bool {
    DENIED.load(Ordering::Relaxed)
}

/// What one store may grow to, with a memory of having refused.
struct Limits {
    /// Most bytes of all its linear memories together.
    most: Option<u64>,
    /// Bytes that they have.
    have: u64,
    /// Where growth comes from.
    memory: Option<Memory>,
    /// Pages taken from there.
    taken: u32,
    denied: bool,
}

impl Limits {
    fn new(config: &RunConfig, memory: Option<Memory>) -> Self {
        let most = memory.as_ref().map_or(config.memory_bytes, |memory| memory.most);
        Self { most, have: 0, memory, taken: 0, denied: false }
    }

    /// Takes so many bytes more. What a memory starts with is paid for by the slot it is in.
    fn grow(&mut self, bytes: u64, is_initial: bool) -> bool {
        if self.most.is_some_and(|most| self.have.saturating_add(bytes) > most) {
            return false;
        }
        if let Some(memory) = self.memory.as_ref().filter(|_| !is_initial) {
            let Some(pages) = memory.take(bytes) else { return false };
            self.taken += pages;
        }
        self.have += bytes;
        true
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.give_back(self.taken);
        }
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A memory's own declared maximum is the guest's business, not the container's.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let granted = self.grow(desired.saturating_sub(current) as u64, current == 0);
        if !granted {
            self.denied = true;
            DENIED.store(true, Ordering::Relaxed);
        }
        Ok(granted)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }
}
