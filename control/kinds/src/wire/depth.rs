//! How deep the lists and objects of a body may be inside each other.

use serde_json::Value;

/// Deepest nesting of a body. The JSON library reads at most 128 levels, and what is stored must
/// stay readable inside a list, a watch event and a patch.
pub const MAX_DEPTH: usize = 100;

/// True if `value` has more than `levels` lists and objects inside each other.
pub fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|item| deeper_than(item, levels - 1)),
        _ => false,
    }
}
