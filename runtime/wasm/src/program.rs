//! What a container runs, loaded from its compiled file: before the process confines itself, so that
//! no container has had a hand in what is there.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::config::{RunConfig, WasmShape};
use crate::engine;

/// What runs.
pub enum Program {
    /// An HTTP component, and where it is served.
    Http(TcpListener, Served),
    /// A component with `wasi:cli/run`.
    Command(Engine, Component),
    /// A core module on WASI 0.1.
    CoreModule(Engine, Module),
}

/// An HTTP component.
pub struct Served {
    /// For as many instances as its pool holds, if it has one.
    pub engine: Engine,
    /// The component, loaded for it.
    pub component: Component,
    /// Whether the engine has a pool.
    pub is_pooled: bool,
    /// The compiled file, for another engine.
    pub file: File,
}

impl Program {
    /// Loads it. The port comes first, because it may be another's.
    pub fn load(config: &RunConfig) -> anyhow::Result<Self> {
        let path = Path::new(&config.compiled);
        Ok(match config.shape {
            WasmShape::Http => {
                let listener = bind(config.port)?;
                let file = File::open(path)?;
                let (engine, component, is_pooled) = engine::for_requests(path)?;
                Self::Http(listener, Served { engine, component, is_pooled, file })
            }
            WasmShape::Command => {
                let engine = engine::on_demand()?;
                let component = engine::load_component(&engine, path)?;
                Self::Command(engine, component)
            }
            WasmShape::CoreModule => {
                let engine = engine::on_demand()?;
                let module = engine::load_module(&engine, path)?;
                Self::CoreModule(engine, module)
            }
        })
    }
}

/// Binds the port on every address of the pod.
fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|error| match error.kind() {
        // C libraries differ in their words for this, and it is what users get to see most.
        ErrorKind::AddrInUse => anyhow::anyhow!("listen on port {port}: address already in use"),
        _ => anyhow::anyhow!("listen on port {port}: {error}"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
