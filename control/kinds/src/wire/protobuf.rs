//! The Kubernetes protobuf encoding to JSON.
//!
//! A body is the magic `k8s\0`, then a `runtime.Unknown` message: apiVersion and kind, and the
//! object's own message as bytes. The decoder is driven by the kind's schema. Fields that it
//! does not know are skipped, as protobuf asks.
//!
//! Go clients always write fields whose Go type is no pointer, zero or not; the table says which of
//! them JSON leaves out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::budget::Budget;
use super::decoded::json_value;
use super::depth::{MAX_DEPTH, deeper_than};
use crate::schema::{DefinitionId, Field, Nature, Schema, Type, Types};

const MAGIC: &[u8] = b"k8s\0";

/// Decodes a body with its envelope.
pub(super) fn envelope(body: &[u8], budget: &Budget) -> Result<Value, String> {
    open(body, 0, budget)
}

fn open(body: &[u8], depth: usize, budget: &Budget) -> Result<Value, String> {
    let Some(rest) = body.strip_prefix(MAGIC) else {
        return Err("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
            .to_owned());
    };
    let (mut api_version, mut kind, mut raw, mut content_type) = ("", "", &[][..], "");
    let mut reader = Reader(rest);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(type_meta)) => {
                let mut reader = Reader(type_meta);
                while let Some((number, wire)) = reader.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (4, Wire::Bytes(bytes)) => content_type = text(bytes)?,
            _ => {}
        }
    }
    if content_type == "application/json" {
        return json_value(raw, budget).map(|decoded| decoded.value);
    }
    if kind.is_empty() {
        return Err("Object 'Kind' is missing in the protobuf envelope".to_owned());
    }
    let schema = Schema::built_in(api_version, kind)
        .ok_or_else(|| format!("no kind \"{kind}\" is registered for version \"{api_version}\""))?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Decoder { types: schema.types(), budget }.object_into(&mut object, schema.root(), raw, depth)?;
    // Go writes the status of a new object field by field, all zero, and without the times that its
    // type requires: that is no status.
    if object.get("status").is_some_and(is_blank) {
        object.shift_remove("status");
    }
    Ok(Value::Object(object))
}

/// Decodes messages of these types.
struct Decoder<'a> {
    types: &'a Types,
    budget: &'a Budget,
}

impl Decoder<'_> {
    /// Decodes a message's fields into a JSON object. A field that comes again is merged (messages),
    /// appended (lists) or replaced, as protobuf has it.
    fn object_into(
        &self,
        object: &mut Map<String, Value>,
        id: DefinitionId,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), String> {
        if depth >= MAX_DEPTH {
            return Err(format!("the object is nested deeper than {MAX_DEPTH} levels"));
        }
        self.budget.object()?;
        let definition = self.types.get(id);
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.next()? {
            let Some(field) = definition.fields.iter().find(|f| f.number == number) else { continue };
            self.field_into(object, field, wire, depth)
                .map_err(|e| within(&definition.name, &field.name, e))?;
        }
        Ok(())
    }

    fn field_into(
        &self,
        object: &mut Map<String, Value>,
        field: &Field,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<(), String> {
        match (field.slot.type_, wire) {
            (Type::List(inner), wire) => {
                let slot = object.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = slot else { return Err("two types in one field".to_owned()) };
                match (self.types.inner(inner).type_, wire) {
                    (type_ @ (Type::Int32 | Type::Int64 | Type::Bool), Wire::Bytes(packed)) => {
                        let mut reader = Reader(packed);
                        while !reader.0.is_empty() {
                            items.push(self.single(type_, Wire::Varint(reader.varint()?), depth)?);
                        }
                    }
                    (type_, wire) => items.push(self.single(type_, wire, depth + 1)?),
                }
            }
            (Type::Map(inner), wire) => {
                let slot = object.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = slot else { return Err("two types in one field".to_owned()) };
                let (key, value) = self.map_entry(self.types.inner(inner).type_, wire, depth)?;
                map.insert(key, value);
            }
            (Type::Defined(id), Wire::Bytes(bytes)) if field.embedded => {
                self.object_into(object, id, bytes, depth)?;
            }
            (Type::Defined(id), Wire::Bytes(bytes)) if self.types.get(id).nature == Nature::Object => {
                let slot = object.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(inner) = slot else { return Err("two types in one field".to_owned()) };
                self.object_into(inner, id, bytes, depth + 1)?;
            }
            (type_, wire) => {
                let value = self.single(type_, wire, depth)?;
                let left_out = value.is_null() || field.drop_zero && is_zero(&value);
                if !left_out {
                    object.insert(field.name.to_string(), value);
                }
            }
        }
        Ok(())
    }

    fn map_entry(&self, type_: Type, wire: Wire<'_>, depth: usize) -> Result<(String, Value), String> {
        let Wire::Bytes(entry) = wire else { return Err("wrong wireType".to_owned()) };
        let (mut key, mut value) = ("", None);
        let mut reader = Reader(entry);
        while let Some((number, wire)) = reader.next()? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                (2, wire) => value = Some(self.single(type_, wire, depth + 1)?),
                _ => {}
            }
        }
        let empty = match type_ {
            Type::Int32 | Type::Int64 | Type::Bool => Wire::Varint(0),
            Type::Float => Wire::Fixed64(0),
            Type::Text | Type::Bytes | Type::Defined(_) | Type::List(_) | Type::Map(_) => Wire::Bytes(&[]),
        };
        let value = match value {
            Some(value) => value,
            None => self.single(type_, empty, depth + 1)?,
        };
        Ok((key.to_owned(), value))
    }

    fn single(&self, type_: Type, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
        self.budget.value()?;
        match (type_, wire) {
            (Type::Text, Wire::Bytes(bytes)) => Ok(text(bytes)?.into()),
            (Type::Bytes, Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
            (Type::Bool, Wire::Varint(bits)) => Ok((bits != 0).into()),
            // A negative int32 is sign-extended to 64 bits on the wire, so both widths read alike.
            (Type::Int32 | Type::Int64, Wire::Varint(bits)) => Ok(bits.cast_signed().into()),
            (Type::Float, Wire::Fixed64(bits)) => {
                Ok(serde_json::Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number))
            }
            (Type::Defined(id), Wire::Bytes(bytes)) => self.defined(id, bytes, depth),
            _ => Err("wrong wireType".to_owned()),
        }
    }

    fn defined(&self, id: DefinitionId, bytes: &[u8], depth: usize) -> Result<Value, String> {
        let nature = self.types.get(id).nature;
        match nature {
            Nature::Time | Nature::MicroTime => return time(bytes, nature),
            Nature::RawJson => return raw_json(bytes, depth, self.budget),
            _ => {}
        }
        let mut object = Map::new();
        self.object_into(&mut object, id, bytes, depth)?;
        let mut take = |name: &str| object.remove(name);
        Ok(match nature {
            Nature::Quantity => take("string").unwrap_or_else(|| "0".into()),
            Nature::IntOrString if take("type") == Some(1.into()) => {
                take("strVal").unwrap_or_else(|| "".into())
            }
            Nature::IntOrString => take("intVal").unwrap_or_else(|| 0.into()),
            Nature::Items => take("items").unwrap_or_else(|| Value::Array(Vec::new())),
            Nature::SchemaOrBool => take("schema").or_else(|| take("allows")).unwrap_or(false.into()),
            Nature::SchemaOrList => take("schema")
                .or_else(|| object.into_values().next())
                .unwrap_or_else(|| Value::Array(Vec::new())),
            Nature::Object | Nature::Time | Nature::MicroTime | Nature::RawJson => Value::Object(object),
        })
    }
}

