//! The outline of a Wasm file: what it imports and what it exports, without its code.
//!
//! Read by `compile.rs`. An outline is a Wasm file itself, which compiles in no time whatever the
//! size of the code: so a file that cannot run here is refused before anybody compiles it.

use wasmparser::{BinaryReaderError, Parser, Payload};

/// What of a file matters before it is compiled.
#[derive(Debug, PartialEq, Eq)]
pub struct Outline {
    /// A file with the imports and the types that they need. Imports that a component has after the
    /// first of its own parts are not in it: they are seen when the whole is compiled.
    pub bytes: Vec<u8>,
    /// Names of what it exports.
    pub exports: Vec<String>,
}

/// Reads through a file; its code is passed over.
pub fn outline(file: &[u8]) -> Result<Outline, BinaryReaderError> {
    let mut outline = Outline { bytes: Vec::new(), exports: Vec::new() };
    // Of the file itself, which is 1, of what is nested in it, more.
    let mut depth = 0;
    let mut own_parts = false;
    for payload in Parser::new(0).parse_all(file) {
        let payload = payload?;
        match &payload {
            Payload::Version { range, .. } => {
                depth += 1;
                if depth == 1 {
                    outline.bytes.extend_from_slice(&file[range.clone()]);
                }
            }
            Payload::End(_) => depth -= 1,
            _ if depth > 1 => {}
            Payload::TypeSection(_)
            | Payload::ImportSection(_)
            | Payload::CoreTypeSection(_)
            | Payload::ComponentTypeSection(_)
            | Payload::ComponentImportSection(_)
            | Payload::ComponentAliasSection(_) => {
                if let Some((id, range)) = payload.as_section().filter(|_| !own_parts) {
                    outline.bytes.push(id);
                    leb128(&mut outline.bytes, range.len());
                    outline.bytes.extend_from_slice(&file[range]);
                }
            }
            Payload::CustomSection(_) => {}
            Payload::ExportSection(exports) => {
                own_parts = true;
                for export in exports.clone() {
                    outline.exports.push(export?.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) => {
                own_parts = true;
                for export in exports.clone() {
                    outline.exports.push(export?.name.name.to_owned());
                }
            }
            _ => own_parts = true,
        }
    }
    Ok(outline)
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_have_imports_and_exports_but_no_code() {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let section = |id: u8, content: Vec<u8>| [&[id, content.len() as u8][..], &content].concat();
        let module_head = [
            b"\0asm\x01\0\0\0".to_vec(),
            section(1, vec![1, 0x60, 0, 0]),
            section(2, [&[1][..], &text("m"), &text("f"), &[0, 0]].concat()),
        ]
        .concat();
        let module = [
            module_head.clone(),
            section(3, vec![1, 0]),
            section(7, [&[1][..], &text("_start"), &[0, 1]].concat()),
            section(10, vec![1, 2, 0, 0x0b]),
        ]
        .concat();
        let exports = vec!["_start".to_owned()];
        assert_eq!(outline(&module).unwrap(), Outline { bytes: module_head, exports });

        // The same as a part of a component: its sections are not the component's.
        let component_head = [
            b"\0asm\x0d\0\x01\0".to_vec(),
            section(7, vec![1, 0x40, 0, 1, 0]),
            section(10, [&[1, 0][..], &text("f"), &[1, 0]].concat()),
        ]
        .concat();
        let component = [component_head.clone(), section(1, module)].concat();
        assert_eq!(outline(&component).unwrap(), Outline { bytes: component_head, exports: Vec::new() });
        assert!(outline(b"\0asm\x01\0\0\0\x01\xff").is_err());
    }
}
