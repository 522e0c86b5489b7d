//! What a node offers to guests: the imports that are there, and the names of those that are not.

use wasmtime::component::{Component, Linker as ComponentLinker};
use wasmtime::{Engine, ExternType, Linker, Module};

use crate::host::{CoreHost, Host};

/// Everything a component may import: WASI 0.2 and 0.3 with HTTP. A component served over HTTP
/// gets the whole of it too, because toolchains import files and clocks whatever they are used
/// for.
pub fn component_linker(engine: &Engine) -> anyhow::Result<ComponentLinker<Host>> {
    let mut linker = ComponentLinker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Everything a core module may import: WASI 0.1.
pub fn core_linker(engine: &Engine) -> anyhow::Result<Linker<CoreHost>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut CoreHost| &mut host.wasi)?;
    Ok(linker)
}

/// The imports of a component that nothing satisfies, by their full names, in their order.
/// `compile` makes a component of its binary form; this crate itself cannot.
pub fn missing_component_imports(
    engine: &Engine,
    component: &Component,
    compile: impl Fn(&[u8]) -> Option<Component>,
) -> anyhow::Result<Vec<String>> {
    let linker = component_linker(engine)?;
    if linker.instantiate_pre(component).is_ok() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for (name, _) in component.component_type().imports(engine) {
        // The linker resolves names by compatible version and tells nobody how: ask it with a
        // component that imports just this name.
        let known = compile(&importer(name)).is_some_and(|probe| linker.instantiate_pre(&probe).is_ok());
        if !known {
            missing.push(name.to_owned());
        }
    }
    if missing.is_empty() {
        // The interface is there, but not with the functions or types that the component wants.
        if let Err(error) = linker.instantiate_pre(component) {
            missing.push(format!("{error:#}"));
        }
    }
    Ok(missing)
}

/// The imports of a core module that nothing satisfies, as `module.name`.
pub fn missing_module_imports(engine: &Engine, module: &Module) -> anyhow::Result<Vec<String>> {
    let linker = core_linker(engine)?;
    if linker.instantiate_pre(module).is_ok() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for import in module.imports() {
        let known = import.module() == "wasi_snapshot_preview1" && matches!(import.ty(), ExternType::Func(_));
        if !known {
            missing.push(format!("{}.{}", import.module(), import.name()));
        }
    }
    if missing.is_empty()
        && let Err(error) = linker.instantiate_pre(module)
    {
        missing.push(format!("{error:#}"));
    }
    Ok(missing)
}

/// A component that imports an empty instance under `name`, in the binary format of the component
/// model: a type section with one empty instance type, and an import section.
fn importer(name: &str) -> Vec<u8> {
    let mut import = vec![1, 0];
    leb128(&mut import, name.len());
    import.extend_from_slice(name.as_bytes());
    import.extend_from_slice(&[5, 0]);

    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.extend_from_slice(&[7, 3, 1, 0x42, 0]);
    bytes.push(10);
    leb128(&mut bytes, import.len());
    bytes.extend_from_slice(&import);
    bytes
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
