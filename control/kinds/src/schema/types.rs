//! Types as all that walk over objects see them, wherever they were written down.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A text that a built-in kind has in the program and another one on the heap.
pub type Text = Cow<'static, str>;

/// Index of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DefinitionId(u32);

/// Index of the slot of a list's items or of a map's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(u32);

/// A type that JSON does not have by itself; most are objects.
#[derive(Debug)]
pub struct Definition {
    /// `io.k8s.api.core.v1.Container`; empty for one that stands in one place alone.
    pub name: Text,
    /// Its fields, in no particular order.
    pub fields: Vec<Field>,
    /// How it stands in JSON.
    pub nature: Nature,
    /// True if an object may hold more than the fields: `x-kubernetes-preserve-unknown-fields`.
    pub open: bool,
    /// What else OpenAPI says of it, in its words, where that stands here alone.
    pub rest: Option<Box<Map<String, Value>>>,
}

/// How a definition stands in JSON: most are objects, some are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nature {
    /// A JSON object with the fields.
    Object,
    /// RFC 3339 text in seconds.
    Time,
    /// RFC 3339 text in microseconds.
    MicroTime,
    /// The text of a quantity.
    Quantity,
    /// An integer or a text.
    IntOrString,
    /// Any JSON; in protobuf, field 1 holds its bytes.
    RawJson,
    /// A JSON list: the only field.
    Items,
    /// A schema (field 2) or a boolean (field 1).
    SchemaOrBool,
    /// A schema (field 1) or a list (field 2).
    SchemaOrList,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub name: Text,
    /// Its number in protobuf; 0 if it is not there.
    pub number: u32,
    /// What it holds.
    pub slot: Slot,
    /// True if the zero value is the same as none: the Go type has no pointer.
    pub by_value: bool,
    /// True if Go leaves that value out of JSON besides.
    pub drop_zero: bool,
    /// True if an object may lack it.
    pub optional: bool,
    /// True for a Go struct whose fields stand in the JSON of the object around it.
    pub embedded: bool,
}

/// A place for a value: a field, the items of a list, the values of a map.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The type of the value.
    pub type_: Type,
    /// True if the value may be `null`.
    pub nullable: bool,
    /// How two versions of the value become one, where something is said about it.
    pub merge: Option<Box<Merge>>,
    /// What else OpenAPI says of the value, in its words: docs, defaults, limits.
    pub rest: Option<Box<Map<String, Value>>>,
}

/// The type of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// UTF-8 text.
    Text,
    /// Boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// 64-bit floating point.
    Float,
    /// Bytes; base64 in JSON.
    Bytes,
    /// One that is defined.
    Defined(DefinitionId),
    /// A list.
    List(SlotId),
    /// A map with string keys.
    Map(SlotId),
}

/// How two versions of a value become one; all may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// `x-kubernetes-patch-strategy`: `merge`, `replace`, `retainKeys` or `merge,retainKeys`.
    pub patch_strategy: Text,
    /// `x-kubernetes-patch-merge-key`.
    pub patch_key: Text,
    /// `x-kubernetes-list-type`: `atomic`, `set`, `map`.
    pub list_type: Text,
    /// `x-kubernetes-list-map-keys`.
    pub list_keys: Vec<Text>,
    /// `x-kubernetes-map-type`: `atomic`, `granular`.
    pub map_type: Text,
}

/// Definitions that refer to each other.
#[derive(Debug, Default)]
pub struct Types {
    definitions: Vec<Definition>,
    slots: Vec<Slot>,
}

impl From<Type> for Slot {
    fn from(type_: Type) -> Self {
        Slot { type_, nullable: false, merge: None, rest: None }
    }
}

impl Types {
    /// A definition of these types.
    pub fn get(&self, id: DefinitionId) -> &Definition {
        &self.definitions[id.0 as usize]
    }

    /// The slot of a list's items or of a map's values.
    pub fn inner(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    /// The nature of a type, if it is a defined one.
    pub fn nature(&self, type_: Type) -> Option<Nature> {
        match type_ {
            Type::Defined(id) => Some(self.get(id).nature),
            _ => None,
        }
    }

    /// The field that stands under `name` in the JSON of an object; looks into embedded structs.
    pub fn field(&self, id: DefinitionId, name: &str) -> Option<&Field> {
        let fields = &self.get(id).fields;
        fields.iter().find(|f| f.name == name && !f.embedded).or_else(|| {
            fields.iter().filter(|f| f.embedded).find_map(|f| match f.slot.type_ {
                Type::Defined(inner) => self.field(inner, name),
                _ => None,
            })
        })
    }

    /// All fields that stand in the JSON of an object, those of embedded structs included.
    pub fn json_fields(&self, id: DefinitionId) -> Vec<&Field> {
        let mut all = Vec::new();
        for field in &self.get(id).fields {
            match field.slot.type_ {
                Type::Defined(inner) if field.embedded => all.extend(self.json_fields(inner)),
                _ => all.push(field),
            }
        }
        all
    }

    /// Adds a definition; its fields may come later.
    pub(super) fn define(&mut self, name: Text, nature: Nature) -> DefinitionId {
        self.definitions.push(Definition { name, fields: Vec::new(), nature, open: false, rest: None });
        DefinitionId(id(self.definitions.len() - 1))
    }

    /// A definition that is being filled.
    pub(super) fn get_mut(&mut self, id: DefinitionId) -> &mut Definition {
        &mut self.definitions[id.0 as usize]
    }

    /// Adds the slot of a list's items or of a map's values.
    pub(super) fn add(&mut self, slot: Slot) -> SlotId {
        self.slots.push(slot);
        SlotId(id(self.slots.len() - 1))
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("a schema is smaller than a request's body")
}