/// Names the innermost field that is wrong; the way there would only repeat it.
fn within(message: &str, field: &str, error: String) -> String {
    if error.starts_with("proto: ") || error.starts_with("the object") {
        return error;
    }
    format!("proto: {}.{field}: {error}", message.rsplit('.').next().unwrap_or(message))
}

/// The zero time is an empty message, which is no time at all.
fn time(bytes: &[u8], nature: Nature) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(bits)) => seconds = bits.cast_signed(),
            (2, Wire::Varint(bits)) => nanos = bits.cast_signed(),
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let nanos =
        if nature == Nature::MicroTime { i32::try_from(nanos).map_err(|e| e.to_string())? } else { 0 };
    let at = Timestamp::new(seconds, nanos).map_err(|e| format!("not a time: {e}"))?;
    let format = if nature == Nature::MicroTime { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(at.strftime(format).to_string().into())
}

/// A message whose field 1 holds JSON, or a whole protobuf body.
fn raw_json(bytes: &[u8], depth: usize, budget: &Budget) -> Result<Value, String> {
    let mut raw = &[][..];
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(bytes)) = (number, wire) {
            raw = bytes;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if depth >= MAX_DEPTH {
        return Err(format!("the object is nested deeper than {MAX_DEPTH} levels"));
    }
    if raw.starts_with(MAGIC) {
        return open(raw, depth + 1, budget);
    }
    let value = json_value(raw, budget)?.value;
    if deeper_than(&value, MAX_DEPTH - depth) {
        return Err(format!("the object is nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(value)
}

/// True if nothing in the value says anything.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().all(is_blank),
        Value::Object(map) => map.values().all(is_blank),
        scalar => is_zero(scalar),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(bit) => !bit,
        _ => false,
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "string field contains invalid UTF-8".to_owned())
}

/// One value as it stands on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// Reads fields off a message: <https://protobuf.dev/programming-guides/encoding/>.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0).ok_or("proto: illegal tag")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| UNEXPECTED_END)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.fixed::<4>()?;
                Wire::Fixed32
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(UNEXPECTED_END)?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(UNEXPECTED_END)?;
        self.0 = rest;
        Ok(*taken)
    }
}

const UNEXPECTED_END: &str = "proto: unexpected EOF";

#[cfg(test)]
mod tests;
