//! What a Wasm file is, from the names it exports.

use crate::config::WasmShape;

/// The shape of a component that exports these names, HTTP before command; `None` if it exports
/// nothing that can be run.
pub fn of_component<'a>(exports: impl Iterator<Item = &'a str>) -> Option<WasmShape> {
    let mut command = false;
    for name in exports {
        if is(name, "wasi:http/incoming-handler", "0.2") || is(name, "wasi:http/handler", "0.3") {
            return Some(WasmShape::Http);
        }
        command |= is(name, "wasi:cli/run", "0.2") || is(name, "wasi:cli/run", "0.3");
    }
    command.then_some(WasmShape::Command)
}

/// The shape of a core module that exports these names.
pub fn of_module<'a>(mut exports: impl Iterator<Item = &'a str>) -> Option<WasmShape> {
    exports.any(|name| name == "_start").then_some(WasmShape::CoreModule)
}

/// Whether `name` is `interface` in any patch release of the version line `version`.
fn is(name: &str, interface: &str, version: &str) -> bool {
    name.strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix('@'))
        .and_then(|rest| rest.strip_prefix(version))
        .is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_tell_the_shape() {
        let check = |exports: &[&str], want| assert_eq!(of_component(exports.iter().copied()), want);
        check(&["wasi:http/incoming-handler@0.2.6"], Some(WasmShape::Http));
        check(&["wasi:cli/run@0.2.0", "wasi:http/handler@0.3.0"], Some(WasmShape::Http));
        check(&["wasi:cli/run@0.3.0"], Some(WasmShape::Command));
        check(&["wasi:http/incoming-handler@0.20.0"], None);
        check(&["example:calc/add@0.1.0"], None);
        assert_eq!(of_module(["memory", "_start"].into_iter()), Some(WasmShape::CoreModule));
        assert_eq!(of_module(["memory"].into_iter()), None);
    }
}
