//! The compiling side of Wasm: a child process of its own, limited, that makes one file.
//!
//! A module comes from anywhere, and compiling takes seconds and hundreds of megabytes; so it
//! happens where it can be stopped, and where a compiler that is led astray has nothing to break
//! but a file. The child prints one [`Verdict`] as JSON and nothing else.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use proa_sandbox::protocol::WasmShape;
use proa_wasm::{engine, link, shape};
use serde::{Deserialize, Serialize};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::child::Limits;

/// Several times what the largest known components need.
const LIMITS: Limits = Limits { cpu_seconds: 300, address_space_bytes: 8 << 30 };

/// What there is to say about a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It was compiled.
    Compiled {
        /// How it is run.
        shape: WasmShape,
    },
    /// It wants what this node does not offer.
    MissingImports {
        /// Full names, as `wasi:keyvalue/store@0.2.0`.
        names: Vec<String>,
    },
    /// It is not a module, is broken, or exports nothing that can be run.
    Invalid {
        /// Why.
        message: String,
    },
}

/// Compiles the module at `input` into `output`. Exits with 0 when it has printed a verdict.
pub fn main(input: &Path, output: &Path) -> ExitCode {
    LIMITS.apply();
    match compile(input, output) {
        Ok(verdict) => {
            let line = serde_json::to_string(&verdict).unwrap_or_default();
            match writeln!(std::io::stdout(), "{line}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("compile {}: {error:#}", input.display());
            ExitCode::FAILURE
        }
    }
}

fn compile(input: &Path, output: &Path) -> anyhow::Result<Verdict> {
    let bytes = std::fs::read(input).with_context(|| format!("read {}", input.display()))?;
    let engine = engine::on_demand()?;
    let made = match kind(&bytes) {
        Some(Kind::Component) => component(&engine, &bytes)?,
        Some(Kind::Module) => module(&engine, &bytes)?,
        None => Err(Verdict::Invalid { message: "not a WebAssembly module".to_owned() }),
    };
    match made {
        Err(verdict) => Ok(verdict),
        Ok((shape, artifact)) => {
            std::fs::write(output, artifact).with_context(|| format!("write {}", output.display()))?;
            // Read back as the running side will: what is cached is known to load.
            let loaded = match shape {
                WasmShape::CoreModule => engine::load_module(&engine, output).map(drop),
                WasmShape::Http | WasmShape::Command => engine::load_component(&engine, output).map(drop),
            };
            loaded.context("the compiled file does not load")?;
            Ok(Verdict::Compiled { shape })
        }
    }
}

enum Kind {
    Module,
    Component,
}

/// From the first eight bytes: magic number, version, layer.
fn kind(bytes: &[u8]) -> Option<Kind> {
    match bytes.get(..8)? {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => Some(Kind::Module),
        [0, b'a', b's', b'm', _, 0, 1, 0] => Some(Kind::Component),
        _ => None,
    }
}

type Made = Result<(WasmShape, Vec<u8>), Verdict>;

fn component(engine: &Engine, bytes: &[u8]) -> anyhow::Result<Made> {
    let component = match Component::from_binary(engine, bytes) {
        Ok(component) => component,
        Err(error) => return Ok(Err(Verdict::Invalid { message: format!("{error:#}") })),
    };
    let names = link::missing_component_imports(engine, &component, |bytes| {
        Component::from_binary(engine, bytes).ok()
    })?;
    if !names.is_empty() {
        return Ok(Err(Verdict::MissingImports { names }));
    }
    let ty = component.component_type();
    Ok(match shape::of_component(ty.exports(engine).map(|(name, _)| name)).map(into_protocol) {
        Some(shape) => Ok((shape, component.serialize()?)),
        None => Err(Verdict::Invalid {
            message:
                "the component exports neither wasi:http/incoming-handler, wasi:http/handler nor wasi:cli/run"
                    .to_owned(),
        }),
    })
}

fn module(engine: &Engine, bytes: &[u8]) -> anyhow::Result<Made> {
    let module = match Module::from_binary(engine, bytes) {
        Ok(module) => module,
        Err(error) => return Ok(Err(Verdict::Invalid { message: format!("{error:#}") })),
    };
    let names = link::missing_module_imports(engine, &module)?;
    if !names.is_empty() {
        return Ok(Err(Verdict::MissingImports { names }));
    }
    Ok(match shape::of_module(module.exports().map(|export| export.name())).map(into_protocol) {
        Some(shape) => Ok((shape, module.serialize()?)),
        None => Err(Verdict::Invalid { message: "the module exports no _start".to_owned() }),
    })
}

/// The same three shapes, as the crate that runs them and the protocol name them.
fn into_protocol(shape: proa_wasm::config::WasmShape) -> WasmShape {
    use proa_wasm::config::WasmShape as Run;
    match shape {
        Run::Http => WasmShape::Http,
        Run::Command => WasmShape::Command,
        Run::CoreModule => WasmShape::CoreModule,
    }
}
