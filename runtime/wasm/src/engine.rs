//! The one set of engine settings, for the side that compiles and the side that runs.
//!
//! A compiled file carries the settings it was made for, and loading it with others is refused by
//! wasmtime. So nothing outside this file sets anything on a [`Config`] that reaches the code
//! generator; the allocation strategy does not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Linear memories an engine for HTTP keeps address space for.
pub const POOLED_MEMORIES: u32 = 64;

/// Bytes of a linear memory that stay with its slot from one request to the next, instead of
/// being given back to the kernel and faulted in again.
const KEEP_RESIDENT_BYTES: usize = 512 << 10;

/// The settings that go into a compiled file.
pub fn engine_config() -> Config {
    let mut config = Config::new();
    // How a running guest is interrupted, and how it shares a thread with others.
    config.epoch_interruption(true);
    config.memory_init_cow(true);
    config
}

/// An engine that makes each instance when it is needed: for compiling and for commands.
pub fn on_demand() -> anyhow::Result<Engine> {
    Ok(Engine::new(&engine_config())?)
}

/// An engine for many short-lived instances, with the component that it is for, and whether it has
/// a pool. A pool reserves 4 GiB of address space per memory and has a largest size of tables;
/// where the one is not to be had (`RLIMIT_AS`, a small address space) or the other not enough,
/// each instance is made when it is needed.
pub fn for_requests(path: &Path) -> anyhow::Result<(Engine, Component, bool)> {
    let pooled = pooling().and_then(|engine| {
        let component = load_component(&engine, path)?;
        Ok((engine, component, true))
    });
    pooled.or_else(|_| {
        let engine = on_demand().context("start an engine without a pool")?;
        let component = load_component(&engine, path)?;
        Ok((engine, component, false))
    })
}

fn pooling() -> anyhow::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(POOLED_MEMORIES)
        .total_component_instances(POOLED_MEMORIES)
        .total_core_instances(POOLED_MEMORIES * 32)
        .total_tables(POOLED_MEMORIES * 2)
        .total_stacks(POOLED_MEMORIES * 2)
        .max_core_instances_per_component(200)
        .max_memories_per_component(POOLED_MEMORIES)
        .max_tables_per_component(POOLED_MEMORIES * 2)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(16)
        .pagemap_scan(Enabled::Auto);
    let mut config = engine_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Ok(Engine::new(&config)?)
}

/// Loads a compiled component.
///
/// # Safety of the file
/// Compiled files are machine code: the directory they lie in is writable by root only, and they
/// arrive in it by rename.
pub fn load_component(engine: &Engine, path: &Path) -> anyhow::Result<Component> {
    // SAFETY: see above; wasmtime checks the engine settings and the version itself.
    unsafe { Component::deserialize_file(engine, path) }
        .map_err(anyhow::Error::from)
        .with_context(|| format!("load {}", path.display()))
}

/// Loads a compiled component from an open file, under the same condition as [`load_component`].
pub fn load_open_component(engine: &Engine, file: &File) -> anyhow::Result<Component> {
    let mut code = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut code, 0)?;
    // SAFETY: as for load_component.
    unsafe { Component::deserialize(engine, &code) }.map_err(anyhow::Error::from)
}

/// Loads a compiled core module, under the same condition as [`load_component`].
pub fn load_module(engine: &Engine, path: &Path) -> anyhow::Result<wasmtime::Module> {
    // SAFETY: as for load_component.
    unsafe { wasmtime::Module::deserialize_file(engine, path) }
        .map_err(anyhow::Error::from)
        .with_context(|| format!("load {}", path.display()))
}
