//! Builds JSON values from a serde data format, watching depth, duplicate keys and growth.
//!
//! Used for JSON and YAML alike, so that both give the same value for the same object.

use std::fmt;

use proa_api::field::Path;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::budget::Budget;
use super::depth::MAX_DEPTH;

/// A seed that builds one value.
pub(super) struct Builder<'a> {
    path: Option<&'a Path<'a>>,
    depth: usize,
    merge_keys: bool,
    duplicates: &'a mut Vec<String>,
    budget: &'a Budget,
}

impl<'a> Builder<'a> {
    pub(super) fn new(duplicates: &'a mut Vec<String>, budget: &'a Budget) -> Self {
        Builder { path: None, depth: 0, merge_keys: false, duplicates, budget }
    }

    /// Follows YAML's merge key `<<`.
    pub(super) fn with_merge_keys(mut self) -> Self {
        self.merge_keys = true;
        self
    }

    fn spend<E: de::Error>(&self, text: usize) -> Result<(), E> {
        self.budget.value().and_then(|()| self.budget.grow(text)).map_err(E::custom)
    }

    fn enter<E: de::Error>(&self) -> Result<usize, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("the object is nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Builder<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Builder<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        self.spend(0)?;
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format_args!("{v} is not a JSON number")))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.spend(v.len())?;
        Ok(v.into())
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        self.spend(v.len())?;
        Ok(Value::String(v))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let depth = self.enter()?;
        let root = Path::root("");
        let path = self.path.unwrap_or(&root);
        let mut items = Vec::new();
        loop {
            let here = path.index(items.len());
            let item = Builder {
                path: Some(&here),
                depth,
                merge_keys: self.merge_keys,
                duplicates: &mut *self.duplicates,
                budget: self.budget,
            };
            match access.next_element_seed(item)? {
                Some(value) => items.push(value),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.budget.object().map_err(de::Error::custom)?;
        let depth = self.enter()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(Key)? {
            self.budget.grow(key.len()).map_err(de::Error::custom)?;
            let here = match self.path {
                Some(path) => path.field(&key),
                None => Path::root(&key),
            };
            let value = access.next_value_seed(Builder {
                path: Some(&here),
                depth,
                merge_keys: self.merge_keys,
                duplicates: &mut *self.duplicates,
                budget: self.budget,
            })?;
            if map.contains_key(&key) && self.duplicates.len() < MAX_COMPLAINTS {
                self.duplicates.push(shortened(here.to_string()));
            }
            map.insert(key, value);
        }
        if self.merge_keys
            && let Some(merged) = map.shift_remove("<<")
        {
            merge(&mut map, merged);
        }
        Ok(Value::Object(map))
    }
}

/// <https://yaml.org/type/merge.html>: own keys win, earlier maps win over later ones.
fn merge(map: &mut Map<String, Value>, merged: Value) {
    match merged {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
        }
        Value::Array(others) => others.into_iter().for_each(|other| merge(map, other)),
        _ => {}
    }
}

/// A map key. YAML allows scalars of any type where JSON has text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string key")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<String, E> {
        Ok(v)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }
}
/// Complaints about one body at most, as in the stock server.
pub(super) const MAX_COMPLAINTS: usize = 100;

/// A path as it is told: keys may be as long as the body.
pub(super) fn shortened(mut path: String) -> String {
    const MAX_BYTES: usize = 256;
    if path.len() > MAX_BYTES {
        path.truncate(path.floor_char_boundary(MAX_BYTES));
        path.push('…');
    }
    path
}
