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
    if linker.instantiate_pre(component).is_ok() {
        return Ok(Vec::new());
    }
    // The linker resolves names by compatible version and tells nobody how. So it is asked with a
    // component that imports one thing, and what it says is compared with what it says of an
    // interface that is certainly not there.
    let complaint = |interface: &str, item: &Item<'_>| -> Option<String> {
        let error = linker.instantiate_pre(&compile(&importer(interface, item))?).err()?;
        Some(error.root_cause().to_string())
    };
    let mut missing = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let known = match &import.ty {
            ComponentItem::ComponentInstance(instance) => {
                let exports: Vec<_> = instance.exports(engine).collect();
                let items = exports.iter().filter_map(|(name, export)| Item::new(name, &export.ty));
                // With neither functions nor resources there is nothing that could be missing.
                items.min().is_none_or(|item| {
                    let said = complaint(name, &item);
                    said.is_none() || said != complaint("proa:nothing/nowhere@0.0.1", &item)
                })
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

/// Something that an interface has: enough of it to ask whether a linker knows the interface.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Item<'a> {
    Resource(&'a str),
    Function(&'a str),
}

impl<'a> Item<'a> {
    /// Methods are left out: they cannot stand without their resource.
    fn new(name: &'a str, ty: &ComponentItem) -> Option<Self> {
        match ty {
            ComponentItem::Resource(_) => Some(Self::Resource(name)),
            ComponentItem::ComponentFunc(_) if !name.starts_with('[') => Some(Self::Function(name)),
            _ => None,
        }
    }
}

/// A component that imports an instance under this name with this one item in it, in the binary
/// format of the component model: a type section and an import section.
fn importer(interface: &str, item: &Item<'_>) -> Vec<u8> {
    let mut instance = vec![1, 0x42];
    let name = match item {
        Item::Resource(name) => {
            instance.push(1);
            name
        }
        Item::Function(name) => {
            // First the type of the function: no parameters, no result.
            instance.extend_from_slice(&[2, 1, 0x40, 0, 1, 0]);
            name
        }
    };
    instance.extend_from_slice(&[4, 0]);
    string(&mut instance, name);
    instance.extend_from_slice(match item {
        Item::Resource(_) => &[3, 1],
        Item::Function(_) => &[1, 0],
    });
    let mut import = vec![1, 0];
    string(&mut import, interface);
    import.extend_from_slice(&[5, 0]);

    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for (id, section) in [(7, instance), (10, import)] {
        bytes.push(id);
        leb128(&mut bytes, section.len());
        bytes.extend_from_slice(&section);
    }
    bytes
}

fn string(out: &mut Vec<u8>, text: &str) {
    leb128(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
