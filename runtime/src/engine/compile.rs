//! The compiling side of Wasm: a child process of its own, limited, that makes one file.
//!
//! A module comes from anywhere, and compiling takes seconds and hundreds of megabytes; so it
//! happens where it can be stopped, and where a compiler that is led astray has nothing to break
//! but a file. What the file imports and exports is looked at first: one that cannot run here is
//! refused before its code is compiled. The child prints one [`Verdict`] as JSON and nothing else,
//! and ends with its parent.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use proa_sandbox::protocol::WasmShape;
use proa_wasm::{engine, link, shape};
use serde::{Deserialize, Serialize};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::outline::outline;
use crate::child::{self, Limits};

/// What compiling one module may use: several times what the largest known components need.
const LIMITS: Limits = Limits { cpu_seconds: 300, address_space_bytes: 8 << 30 };
/// Most missing imports that are named.
const MAX_NAMES: usize = 20;
/// Most bytes of one name, and of a message: both hold what a stranger wrote.
const MAX_TEXT: usize = 1024;

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
    /// The compiler came to no end with it. Said by whoever waited for the child.
    Crashed {
        /// How it ended.
        message: String,
    },
}

/// Compiles the module at `input` into `output`. Exits with 0 when it has printed a verdict.
pub fn main(input: &Path, output: &Path) -> ExitCode {
    LIMITS.apply();
    let unfinished = output.to_owned();
    child::end_with_parent(move || drop(std::fs::remove_file(unfinished)));
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
    let Some(kind) = kind(&bytes) else { return Ok(invalid("not a WebAssembly module")) };
    let outline = match outline(&bytes) {
        Ok(outline) => outline,
        Err(error) => return Ok(invalid(&error.to_string())),
    };
    // An outline that cannot stand alone is of a file that cannot either: the whole tells why.
    if let Ok(Made { missing, .. }) = make(&engine, &kind, &outline.bytes, false)
        && !missing.is_empty()
    {
        return Ok(missing_imports(missing));
    }
    let exports = outline.exports.iter().map(String::as_str);
    let Some(shape) = kind.shape(exports) else { return Ok(invalid(kind.exports_nothing())) };
    let made = match make(&engine, &kind, &bytes, true) {
        Ok(made) => made,
        Err(error) => return Ok(invalid(&format!("{error:#}"))),
    };
    if !made.missing.is_empty() {
        return Ok(missing_imports(made.missing));
    }
    std::fs::write(output, made.artifact).with_context(|| format!("write {}", output.display()))?;
    // Read back as the running side will: what is cached is known to load.
    let loaded = match kind {
        Kind::Module => engine::load_module(&engine, output).map(drop),
        Kind::Component => engine::load_component(&engine, output).map(drop),
    };
    loaded.context("the compiled file does not load")?;
    Ok(Verdict::Compiled { shape })
}

fn invalid(message: &str) -> Verdict {
    Verdict::Invalid { message: shortened(message) }
}

fn missing_imports(mut names: Vec<String>) -> Verdict {
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    for name in &mut names {
        *name = shortened(name);
    }
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    Verdict::MissingImports { names }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
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

impl Kind {
    fn shape<'a>(&self, exports: impl Iterator<Item = &'a str>) -> Option<WasmShape> {
        let shape = match self {
            Kind::Module => shape::of_module(exports),
            Kind::Component => shape::of_component(exports),
        };
        shape.map(into_protocol)
    }

    fn exports_nothing(&self) -> &'static str {
        match self {
            Kind::Module => "the module exports no _start",
            Kind::Component => {
                "the component exports neither wasi:http/incoming-handler, wasi:http/handler nor wasi:cli/run"
            }
        }
    }
}

/// What compiling gave.
struct Made {
    /// Imports that nothing provides.
    missing: Vec<String>,
    /// The compiled file; empty unless it was wanted.
    artifact: Vec<u8>,
}

/// Compiles bytes and looks for what they import. An error is about the bytes.
fn make(engine: &Engine, kind: &Kind, bytes: &[u8], artifact: bool) -> anyhow::Result<Made> {
    Ok(match kind {
        Kind::Component => {
            let component = Component::from_binary(engine, bytes)?;
            let missing = link::missing_component_imports(engine, &component, |bytes| {
                Component::from_binary(engine, bytes).ok()
            })?;
            Made { missing, artifact: if artifact { component.serialize()? } else { Vec::new() } }
        }
        Kind::Module => {
            let module = Module::from_binary(engine, bytes)?;
            let missing = link::missing_module_imports(engine, &module)?;
            Made { missing, artifact: if artifact { module.serialize()? } else { Vec::new() } }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_names_are_kept_short() {
        let names = |n: usize| (0..n).map(|n| format!("a:b/{n}")).collect::<Vec<_>>();
        assert_eq!(missing_imports(names(2)), Verdict::MissingImports { names: names(2) });
        let Verdict::MissingImports { names } = missing_imports(names(MAX_NAMES + 3)) else { panic!() };
        assert_eq!((names.len(), names[MAX_NAMES].as_str()), (MAX_NAMES + 1, "and 3 more"));
        let Verdict::Invalid { message } = invalid(&"ä".repeat(MAX_TEXT)) else { panic!() };
        assert_eq!(message, "ä".repeat(MAX_TEXT / 2));
    }
}
