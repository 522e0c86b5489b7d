//! The v2 document as a gnostic `openapi.v2.Document`, the protobuf form that kubectl before 1.27
//! asks for.
//!
//! Takes the JSON document and writes the fields that [`super::paths`] and [`super::definitions`]
//! use. Field numbers: <https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto>.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// The whole document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    out.message(8, |paths| {
        for (path, item) in entries(&document["paths"]) {
            paths.named(2, path, |out| path_item(out, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in entries(&document["definitions"]) {
            definitions.named(1, name, |out| schema(out, definition));
        }
    });
    out.0
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn path_item(out: &mut Message, item: &Value) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            out.message(number, |out| operation(out, value));
        }
    }
    for value in items(&item["parameters"]) {
        out.message(9, |out| parameter(out, value));
    }
}

fn operation(out: &mut Message, operation: &Value) {
    out.text(5, &operation["operationId"]);
    for media_type in items(&operation["produces"]) {
        out.text(6, media_type);
    }
    for media_type in items(&operation["consumes"]) {
        out.text(7, media_type);
    }
    for value in items(&operation["parameters"]) {
        out.message(8, |out| parameter(out, value));
    }
    out.message(9, |responses| {
        for (code, response) in entries(&operation["responses"]) {
            responses.named(1, code, |value| {
                value.message(1, |out| {
                    out.text(1, &response["description"]);
                    out.message(2, |item| item.message(1, |out| schema(out, &response["schema"])));
                });
            });
        }
    });
    extensions(out, 13, operation);
}

/// A `ParametersItem` that holds a body, query or path parameter.
fn parameter(out: &mut Message, parameter: &Value) {
    out.message(1, |out| match parameter["in"].as_str() {
        Some("body") => out.message(1, |out| {
            out.text(2, &parameter["name"]);
            out.text(3, &parameter["in"]);
            out.bool(4, &parameter["required"]);
            out.message(5, |out| schema(out, &parameter["schema"]));
        }),
        place => out.message(2, |out| {
            // Path parameters lack `allow_empty_value`, so their later fields stand one lower.
            let (variant, type_number, unique_number) =
                if place == Some("path") { (4, 5, 19) } else { (3, 6, 20) };
            out.message(variant, |out| {
                out.bool(1, &parameter["required"]);
                out.text(2, &parameter["in"]);
                out.text(4, &parameter["name"]);
                out.text(type_number, &parameter["type"]);
                out.bool(unique_number, &parameter["uniqueItems"]);
            });
        }),
    });
}

fn schema(out: &mut Message, value: &Value) {
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(4, &value["description"]);
    for name in items(&value["required"]) {
        out.text(19, name);
    }
    for choice in items(&value["enum"]) {
        out.message(20, |any| any.text(2, &choice.to_string().into()));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(_)) => out.message(21, |item| item.bool(2, &value["additionalProperties"])),
        Some(inner) => out.message(21, |item| item.message(1, |out| schema(out, inner))),
        None => {}
    }
    match value.get("type") {
        Some(Value::Array(types)) => {
            out.message(22, |item| types.iter().for_each(|type_| item.text(1, type_)))
        }
        Some(type_) => out.message(22, |item| item.text(1, type_)),
        None => {}
    }
    if let Some(inner) = value.get("items") {
        out.message(23, |item| item.message(1, |out| schema(out, inner)));
    }
    if value.get("properties").is_some() {
        out.message(25, |properties| {
            for (name, property) in entries(&value["properties"]) {
                properties.named(1, name, |out| schema(out, property));
            }
        });
    }
    extensions(out, 31, value);
}

/// Vendor extensions, as YAML text. JSON is YAML.
fn extensions(out: &mut Message, number: u32, value: &Value) {
    for (name, extension) in value.as_object().unwrap_or(&Map::new()) {
        if name.starts_with("x-") {
            out.named(number, name, |any| any.text(2, &extension.to_string().into()));
        }
    }
}

/// Writes one protobuf message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// A text, if it is one and not empty.
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    /// A boolean, if it is true.
    fn bool(&mut self, number: u32, value: &Value) {
        if value.as_bool() == Some(true) {
            encode_key(number, WireType::Varint, &mut self.0);
            encode_varint(1, &mut self.0);
        }
    }

    fn message(&mut self, number: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A pair of name (field 1) and value (field 2), which is how gnostic writes maps.
    fn named(&mut self, number: u32, name: &str, write: impl FnOnce(&mut Message)) {
        self.message(number, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.message(2, write);
        });
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }
}
