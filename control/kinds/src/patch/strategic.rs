//! Strategic merge patch: maps merge, lists merge by key where their type says so, and directives
//! (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`) say what plain JSON
//! cannot.
//!
//! The rules are those of the public description of the format; how a list merges comes from
//! the kind's schema.
//!
//! Both the object and the patch may be as long as a body: everything is looked up by hash, and nothing
//! of a map keeps its place when another part of it goes. Whoever stores the result puts it in order.

use std::collections::{HashMap, HashSet};

use proa_api::Refusal;
use serde_json::{Map, Value};

use super::list::{self, Order};
use crate::schema::{DefinitionId, Schema, Type, Types};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Why a patch cannot be applied.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// The patch is not well formed: 400.
    Malformed(String),
    /// A list element lacks the key it merges by, or a list holds lists: 422.
    Unmergeable(String),
}

impl Fault {
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Fault::Malformed(text) => Refusal::bad_request(text),
            Fault::Unmergeable(text) => Refusal::new(422, "Invalid", text),
        }
    }
}

/// How a field merges. Fields that the schema does not have merge as maps and replace as lists.
#[derive(Clone, Copy)]
struct Rule<'a> {
    merge: bool,
    replace: bool,
    merge_key: &'a str,
    inner: Object<'a>,
}

/// What is known of an object: its type, if the schema has it.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    types: &'a Types,
    type_: Option<DefinitionId>,
}

impl<'a> Object<'a> {
    /// An object of this kind.
    pub(super) fn of(schema: &'a Schema) -> Self {
        Object { types: schema.types(), type_: Some(schema.root()) }
    }

    fn rule(self, name: &str) -> Rule<'a> {
        let types = self.types;
        let slot = self.type_.and_then(|id| types.field(id, name)).map(|field| &field.slot);
        let merge = slot.and_then(|slot| slot.merge.as_deref());
        let has = |strategy: &str| {
            merge.is_some_and(|merge| merge.patch_strategy.split(',').any(|said| said == strategy))
        };
        let one = slot.map(|slot| match slot.type_ {
            Type::List(inner) => types.inner(inner).type_,
            type_ => type_,
        });
        let type_ = match one {
            Some(Type::Defined(id)) => Some(id),
            _ => None,
        };
        Rule {
            merge: has("merge"),
            replace: has("replace"),
            merge_key: merge.map_or("", |merge| &*merge.patch_key),
            inner: Object { types, type_ },
        }
    }
}

/// Merges `patch` into `original`, an object of this type.
pub(super) fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    object: Object<'_>,
) -> Result<Map<String, Value>, Fault> {
    match directive(&mut patch)? {
        Some(Directive::Replace) => return Ok(patch),
        Some(Directive::Delete) => return Ok(Map::new()),
        Some(Directive::Merge) | None => {}
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_orders(&mut original, &mut patch, object)?;
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            if let Some(Value::Array(items)) = original.get_mut(name) {
                remove_all(items, as_list(value, DELETE_FROM)?);
            }
            continue;
        }
        let merged = match (original.get_mut(&name).map(Value::take), value) {
            (_, Value::Null) => {
                original.remove(&name);
                continue;
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                let rule = object.rule(&name);
                if rule.replace {
                    Value::Object(cleaned(new, rule.inner)?)
                } else {
                    Value::Object(merge_map(old, new, rule.inner)?)
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let rule = object.rule(&name);
                if rule.merge { Value::Array(merge_list(old, new, rule, None)?) } else { Value::Array(new) }
            }
            (_, Value::Object(new)) => Value::Object(cleaned(new, object.rule(&name).inner)?),
            (_, Value::Array(new)) => Value::Array(merge_list_onto_nothing(new, object.rule(&name))?),
            (_, scalar) => scalar,
        };
        original.insert(name, merged);
    }
    Ok(original)
}

enum Directive {
    Replace,
    Delete,
    Merge,
}

