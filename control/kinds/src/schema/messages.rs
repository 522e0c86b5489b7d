//! The table of messages, parsed from `messages.tbl` when it is first needed.
//!
//! Every text in it borrows from the embedded file, so the parsed form costs about 200 KB.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Index of a message in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(u16);

/// One message: a Kubernetes type.
#[derive(Debug)]
pub struct Message {
    /// `io.k8s.api.core.v1.Container`.
    pub name: &'static str,
    /// Its fields, in no particular order.
    pub fields: Vec<Field>,
    /// How it stands in JSON.
    pub nature: Nature,
}

/// How a message stands in JSON: most are objects, some are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// A JSON object with the message's fields.
    Object,
    /// RFC 3339 text in seconds.
    Time,
    /// RFC 3339 text in microseconds.
    MicroTime,
    /// The text of a quantity.
    Quantity,
    /// An integer or a text.
    IntOrString,
    /// Any JSON; field 1 holds its bytes.
    RawJson,
    /// A JSON list: the message's only field.
    Items,
    /// A schema (field 2) or a boolean (field 1).
    SchemaOrBool,
    /// A schema (field 1) or a list (field 2).
    SchemaOrList,
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Field number in protobuf.
    pub number: u32,
    /// Name in JSON.
    pub name: &'static str,
    /// One, a list or a map.
    pub shape: Shape,
    /// Type of one value.
    pub type_: Type,
    /// True if the zero value is the same as none: the Go type has no pointer.
    pub by_value: bool,
    /// True if Go leaves that value out of JSON besides.
    pub drop_zero: bool,
    /// True if an object may lack it.
    pub optional: bool,
    /// True for a Go struct whose fields stand in the JSON of the message around it.
    pub embedded: bool,
    /// `x-kubernetes-patch-strategy`: `merge`, `replace`, `retainKeys` or `merge,retainKeys`; may be
    /// empty.
    pub patch_strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`; may be empty.
    pub merge_key: &'static str,
    /// `x-kubernetes-list-type`: `atomic`, `set`, `map`; may be empty.
    pub list_type: &'static str,
    /// `x-kubernetes-list-map-keys`, separated by commas; may be empty.
    pub list_map_keys: &'static str,
}

/// How many values a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list.
    List,
    /// A map with string keys.
    Map,
}

/// Type of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// UTF-8 text.
    Text,
    /// Boolean.
    Bool,
    /// int32 or int64.
    Integer,
    /// 64-bit floating point.
    Float,
    /// Bytes; base64 in JSON.
    Bytes,
    /// Another message.
    Message(MessageId),
}

/// All messages.
#[derive(Debug)]
pub struct Messages {
    messages: Vec<Message>,
    by_name: HashMap<&'static str, MessageId>,
}

/// The table of the built-in messages.
pub fn messages() -> &'static Messages {
    static TABLE: LazyLock<Messages> = LazyLock::new(|| {
        Messages::parse(concat!(include_str!("messages.tbl"), include_str!("old_messages.tbl")))
    });
    &TABLE
}

impl Messages {
    /// The message with this OpenAPI definition name.
    pub fn find(&self, definition: &str) -> Option<MessageId> {
        self.by_name.get(definition).copied()
    }

    /// A message of this table.
    pub fn get(&self, id: MessageId) -> &Message {
        &self.messages[usize::from(id.0)]
    }

    /// The field that stands under `name` in the message's JSON; looks into embedded structs.
    pub fn field(&self, id: MessageId, name: &str) -> Option<&Field> {
        let fields = &self.get(id).fields;
        fields.iter().find(|f| f.name == name && !f.embedded).or_else(|| {
            fields.iter().filter(|f| f.embedded).find_map(|f| match f.type_ {
                Type::Message(inner) => self.field(inner, name),
                _ => None,
            })
        })
    }

    /// All fields that stand in the message's JSON, those of embedded structs included.
    pub fn json_fields(&self, id: MessageId) -> Vec<&Field> {
        let mut all = Vec::new();
        for field in &self.get(id).fields {
            match field.type_ {
                Type::Message(inner) if field.embedded => all.extend(self.json_fields(inner)),
                _ => all.push(field),
            }
        }
        all
    }

    /// Reads the format that the head of `messages.py` describes. The file is part of the program,
    /// so anything else in it is a fault of the build.
    fn parse(text: &'static str) -> Messages {
        let names = || text.lines().filter_map(|line| line.strip_prefix('@'));
        let by_name: HashMap<&'static str, MessageId> = names().zip((0..).map(MessageId)).collect();
        let mut messages: Vec<Message> = Vec::with_capacity(by_name.len());
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('@') {
                messages.push(Message { name, fields: Vec::new(), nature: nature(name) });
            } else if !line.is_empty() {
                let message = messages.last_mut().expect("the table starts with a message");
                message.fields.push(Field::parse(line, &by_name));
            }
        }
        Messages { messages, by_name }
    }
}

impl Field {
    fn parse(line: &'static str, by_name: &HashMap<&'static str, MessageId>) -> Field {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_else(|| panic!("a short line in the table: {line}"));
        let number = next().parse().unwrap_or_else(|_| panic!("no field number: {line}"));
        let name = next();
        let type_ = next();
        let (shape, type_) = match (type_.strip_prefix("[]"), type_.strip_prefix("{}")) {
            (Some(item), _) => (Shape::List, item),
            (_, Some(value)) => (Shape::Map, value),
            _ => (Shape::One, type_),
        };
        let type_ = match type_ {
            "s" => Type::Text,
            "b" => Type::Bool,
            "i" => Type::Integer,
            "f" => Type::Float,
            "y" => Type::Bytes,
            other => Type::Message(*by_name.get(other).unwrap_or_else(|| panic!("no message: {line}"))),
        };
        let mut field = Field {
            number,
            name,
            shape,
            type_,
            by_value: false,
            drop_zero: false,
            optional: false,
            embedded: false,
            patch_strategy: "",
            merge_key: "",
            list_type: "",
            list_map_keys: "",
        };
        for mark in words {
            match mark.split_once('=') {
                Some(("p", strategy)) => field.patch_strategy = strategy,
                Some(("k", key)) => field.merge_key = key,
                Some(("l", list)) => {
                    (field.list_type, field.list_map_keys) = list.split_once(':').unwrap_or((list, ""))
                }
                _ if mark == "?" => (field.by_value, field.drop_zero) = (true, true),
                _ if mark == "v" => field.by_value = true,
                _ if mark == "o" => field.optional = true,
                _ if mark == "~" => field.embedded = true,
                _ => panic!("unknown mark {mark}: {line}"),
            }
        }
        field
    }
}

fn nature(name: &str) -> Nature {
    match name.rsplit('.').next().unwrap_or(name) {
        "Time" => Nature::Time,
        "MicroTime" => Nature::MicroTime,
        "Quantity" => Nature::Quantity,
        "IntOrString" => Nature::IntOrString,
        "RawExtension" | "FieldsV1" | "JSON" => Nature::RawJson,
        "ExtraValue" => Nature::Items,
        "JSONSchemaPropsOrBool" => Nature::SchemaOrBool,
        "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => Nature::SchemaOrList,
        _ => Nature::Object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(definition: &str, name: &str) -> &'static Field {
        let id = messages().find(definition).expect(definition);
        messages().field(id, name).unwrap_or_else(|| panic!("{definition}.{name}"))
    }

    #[test]
    fn embedded_structs_are_looked_into() {
        assert_eq!(field("io.k8s.api.core.v1.Volume", "emptyDir").shape, Shape::One);
        assert_eq!(field("io.k8s.api.core.v1.Probe", "httpGet").number, 2);
        assert_eq!(field("io.k8s.api.core.v1.ConfigMapKeySelector", "name").type_, Type::Text);
        assert_eq!(field("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts").merge_key, "mountPath");
        assert_eq!(field("io.k8s.api.networking.v1.IngressRule", "http").number, 1);
    }

    #[test]
    fn merge_keys_are_those_of_the_go_types() {
        for (definition, name, strategy, key) in [
            ("io.k8s.api.core.v1.PodSpec", "containers", "merge", "name"),
            ("io.k8s.api.core.v1.PodSpec", "volumes", "merge,retainKeys", "name"),
            ("io.k8s.api.core.v1.PodSpec", "tolerations", "", ""),
            ("io.k8s.api.core.v1.PodSpec", "hostAliases", "merge", "ip"),
            ("io.k8s.api.core.v1.Container", "ports", "merge", "containerPort"),
            ("io.k8s.api.core.v1.ServiceSpec", "ports", "merge", "port"),
            ("io.k8s.api.apps.v1.DeploymentSpec", "strategy", "retainKeys", ""),
            ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", "merge", "uid"),
            ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", "merge", ""),
        ] {
            let field = field(definition, name);
            assert_eq!((field.patch_strategy, field.merge_key), (strategy, key), "{definition}.{name}");
        }
    }
}
