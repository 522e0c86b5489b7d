//! Request bodies: bytes in one of three encodings to JSON values, and what strict clients want to
//! know about them.
//!
//! Fed by the HTTP layer, which has checked the body's size and read it whole. Its results go to
//! the registry. It knows the shape of the built-in types ([`crate::schema`]) but no rule of any
//! kind: defaults and validation come later. It never panics, whatever the bytes.

mod budget;
mod build;
mod decoded;
mod depth;
mod fields;
mod protobuf;
mod words;
mod yaml;

use proa_api::Refusal;
use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::schema::Schema;

pub(crate) use budget::{Budget, MAX_WEIGHT, too_heavy, weight};
use build::Builder;
pub use decoded::Decoded;
pub(crate) use decoded::json_value;
pub use depth::MAX_DEPTH;
pub(crate) use depth::deeper_than;
pub use fields::{UnknownField, unknown_fields};

/// The media types of request bodies.
pub const MEDIA_TYPES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// 400 with what [`Decoded::complaints`] gave, for `fieldValidation=Strict`.
pub fn strict_refusal(version: &str, kind: &str, complaints: &[String]) -> Refusal {
    Refusal::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
        complaints.join(", "),
    ))
}

/// Decodes a request body. An empty media type is JSON.
///
/// Refuses with 415 what is in another encoding and with 400 what is malformed, deeper than
/// [`MAX_DEPTH`], or grows when its YAML aliases are followed; with 413 what has too many values,
/// however few bytes they are.
pub fn decode(media_type: &str, body: &[u8]) -> Result<Decoded, Refusal> {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/json" => json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf(body),
        _ => Err(Refusal::unsupported_media_type(&MEDIA_TYPES)),
    }
}

/// Fills `apiVersion` and `kind` where a body left them out; refuses another kind's object with the
/// words of the stock server.
pub fn expect_kind(api_version: &str, kind: &str, value: &mut Value) -> Result<(), Refusal> {
    let Some(object) = value.as_object_mut() else {
        return Err(Refusal::bad_request("the body of the request is not an object"));
    };
    let text = |object: &serde_json::Map<String, Value>, key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Refusal::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go struct field .{key} of type string"
        ))),
    };
    let (found_version, found_kind) = (text(object, "apiVersion")?, text(object, "kind")?);
    let said_version = if found_version.is_empty() { api_version } else { &found_version };
    let said_kind = if found_kind.is_empty() { kind } else { &found_kind };
    // DeleteOptions belong to every group version.
    if said_kind != kind || said_version != api_version && kind != "DeleteOptions" {
        return Err(another_kind((api_version, kind), (said_version, said_kind)));
    }
    if found_kind.is_empty() {
        object.insert("kind".to_owned(), kind.into());
    }
    if found_version.is_empty() {
        object.insert("apiVersion".to_owned(), api_version.into());
    }
    Ok(())
}