/// Takes the `$patch` directive out of a map.
fn directive(patch: &mut Map<String, Value>) -> Result<Option<Directive>, Fault> {
    match patch.shift_remove(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "replace" => Ok(Some(Directive::Replace)),
            "delete" => Ok(Some(Directive::Delete)),
            "merge" => Ok(Some(Directive::Merge)),
            _ => Err(Fault::Malformed(format!("unknown patch type found: {word}"))),
        },
        Some(other) => Err(Fault::Malformed(format!("unknown patch type found: {other}"))),
    }
}

/// `$retainKeys`: what the list does not name is cleared before the merge.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Fault> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let keys = as_list(keys, RETAIN_KEYS)?;
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    for (name, value) in &*patch {
        if !value.is_null() && !name.starts_with('$') && !keys.contains(name.as_str()) {
            return Err(Fault::Malformed(format!(
                "bad patch format for {RETAIN_KEYS}: {name} is set and not among the retained keys"
            )));
        }
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

/// `$setElementOrder/x`: merges list x if the patch holds it, then puts its elements in order.
fn set_element_orders(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    object: Object<'_>,
) -> Result<(), Fault> {
    let names: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in names {
        let order = as_list(patch.remove(&directive).unwrap_or_default(), ELEMENT_ORDER)?;
        let name = &directive[ELEMENT_ORDER.len()..];
        let rule = object.rule(name);
        let gone = match patch.remove(&format!("{DELETE_FROM}{name}")) {
            Some(gone) => as_list(gone, DELETE_FROM)?,
            None => Vec::new(),
        };
        let new = match patch.remove(name) {
            Some(Value::Array(new)) => new,
            Some(Value::Null) => {
                original.remove(name);
                continue;
            }
            Some(_) => return Err(Fault::Malformed(format!("{name} is ordered and must be a list"))),
            None => Vec::new(),
        };
        let mut old = match original.get_mut(name).map(Value::take) {
            Some(Value::Array(old)) => old,
            _ if new.is_empty() => {
                original.remove(name);
                continue;
            }
            _ => Vec::new(),
        };
        check_order(&new, &order, rule.merge_key)?;
        remove_all(&mut old, gone);
        original.insert(name.to_owned(), Value::Array(merge_list(old, new, rule, Some(order))?));
    }
    Ok(())
}

/// The elements of the patch must stand in the order that the patch asks for.
fn check_order(new: &[Value], order: &[Value], key: &str) -> Result<(), Fault> {
    let ordered = Order::new(order, key);
    let mut last = 0;
    for item in new.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        match ordered.position(item) {
            Some(position) if position >= last => last = position,
            _ => {
                return Err(Fault::Malformed(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    Value::Array(new.to_vec()),
                    Value::Array(order.to_vec())
                )));
            }
        }
    }
    Ok(())
}

/// Takes out of a list what another one holds.
fn remove_all(items: &mut Vec<Value>, gone: Vec<Value>) {
    let gone: HashSet<Value> = gone.into_iter().collect();
    items.retain(|item| !gone.contains(item));
}

/// Merges a list whose strategy is merge. Elements that the patch names stand in the patch's order
/// (or in `order`, where it is given), the others where the server has them.
fn merge_list(
    old: Vec<Value>,
    new: Vec<Value>,
    rule: Rule<'_>,
    order: Option<Vec<Value>>,
) -> Result<Vec<Value>, Fault> {
    let server = old.clone();
    let (merged, new) = if rule.merge_key.is_empty() {
        let mut merged = old;
        let mut known: HashSet<&Value> = server.iter().collect();
        for item in &new {
            if item.is_array() || item.is_object() {
                return Err(Fault::Unmergeable(format!(
                    "{item} cannot be merged: its list has no merge key"
                )));
            }
            if known.insert(item) {
                merged.push(item.clone());
            }
        }
        (merged, new)
    } else {
        let (old, new, replaced) = element_directives(old, new, rule)?;
        if replaced {
            return merge_list_onto_nothing(new, rule);
        }
        (merge_elements(old, &new, rule)?, new)
    };
    Ok(list::in_order(merged, order.as_deref().unwrap_or(&new), &server, rule.merge_key))
}

