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
use crate::room::{Memory, PAGE};

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

    /// Its instance is there: what it grows by from here is no longer what it starts with.
    pub fn started(&mut self) {
        self.limits.started = true;
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

/// Bytes of one element of a table: a pointer.
const ELEMENT: u64 = 8;

/// What one store may grow to, with a memory of having refused.
struct Limits {
    /// Most bytes of all its linear memories together, and of what its tables have grown by.
    most: Option<u64>,
    /// Bytes that they have.
    have: u64,
    /// Where growth comes from.
    memory: Option<Memory>,
    /// Bytes that it has grown by.
    grown: u64,
    /// Pages taken for them.
    taken: u32,
    /// Its instance has been made.
    started: bool,
    denied: bool,
}

impl Limits {
    fn new(config: &RunConfig, memory: Option<Memory>) -> Self {
        let most = memory.as_ref().map_or(config.memory_bytes, |memory| memory.most);
        Self { most, have: 0, memory, grown: 0, taken: 0, started: false, denied: false }
    }

    /// Takes so many bytes more. What a memory starts with is paid for by the slot it is in.
    fn take(&mut self, bytes: u64, is_initial: bool) -> bool {
        if self.most.is_some_and(|most| self.have.saturating_add(bytes) > most) {
            return false;
        }
        if let Some(memory) = self.memory.as_ref().filter(|_| !is_initial) {
            // Tables may grow by a few bytes at a time: the rest of a page serves the next.
            let paid = u64::from(self.taken) * PAGE;
            let grown = self.grown.saturating_add(bytes);
            if grown > paid {
                let Some(pages) = memory.take(grown - paid) else { return false };
                self.taken += pages;
            }
            self.grown = grown;
        }
        self.have += bytes;
        true
    }

    /// The same for elements of a table. Each instance starts with as many, whatever it is asked.
    fn take_elements(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current) as u64;
        self.is_initial(current) || self.take(more.saturating_mul(ELEMENT), false)
    }

    /// Remembers what was refused.
    fn noted(&mut self, granted: bool) -> bool {
        if !granted {
            self.denied = true;
            DENIED.store(true, Ordering::Relaxed);
        }
        granted
    }

    /// Whether this is asked while its instance is made.
    fn is_initial(&self, current: usize) -> bool {
        current == 0 && !self.started
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
        let granted = self.take(desired.saturating_sub(current) as u64, self.is_initial(current));
        Ok(self.noted(granted))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let granted = self.take_elements(current, desired);
        Ok(self.noted(granted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

    const MIB: usize = 1 << 20;

    #[test]
    fn tables_grow_into_the_memory_of_all() {
        let config: RunConfig = serde_json::from_value(serde_json::json!({"compiled": "", "shape": "http",
            "args": [], "env": [], "cwd": "/", "preopens": [], "files": [], "memory_bytes": 64 * MIB,
            "port": 80, "grace_period_seconds": 1, "user": null, "report_fd": null}))
        .expect("a configuration");
        let room = Room::new(&config, 0);
        let one = || Limits::new(&config, Some(room.memory().clone()));
        // Without a note of it, which all of this process would see.
        let grows = Limits::take_elements;
        let mut first = one();
        assert!(grows(&mut first, 0, 16 * MIB), "what it starts with is not counted");
        first.started = true;
        assert!(grows(&mut first, 0, 3 * MIB), "24 MiB");
        assert!(!grows(&mut first, 3 * MIB, 5 * MIB), "more than half of what the container has");
        let mut second = one();
        second.started = true;
        assert!(grows(&mut second, 0, 3 * MIB));
        let mut third = one();
        third.started = true;
        assert!(!grows(&mut third, 0, 3 * MIB), "others have it");
        assert!(!third.table_growing(0, 2, Some(1)).expect("an answer"), "its own maximum");
        for element in 0..1000 {
            assert!(grows(&mut second, 3 * MIB + element, 3 * MIB + element + 1), "one at a time");
        }
        drop(first);
        assert!(grows(&mut third, 0, 3 * MIB), "it was given back");
    }
}
