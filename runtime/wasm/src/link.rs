//! What a node offers to guests: the imports that are there, and the names of those that are not.

use wasmtime::component::types::ComponentItem;
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
    let Err(error) = linker.instantiate_pre(component) else { return Ok(Vec::new()) };
    // The linker resolves names by compatible version and tells nobody how. So it is asked for a
    // function of that name: of an interface that is there it says that it is no function, of one
    // that is not, what it says of a name that is certainly not there.
    let complaint = |interface: &str| -> Option<String> {
        let error = linker.instantiate_pre(&compile(&importer(interface))?).err()?;
        Some(error.root_cause().to_string())
    };
    let nowhere = complaint("proa:nothing/nowhere@0.0.1");
    let mut missing = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let known = match &import.ty {
            // Without exports there is nothing in it that could be missing.
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).next().is_none() || complaint(name) != nowhere
            }
            ComponentItem::Type(_) | ComponentItem::Resource(_) => true,
            _ => false,
        };
        if !known {
            missing.push(name.to_owned());
        }
    }
    if missing.is_empty() {
        // The interface is there, but not with the functions or types that the component wants.
        missing.push(format!("{error:#}"));
    }
    Ok(missing)
}

/// The imports of a core module that nothing satisfies, as `module.name`.
pub fn missing_module_imports(engine: &Engine, module: &Module) -> anyhow::Result<Vec<String>> {
    let mut linker = core_linker(engine)?;
    let Err(error) = linker.instantiate_pre(module) else { return Ok(Vec::new()) };
    let mut missing = Vec::new();
    for import in module.imports() {
        // What can still be defined is not there yet. A node offers functions and nothing else.
        let known = match import.ty() {
            ExternType::Func(ty) => {
                linker.func_new(import.module(), import.name(), ty, |_, _, _| Ok(())).is_err()
            }
            _ => false,
        };
        if !known {
            missing.push(format!("{}.{}", import.module(), import.name()));
        }
    }
    if missing.is_empty() {
        missing.push(format!("{error:#}"));
    }
    Ok(missing)
}

/// A component that imports a function of this name and nothing else, in the binary format of the
/// component model: a type section (no parameters, no result) and an import section.
fn importer(name: &str) -> Vec<u8> {
    let mut import = vec![1, 0];
    leb128(&mut import, name.len());
    import.extend_from_slice(name.as_bytes());
    import.extend_from_slice(&[1, 0]);
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for (id, section) in [(7, vec![1, 0x40, 0, 1, 0]), (10, import)] {
        bytes.push(id);
        leb128(&mut bytes, section.len());
        bytes.extend_from_slice(&section);
    }
    bytes
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