/// Carries out the directives that stand as elements of a list: `{"$patch": "delete", KEY: …}`
/// removes, `{"$patch": "replace"}` makes the other elements of the patch the whole list.
fn element_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    rule: Rule<'_>,
) -> Result<(Vec<Value>, Vec<Value>, bool), Fault> {
    let mut plain = Vec::with_capacity(new.len());
    let mut gone = HashSet::new();
    let mut replaced = false;
    for mut item in new {
        let word = match &mut item {
            Value::Object(map) => directive(map)?,
            _ => None,
        };
        match word {
            None => plain.push(item),
            Some(Directive::Delete) => {
                gone.insert(key_of(&item, rule.merge_key)?.clone());
            }
            Some(Directive::Replace) => {
                replaced = true;
                if item.as_object().is_some_and(|map| !map.is_empty()) {
                    plain.push(item);
                }
            }
            Some(Directive::Merge) => {
                return Err(Fault::Malformed("merging list cannot yet be specified in the patch".to_owned()));
            }
        }
    }
    old.retain(|item| item.get(rule.merge_key).is_none_or(|key| !gone.contains(key)));
    Ok((old, plain, replaced))
}

fn merge_elements(mut merged: Vec<Value>, new: &[Value], rule: Rule<'_>) -> Result<Vec<Value>, Fault> {
    let mut places: HashMap<Value, usize> = HashMap::with_capacity(merged.len());
    for (place, key) in merged.iter().enumerate().filter_map(|(n, item)| Some((n, item.get(rule.merge_key)?)))
    {
        places.entry(key.clone()).or_insert(place);
    }
    for item in new {
        let key = key_of(item, rule.merge_key)?;
        let Value::Object(patch) = item.clone() else { continue };
        match places.get(key).and_then(|place| merged.get_mut(*place)) {
            Some(slot) => {
                let Value::Object(old) = slot.take() else { continue };
                *slot = Value::Object(merge_map(old, patch, rule.inner)?);
            }
            None => {
                places.insert(key.clone(), merged.len());
                merged.push(Value::Object(cleaned(patch, rule.inner)?));
            }
        }
    }
    Ok(merged)
}

fn key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value, Fault> {
    item.get(key)
        .filter(|value| !value.is_null())
        .ok_or_else(|| Fault::Unmergeable(format!("map: {item} does not contain declared merge key: {key}")))
}

/// A list that the object does not have yet: deletions have nothing to delete.
fn merge_list_onto_nothing(new: Vec<Value>, rule: Rule<'_>) -> Result<Vec<Value>, Fault> {
    let mut kept = Vec::with_capacity(new.len());
    for item in new {
        match item {
            Value::Object(map) if matches!(map.get(DIRECTIVE).and_then(Value::as_str), Some("delete")) => {}
            Value::Object(map) if rule.merge || map.contains_key(DIRECTIVE) => {
                let map = cleaned(map, rule.inner)?;
                if !map.is_empty() {
                    kept.push(Value::Object(map));
                }
            }
            other => kept.push(other),
        }
    }
    Ok(kept)
}

/// A map that the object does not have yet: merged onto nothing, so that no directive and no null
/// stays behind.
fn cleaned(patch: Map<String, Value>, object: Object<'_>) -> Result<Map<String, Value>, Fault> {
    merge_map(Map::new(), patch, object).map(without_nulls)
}

fn as_list(value: Value, directive: &str) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(Fault::Malformed(format!(
            "bad patch format for {}: it must be a list",
            directive.trim_end_matches('/')
        ))),
    }
}

/// Drops nulls from maps, as a merge onto nothing does.
fn without_nulls(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().filter(|(_, value)| !value.is_null()).collect()
}