/// 400 for an object of another kind or version, in the words of the stock server.
fn another_kind(expected: (&str, &str), said: (&str, &str)) -> Refusal {
    let ((api_version, kind), (said_version, said_kind)) = (expected, said);
    let version = said_version.rsplit('/').next().unwrap_or(said_version);
    let is_known = Schema::built_in(said_version, said_kind).is_some();
    let why = if !is_known {
        format!(
            "no kind \"{said_kind}\" is registered for version \"{said_version}\" in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\""
        )
    } else if said_kind == kind {
        return Refusal::bad_request(format!(
            "the API version in the data ({said_version}) does not match the expected API version ({api_version})"
        ));
    } else {
        let package = match api_version.split_once('/') {
            Some((group, _)) => group.split('.').next().unwrap_or(group),
            None => "core",
        };
        format!("converting ({version}.{said_kind}) to ({package}.{kind}): unknown conversion")
    };
    Refusal::bad_request(format!("{said_kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

fn json(body: &[u8]) -> Result<Decoded, Refusal> {
    let budget = Budget::new();
    let malformed = |e| Refusal::bad_request(format!("couldn't get version/kind; json parse error: {e}"));
    object(json_value(body, &budget).map_err(|e| budget.refusal(|| malformed(e)))?)
}

fn yaml(body: &[u8]) -> Result<Decoded, Refusal> {
    let malformed = |e| Refusal::bad_request(format!("error converting YAML to JSON: yaml: {e}"));
    let budget = Budget::new();
    yaml::check(body, &budget).map_err(|e| budget.refusal(|| malformed(e)))?;
    let mut duplicate_fields = Vec::new();
    // Without aliases a document yields no more nodes and text than it has bytes.
    let budget = Budget::of_yaml(body.len());
    let value = Builder::new(&mut duplicate_fields, &budget)
        .with_merge_keys()
        .deserialize(serde_yaml::Deserializer::from_slice(body))
        .map_err(|e| budget.refusal(|| malformed(e.to_string())))?;
    object(Decoded { value, duplicate_fields, bytes: budget.spent_bytes(), yaml: true })
}

fn protobuf(body: &[u8]) -> Result<Decoded, Refusal> {
    let budget = Budget::new();
    let value = protobuf::envelope(body, &budget).map_err(|e| budget.refusal(|| Refusal::bad_request(e)))?;
    Ok(Decoded { value, duplicate_fields: Vec::new(), bytes: budget.spent_bytes(), yaml: false })
}

fn object(decoded: Decoded) -> Result<Decoded, Refusal> {
    let found = match &decoded.value {
        Value::Object(_) => return Ok(decoded),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    Err(Refusal::bad_request(format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into an object with apiVersion and kind"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[track_caller]
    fn refused(media_type: &str, body: &str, text: &str) {
        let refusal = decode(media_type, body.as_bytes()).expect_err("refused");
        assert!(refusal.to_string().contains(text), "{refusal}");
        assert!(matches!(refusal.code(), 400 | 415));
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let json = decode(
            "application/json; charset=utf-8",
            br#"{"kind":"Pod","a":[1,-2,3.5,18446744073709551615,true,null,"x"]}"#,
        );
        let yaml =
            decode("application/yaml", b"kind: Pod\na: [1, -2, 3.5, 18446744073709551615, true, null, x]\n");
        assert_eq!(json.expect("json").value, yaml.expect("yaml").value);
    }

    #[test]
    fn duplicate_keys_are_named_and_the_last_counts() {
        let body = br#"{"spec":{"replicas":1,"replicas":2,"list":[{},{"a":1,"a":1}]},"spec2":1}"#;
        let decoded = decode("", body).expect("decodes");
        assert_eq!(decoded.duplicate_fields, ["spec.replicas", "spec.list[1].a"]);
        assert_eq!(decoded.value["spec"]["replicas"], 2);
        let decoded = decode("text/yaml", b"a: 1\na: 2\n").expect("decodes");
        assert_eq!(decoded.duplicate_fields, ["a"]);
    }

    #[test]
    fn malformed_bodies_are_refused() {
        refused(
            "application/json",
            "",
            "couldn't get version/kind; json parse error: unexpected end of JSON input",
        );
        refused("application/json", "{", "unexpected end of JSON input");
        refused(
            "application/json",
            "{]",
            "couldn't get version/kind; json parse error: key must be a string",
        );
        refused("application/json", "{} x", "trailing characters");
        refused("application/json", "[]", "cannot unmarshal array");
        refused("application/yaml", "a: [", "error converting YAML to JSON");
        refused("application/yaml", "a: 1\n---\nb: 1\n", "more than one document");
        refused("application/yaml", "a: .nan\n", "not a JSON number");
        refused("application/cbor", "{}", "accepted media types include: application/json");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = |n: usize| format!("{}{}", "{\"a\":".repeat(n), "1".to_owned() + &"}".repeat(n));
        assert!(decode("", deep(MAX_DEPTH - 1).as_bytes()).is_ok());
        refused("", &deep(MAX_DEPTH + 1), "nested deeper than 100 levels");
        refused("", &"[".repeat(1_000_000), "nested deeper");
        refused("application/yaml", &"[".repeat(100_000), "nested deeper");
        refused("application/yaml", &deep(MAX_DEPTH + 1), "nested deeper");
        // Would take the parser half a gigabyte.
        refused("application/yaml", &"[".repeat(3 << 20), "nested deeper");
        refused("application/yaml", &"- ".repeat(1 << 20), "nested deeper");
        // Would take the parser minutes, as it looks at all that is open for each number. In texts and
        // comments nothing is closed.
        for level in ["{a: [", "{\"]}\": [", "{']}': [", "{a: [ # ]}\n"] {
            let deep = format!("{}{}", level.repeat(4900), "1,".repeat(400_000));
            refused("application/yaml", &deep, "nested deeper");
        }
        let directives: String = (0..100_000).map(|n| format!("%TAG !{n}! ]\n")).collect();
        refused("application/yaml", &format!("{directives}---\na: 1\n"), "too many %TAG directives");
    }

    /// Brackets in texts are no nesting, and marks in texts are no nodes.
    #[test]
    fn yaml_may_hold_any_text() {
        let text = "^[1m- a: b,\n    ".repeat(100_000);
        let body = format!("kind: ConfigMap\ndata:\n  log: |\n    {text}\n");
        let decoded = decode("application/yaml", body.as_bytes()).expect("decodes");
        assert!(decoded.value["data"]["log"].as_str().is_some_and(|log| log.len() > 1_000_000));
    }

    #[test]
    fn few_bytes_do_not_become_many_values() {
        let objects = format!("{{\"spec\":{{\"volumes\":[{}{{}}]}}}}", "{},".repeat(100_000));
        let numbers = format!("{{\"a\":[{}1]}}", "1,".repeat(MAX_WEIGHT));
        let volume = [0x0a, 0];
        let envelope = |volumes: usize| {
            // A Pod's spec with empty volumes, each a message of two bytes.
            let length = |n: usize| [n as u8 & 0x7f | 0x80, (n >> 7) as u8 & 0x7f | 0x80, (n >> 14) as u8];
            let spec = volume.repeat(volumes);
            let raw = [&[0x12][..], &length(spec.len()), &spec].concat();
            let head = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12";
            [&head[..], &length(raw.len()), &raw].concat()
        };
        let [few, many] = [10_000, 100_000].map(envelope);
        let decoded = decode(MEDIA_TYPES[2], &few).expect("decodes");
        assert_eq!(decoded.value["spec"]["volumes"].as_array().map(Vec::len), Some(10_000));
        let heavy = [
            ("application/json", objects.as_bytes()),
            ("application/json", numbers.as_bytes()),
            ("application/yaml", objects.as_bytes()),
            ("application/yaml", numbers.as_bytes()),
            (MEDIA_TYPES[2], &many),
        ];
        for (media_type, body) in heavy {
            let refusal = decode(media_type, body).expect_err("refused");
            assert_eq!(refusal.code(), 413, "{media_type}: {refusal}");
            assert!(refusal.to_string().contains("too many values"), "{refusal}");
        }
    }

    /// As many values as fit into what can be stored.
    #[test]
    fn large_objects_are_decoded() {
        let list = |one: &str| {
            format!("{{\"spec\":[{}{one}]}}", format!("{one},").repeat(1_572_864 / (one.len() + 1) - 10))
        };
        for one in
            ["1.5", "\"\"", "\"10.0.0.0/8\"", r#"{"name":"A","value":"1"}"#, r#"{"cidr":"10.0.0.0/8"}"#]
        {
            let body = list(one);
            assert!(body.len() > 1_500_000);
            let decoded = decode("", body.as_bytes()).expect(one);
            assert!(decoded.bytes < 48 << 20, "{}", decoded.bytes);
        }
        let map = format!("kind: ConfigMap\ndata:\n  a: {}\n", "x".repeat(1_500_000));
        assert!(decode("text/yaml", map.as_bytes()).expect("decodes").bytes < 1 << 10);
    }

    #[test]
    fn yaml_aliases_are_followed_but_may_not_explode() {
        let decoded =
            decode("application/yaml", b"x: &x {a: 1}\ny: *x\nz: {<<: *x, b: 2}\n").expect("decodes");
        assert_eq!(decoded.value, json!({"x": {"a": 1}, "y": {"a": 1}, "z": {"b": 2, "a": 1}}));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        refused("application/yaml", &bomb, "excessive aliasing");
        let wide = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(1000));
        refused("application/yaml", &wide, "excessive aliasing");
    }

    #[test]
    fn kinds_are_filled_in_or_refused() {
        let mut value = json!({"metadata": {}});
        expect_kind("apps/v1", "Deployment", &mut value).expect("fills");
        assert_eq!(value["apiVersion"], "apps/v1");
        let refusal = expect_kind("v1", "Pod", &mut value).expect_err("another kind");
        assert_eq!(
            refusal.to_string(),
            "Deployment in version \"v1\" cannot be handled as a Pod: converting (v1.Deployment) to (core.Pod): \
             unknown conversion"
        );
        let refusal = expect_kind("apps/v2", "Deployment", &mut value).expect_err("another version");
        assert_eq!(
            refusal.to_string(),
            "the API version in the data (apps/v1) does not match the expected API version (apps/v2)"
        );
        let mut unknown = json!({"apiVersion": "v2", "kind": "Pot"});
        assert_eq!(
            expect_kind("v1", "Pod", &mut unknown).expect_err("nobody's kind").to_string(),
            "Pot in version \"v2\" cannot be handled as a Pod: no kind \"Pot\" is registered for version \"v2\" \
             in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
        assert!(expect_kind("v1", "Pod", &mut json!({"kind": 1})).is_err());
        let mut options = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions"});
        expect_kind("v1", "DeleteOptions", &mut options).expect("of any group version");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(media_type in 0usize..3, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(MEDIA_TYPES[media_type], &body);
        }

        #[test]
        fn no_text_makes_it_panic(body in "[\\[\\]{}:,\"a1&*<\\- \n|>!%@#]{0,80}") {
            let _ = decode(MEDIA_TYPES[0], body.as_bytes());
            let _ = decode(MEDIA_TYPES[1], body.as_bytes());
        }
    }
}
