//! Runs a component that exports `wasi:cli/run`, of WASI 0.2 or 0.3.

use std::time::Duration;

use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre as P2Pre;
use wasmtime_wasi::p3::bindings::CommandPre as P3Pre;

use crate::config::RunConfig;
use crate::host::{self, Host, Shared};
use crate::link;
use crate::outcome::Outcome;
use crate::report::Reporter;
use crate::stop::{self, Interrupt};

/// Runs it to its end, or to SIGTERM.
pub async fn run(
    config: &RunConfig,
    engine: Engine,
    component: Component,
    reporter: &mut Reporter,
) -> anyhow::Result<Outcome> {
    let pre = link::component_linker(&engine)?.instantiate_pre(&component)?;
    let mut store = host::store(&engine, &Shared::new(config, None))?;
    let interrupt = Interrupt::default();
    interrupt.arm(&mut store);
    reporter.ready();
    let result = until_stopped(&engine, &interrupt, call(store, pre)).await?;
    Ok(match result {
        Some(Ok(Ok(()))) => Outcome::Exited(0),
        Some(Ok(Err(()))) => Outcome::Exited(1),
        Some(Err(error)) => Outcome::of_error(&error),
        None => Outcome::Interrupted,
    })
}

/// Calls `run` in a task of its own, so that a guest that spins holds up nobody else.
async fn call(mut store: Store<Host>, pre: InstancePre<Host>) -> wasmtime::Result<Result<(), ()>> {
    if let Ok(pre) = P3Pre::new(pre.clone()) {
        let command = pre.instantiate_async(&mut store).await?;
        return store.run_concurrent(async move |store| command.wasi_cli_run().call_run(store).await).await?;
    }
    let command = P2Pre::new(pre)?.instantiate_async(&mut store).await?;
    command.wasi_cli_run().call_run(&mut store).await
}

/// Awaits a guest. WASI has no signals, so no guest can hear SIGTERM: it ends at once, as any program
/// does that has not asked to hear it. A guest that is waiting for the host is given up. `None` is
/// given up.
pub async fn until_stopped<T: Send + 'static>(
    engine: &Engine,
    interrupt: &Interrupt,
    guest: impl Future<Output = T> + Send + 'static,
) -> anyhow::Result<Option<T>> {
    let mut sigterm = stop::requested()?;
    let mut guest = tokio::spawn(guest);
    tokio::select! {
        ended = &mut guest => return Ok(Some(ended?)),
        _ = sigterm.recv() => {}
    }
    interrupt.now(engine);
    match tokio::time::timeout(Duration::from_millis(200), &mut guest).await {
        Ok(ended) => Ok(Some(ended?)),
        Err(_) => Ok(None),
    }
}
