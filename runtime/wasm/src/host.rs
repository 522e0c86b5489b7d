//! What a guest sees of its host: one value per instance, made from the container's settings.
//!
//! A guest may use the pod's network and the directories it was given, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::config::RunConfig;

/// The state of one component instance.
pub struct Host {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    limits: Limits,
    /// Held while the instance lives, where their number is limited.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// The state of one core module instance.
pub struct CoreHost {
    /// WASI 0.1.
    pub wasi: WasiP1Ctx,
    limits: Limits,
}

/// A store for one component instance.
pub fn store(engine: &Engine, config: &RunConfig) -> anyhow::Result<Store<Host>> {
    let host = Host {
        wasi: wasi(config)?.build(),
        http: WasiHttpCtx::new(),
        hooks: Hooks,
        table: ResourceTable::new(),
        limits: Limits::new(config),
        permit: None,
    };
    let mut store = Store::new(engine, host);
    store.limiter(|host| &mut host.limits);
    Ok(store)
}

/// A store for one core module instance.
pub fn core_store(engine: &Engine, config: &RunConfig) -> anyhow::Result<Store<CoreHost>> {
    let host = CoreHost { wasi: wasi(config)?.build_p1(), limits: Limits::new(config) };
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

/// Outgoing requests go out as the library sends them: one connection each.
struct Hooks;

impl WasiHttpHooks for Hooks {}

/// Set when a guest was refused memory: what follows from it is reported as out of memory. One
/// for the process, because the process is the container.
static DENIED: AtomicBool = AtomicBool::new(false);

/// Whether a guest has asked for more memory than the container may have.
pub fn memory_was_denied() -> bool {
    DENIED.load(Ordering::Relaxed)
}

/// The limits of one store, with a memory of having refused.
struct Limits(StoreLimits);

impl Limits {
    fn new(config: &RunConfig) -> Self {
        let mut builder = StoreLimitsBuilder::new();
        if let Some(bytes) = config.memory_bytes {
            builder = builder.memory_size(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        Self(builder.build())
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = self.0.memory_growing(current, desired, maximum)?;
        // A memory's own declared maximum is the guest's business, not the container's.
        if !granted && maximum.is_none_or(|maximum| desired <= maximum) {
            DENIED.store(true, Ordering::Relaxed);
        }
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.0.table_growing(current, desired, maximum)
    }
}
