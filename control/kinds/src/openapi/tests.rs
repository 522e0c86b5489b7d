//! The documents, read the way kubectl reads them.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::testing;

fn table() -> Table {
    Table::new(vec![testing::pods(), testing::nodes(), testing::deployments()])
}

fn parse(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Follows references, as `kubectl explain` does.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref")).and_then(Value::as_str);
    match reference.and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).expect("references lead somewhere"),
        None => schema,
    }
}

/// Walks `deployment.spec.template…` from the definition with the kind's extension.
fn explain<'a>(document: &'a Value, schemas: &'a Value, kind: &str, fields: &[&str]) -> &'a Value {
    let own = |schema: &&Value| schema["x-kubernetes-group-version-kind"][0]["kind"] == kind;
    let mut schema = schemas.as_object().expect("schemas").values().find(own).expect("the kind is there");
    for field in fields {
        schema = &resolve(document, schema)["properties"][field];
        if let Some(items) = schema.get("items") {
            schema = items;
        }
    }
    schema
}

#[test]
fn v2_explains_fields_and_says_how_lists_merge() {
    let document = parse(&v2(&table()).0);
    let schemas = &document["definitions"];
    let strategy = explain(&document, schemas, "Deployment", &["spec", "strategy"]);
    assert_eq!(strategy["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy");
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert!(strategy["description"].as_str().expect("docs").contains("replace existing pods"));
    let spec = resolve(&document, explain(&document, schemas, "Pod", &["spec"]));
    assert_eq!(spec["properties"]["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(spec["properties"]["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(spec["required"], serde_json::json!(["containers"]));
    assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], "int-or-string");
    assert!(schemas["io.k8s.api.core.v1.Pod"].get("required").is_none(), "metadata may be left out");
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").filter(|r| r.is_string()) {
                    resolve(document, value);
                    assert!(reference.as_str().is_some_and(|r| r.starts_with('#') && !r.contains("$defs")));
                }
                map.values().for_each(|value| walk(document, value));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(document, value)),
            _ => {}
        }
    }
    let v2 = parse(&v2(&table()).0);
    walk(&v2, &v2);
    let v3 = parse(&v3(&table(), "apps/v1").expect("served"));
    walk(&v3, &v3);
}

#[test]
fn v3_has_an_index_with_hashes_and_a_document_per_group_version() {
    let table = table();
    let index = parse(&v3_index(&table));
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("url");
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
    assert!(index["paths"]["api/v1"].is_object());
    let document = parse(&v3(&table, "apis/apps/v1").expect("served"));
    let schemas = &document["components"]["schemas"];
    let strategy = explain(&document, schemas, "Deployment", &["spec", "strategy"]);
    assert_eq!(resolve(&document, strategy)["properties"]["type"]["type"], "string");
    let image =
        explain(&document, schemas, "Deployment", &["spec", "template", "spec", "containers", "image"]);
    assert_eq!(image["type"], "string");
    assert!(schemas.get("io.k8s.api.core.v1.Node").is_none(), "only what the group version needs");
    assert!(v3(&table, "batch/v9").is_none());
}

#[test]
fn patch_operations_say_that_dry_run_and_field_validation_are_known() {
    let check = |document: &Value, path: &str| {
        let patch = &document["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        for name in ["dryRun", "fieldValidation"] {
            let known = |p: &Value| p["name"] == name && p["in"] == "query";
            assert!(patch["parameters"].as_array().expect("parameters").iter().any(known), "{name}");
        }
    };
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    check(&parse(&v2(&table()).0), path);
    let v3 = parse(&v3(&table(), "apps/v1").expect("served"));
    check(&v3, path);
    let content = &v3["paths"][path]["patch"]["requestBody"]["content"];
    assert!(content["application/strategic-merge-patch+json"].is_object());
}

/// The length-delimited fields of a protobuf message.
fn fields(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).expect("key");
        if wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes).expect("length")).expect("fits");
            let (value, rest) = bytes.split_at(length);
            found.push((number, value));
            bytes = rest;
        } else {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).expect("a field");
        }
    }
    found
}

fn field(bytes: &[u8], number: u32) -> &[u8] {
    fields(bytes).into_iter().find(|(n, _)| *n == number).expect("field").1
}

