//! Runs a core module on WASI 0.1, as it is: made into a component, its exit code would be lost.

use wasmtime::{Engine, Module};

use crate::command::until_stopped;
use crate::config::RunConfig;
use crate::outcome::Outcome;
use crate::report::Reporter;
use crate::stop::Interrupt;
use crate::{host, link};

/// Runs `_start` to its end, or to SIGTERM.
pub async fn run(
    config: &RunConfig,
    engine: Engine,
    module: Module,
    reporter: &mut Reporter,
) -> anyhow::Result<Outcome> {
    let pre = link::core_linker(&engine)?.instantiate_pre(&module)?;
    let mut store = host::core_store(&engine, config)?;
    let interrupt = Interrupt::default();
    interrupt.arm(&mut store);
    reporter.ready();
    let guest = async move {
        let instance = pre.instantiate_async(&mut store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await
    };
    Ok(match until_stopped(&engine, &interrupt, guest).await? {
        Some(Ok(())) => Outcome::Exited(0),
        Some(Err(error)) => Outcome::of_error(&error),
        None => Outcome::Interrupted,
    })
}
