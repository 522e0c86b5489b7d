//! The types of the built-in kinds, parsed from `messages.tbl` when they are first needed.
//!
//! Every text in them borrows from the embedded file, so the parsed form costs about 200 KB.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::types::{DefinitionId, Field, Merge, Nature, Slot, Text, Type, Types};

/// The built-in types, by their names.
pub(super) struct BuiltIn {
    pub(super) types: Arc<Types>,
    by_name: HashMap<&'static str, DefinitionId>,
}

/// The built-in types.
pub(super) fn built_in() -> &'static BuiltIn {
    static TYPES: LazyLock<BuiltIn> =
        LazyLock::new(|| parse(concat!(include_str!("messages.tbl"), include_str!("old_messages.tbl"))));
    &TYPES
}

impl BuiltIn {
    /// The type with this OpenAPI definition name.
    pub(super) fn find(&self, definition: &str) -> Option<DefinitionId> {
        self.by_name.get(definition).copied()
    }
}

/// Reads the format that the head of `messages.py` describes. The file is part of the program, so
/// anything else in it is a fault of the build.
fn parse(text: &'static str) -> BuiltIn {
    let mut types = Types::default();
    let names = text.lines().filter_map(|line| line.strip_prefix('@'));
    let by_name: HashMap<_, _> = names.map(|name| (name, types.define(name.into(), nature(name)))).collect();
    let mut current = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('@') {
            Some(name) => current = by_name.get(name).copied(),
            None => {
                let field = field(line, &mut types, &by_name);
                types.get_mut(current.expect("the table starts with a message")).fields.push(field);
            }
        }
    }
    BuiltIn { types: Arc::new(types), by_name }
}

fn field(line: &'static str, types: &mut Types, by_name: &HashMap<&str, DefinitionId>) -> Field {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("a short line in the table: {line}"));
    let number = next().parse().unwrap_or_else(|_| panic!("no field number: {line}"));
    let name = next().into();
    let type_ = next();
    let one = match type_.trim_start_matches("[]").trim_start_matches("{}") {
        "s" => Type::Text,
        "b" => Type::Bool,
        "i" => Type::Int32,
        "l" => Type::Int64,
        "f" => Type::Float,
        "y" => Type::Bytes,
        other => Type::Defined(*by_name.get(other).unwrap_or_else(|| panic!("no message: {line}"))),
    };
    let type_ = match type_.get(..2) {
        Some("[]") => Type::List(types.add(one.into())),
        Some("{}") => Type::Map(types.add(one.into())),
        _ => one,
    };
    let slot = Slot::from(type_);
    let mut field =
        Field { name, number, slot, by_value: false, drop_zero: false, optional: false, embedded: false };
    let mut merge = Merge::default();
    for mark in words {
        match mark.split_once('=') {
            Some(("p", strategy)) => merge.patch_strategy = strategy.into(),
            Some(("k", key)) => merge.patch_key = key.into(),
            Some(("l", list)) => {
                let (list, keys) = list.split_once(':').unwrap_or((list, ""));
                merge.list_type = list.into();
                merge.list_keys = keys.split_terminator(',').map(Text::from).collect();
            }
            _ if mark == "?" => (field.by_value, field.drop_zero) = (true, true),
            _ if mark == "v" => field.by_value = true,
            _ if mark == "o" => field.optional = true,
            _ if mark == "~" => field.embedded = true,
            _ => panic!("unknown mark {mark}: {line}"),
        }
    }
    if merge != Merge::default() {
        field.slot.merge = Some(Box::new(merge));
    }
    field
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
        let id = built_in().find(definition).expect(definition);
        built_in().types.field(id, name).unwrap_or_else(|| panic!("{definition}.{name}"))
    }

    #[test]
    fn embedded_structs_are_looked_into() {
        assert_eq!(field("io.k8s.api.core.v1.Probe", "httpGet").number, 2);
        assert_eq!(field("io.k8s.api.core.v1.ConfigMapKeySelector", "name").slot.type_, Type::Text);
        let mounts = field("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts");
        assert_eq!(mounts.slot.merge.as_ref().unwrap().patch_key, "mountPath");
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
            let merge = field(definition, name).slot.merge.as_deref();
            let found = merge.map(|merge| (&*merge.patch_strategy, &*merge.patch_key)).unwrap_or_default();
            assert_eq!(found, (strategy, key), "{definition}.{name}");
        }
    }
}