#[test]
fn the_protobuf_form_says_the_same() {
    let (json, protobuf) = v2(&table());
    let json = parse(&json);
    assert_eq!(field(&protobuf, 1), b"2.0");
    let definitions = fields(field(&protobuf, 9));
    let names: Vec<&[u8]> = definitions.iter().map(|(_, pair)| field(pair, 1)).collect();
    let expected: Vec<&[u8]> =
        json["definitions"].as_object().expect("definitions").keys().map(|k| k.as_bytes()).collect();
    assert_eq!(names, expected);

    let named = |pairs: &[(u32, &'static [u8])], name: &str| -> &'static [u8] {
        let pair = pairs.iter().find(|(_, pair)| field(pair, 1) == name.as_bytes()).expect(name).1;
        field(pair, 2)
    };
    let leaked: &'static [u8] = Box::leak(protobuf.to_vec().into_boxed_slice());
    let definitions = fields(field(leaked, 9));
    let spec = named(&definitions, "io.k8s.api.core.v1.PodSpec");
    let properties = fields(field(spec, 25));
    let containers = named(&properties, "containers");
    assert_eq!(field(field(containers, 22), 1), b"array");
    assert_eq!(field(field(field(containers, 23), 1), 1), b"#/definitions/io.k8s.api.core.v1.Container");
    let extensions: Vec<(u32, &'static [u8])> =
        fields(containers).into_iter().filter(|(n, _)| *n == 31).collect();
    assert_eq!(field(named(&extensions, "x-kubernetes-patch-merge-key"), 2), b"\"name\"");
    let paths: Vec<(u32, &'static [u8])> = fields(field(leaked, 8));
    let item = named(&paths, "/api/v1/nodes/{name}");
    let patch = field(item, 8);
    let parameters: Vec<&[u8]> = fields(patch).into_iter().filter(|(n, _)| *n == 8).map(|(_, v)| v).collect();
    assert!(parameters.iter().any(|p| field(field(field(field(p, 1), 2), 3), 4) == b"dryRun"));
}

/// What a kind's definition says and what is published of it are the same, and the samples that come
/// with it are objects of it. The definitions are other projects' and not part of this one.
#[test]
fn published_definitions_are_read_whole() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/crds");
    let Ok(projects) = std::fs::read_dir(dir) else {
        return eprintln!("SKIPPED: there are no published definitions in {dir}");
    };
    let files = projects.filter_map(|project| std::fs::read_dir(project.ok()?.path()).ok()).flatten();
    let texts = files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a text"));
    let documents: Vec<Value> = texts
        .flat_map(|text| {
            let documents = serde_yaml::Deserializer::from_str(&text);
            documents.map(|one| Value::deserialize(one).expect("YAML")).collect::<Vec<_>>()
        })
        .collect();
    // Nothing keeps them from being sent, whatever the encoding.
    for document in documents.iter().filter(|document| document.is_object()) {
        let texts = [document.to_string(), serde_yaml::to_string(document).expect("YAML")];
        for (media_type, text) in ["application/json", "application/yaml"].iter().zip(&texts) {
            let decoded = crate::wire::decode(media_type, text.as_bytes()).expect("decodes");
            assert!(decoded.bytes < 16 << 20, "{} bytes", decoded.bytes);
        }
    }
    let mut kinds = Vec::new();
    for definition in documents.iter().filter(|document| document["kind"] == "CustomResourceDefinition") {
        let spec = &definition["spec"];
        for version in spec["versions"].as_array().expect("versions") {
            let kind = custom(spec, version);
            check_published(&kind, &version["schema"]["openAPIV3Schema"]);
            kinds.push(kind);
        }
    }
    let mut samples = 0;
    for kind in &kinds {
        let own = |object: &&Value| object["apiVersion"] == kind.api_version() && object["kind"] == kind.kind;
        for object in documents.iter().filter(own) {
            assert_eq!(crate::wire::unknown_fields(kind, object), [], "{object}");
            assert_eq!(kind.schema.misfit(object), None, "{object}");
            samples += 1;
        }
    }
    assert!(kinds.len() > 50 && samples > 10, "{} kinds, {samples} samples", kinds.len());
}

fn custom(spec: &Value, version: &Value) -> Kind {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut kind = testing::pods();
    (kind.group, kind.version, kind.kind) =
        (text(&spec["group"]), text(&version["name"]), text(&spec["names"]["kind"]));
    kind.schema =
        crate::schema::Schema::custom(&kind.api_version(), &kind.kind, &version["schema"]["openAPIV3Schema"]);
    kind
}

fn check_published(kind: &Kind, source: &Value) {
    /// What a type without a format is.
    fn add_formats(schema: &mut Value) {
        let format = match schema["type"].as_str() {
            Some("integer") => "int64",
            Some("number") => "double",
            _ => "",
        };
        if !format.is_empty() && schema.get("format").is_none() {
            schema["format"] = format.into();
        }
        for inner in ["items", "additionalProperties"] {
            schema.get_mut(inner).filter(|inner| inner.is_object()).map(add_formats);
        }
        schema
            .get_mut("properties")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
            .for_each(|(_, property)| add_formats(property));
    }
    let mut expected = source.clone();
    add_formats(&mut expected);
    let definitions = definitions::definitions(&[kind], Dialect::V3);
    let mut published = definitions[kind.schema.name()].clone();
    for whole in [&mut published, &mut expected] {
        whole.as_object_mut().expect("a schema").shift_remove("x-kubernetes-group-version-kind");
        // These are the same for all kinds.
        for name in ["apiVersion", "kind", "metadata"] {
            whole["properties"].as_object_mut().expect("properties").shift_remove(name);
        }
    }
    if let Some(place) = difference(&published, &expected) {
        panic!("{} is published with another {place}", kind.schema.name());
    }
}

/// Where two values first differ.
fn difference(one: &Value, other: &Value) -> Option<String> {
    let (Value::Object(one), Value::Object(other)) = (one, other) else {
        return (one != other).then(|| format!(": {one} {other}"));
    };
    let mut names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    names.find_map(|name| {
        let none = &Value::Null;
        let (one, other) = (one.get(name).unwrap_or(none), other.get(name).unwrap_or(none));
        difference(one, other).map(|rest| format!("/{name}{rest}"))
    })
}
