//! The metadata that the server keeps, on the JSON of objects: names, uid, times, generation,
//! finalizers.
//!
//! Pure: time and chance are arguments. What metadata may hold is checked by the kinds' rules; here is
//! what every kind has in common before and after them.

use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::Kind;
use serde_json::{Map, Value};

/// What generated names end with: no vowels, nothing that looks like another character.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const NAME_LENGTH_MAX: usize = 63;
/// Members that only the server sets.
const KEPT: [&str; 7] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

/// A random name suffix.
pub fn suffix(mut chance: u128) -> String {
    let size = SUFFIX_ALPHABET.len() as u128;
    let mut suffix = String::new();
    for _ in 0..SUFFIX_LENGTH {
        suffix.push(char::from(SUFFIX_ALPHABET[(chance % size) as usize]));
        chance /= size;
    }
    suffix
}

/// A random (version 4) uuid.
pub fn uid(chance: u128) -> String {
    let n = (chance & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    let hex = format!("{n:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// True for a resourceVersion that says: whatever is there.
pub fn is_any_version(version: &str) -> bool {
    matches!(version, "" | "0")
}

/// A time as objects hold it: whole seconds.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A member of the metadata as text; empty if it is absent.
pub fn text<'v>(object: &'v Value, member: &str) -> &'v str {
    object["metadata"][member].as_str().unwrap_or_default()
}

/// The metadata of an object that [`shape`] has passed.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.expect("bodies without metadata are given some, and hooks keep it")
}

/// Makes sure that a body is an object with metadata, and drops what is accepted and not kept.
pub fn shape(kind: &Kind, mut body: Value) -> Result<Value, Refusal> {
    let Some(object) = body.as_object_mut() else {
        return Err(Refusal::bad_request(format!("the body is not a {} object", kind.kind)));
    };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(Refusal::bad_request("the metadata of the body is not an object"));
    };
    metadata.retain(|name, value| !value.is_null() && name != "managedFields" && name != "selfLink");
    Ok(body)
}

/// Checks what the request and the body say of the object's place, and writes the namespace in.
pub fn check_namespace(kind: &Kind, namespace: &str, body: &mut Value) -> Result<(), Refusal> {
    let said = text(body, "namespace");
    if !kind.namespaced {
        metadata(body).remove("namespace");
    } else if namespace.is_empty() {
        return Err(Refusal::bad_request("an empty namespace may not be set during creation"));
    } else if !said.is_empty() && said != namespace {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    } else {
        metadata(body).insert("namespace".to_owned(), namespace.into());
    }
    Ok(())
}

/// Refuses a body that says which version it is to be: a new object has none.
pub fn check_new(kind: &Kind, body: &Value) -> Result<(), Refusal> {
    if !text(body, "resourceVersion").is_empty() {
        return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if text(body, "name").is_empty() && text(body, "generateName").is_empty() {
        let mut errors = FieldErrors::new();
        errors.required(&Path::root("metadata").field("name"), "name or generateName is required");
        return Err(Refusal::invalid(&kind.group, &kind.kind, "", &errors));
    }
    Ok(())
}

/// The name that an object with this `generateName` gets.
pub fn generated_name(prefix: &str, chance: u128) -> String {
    let mut prefix = prefix;
    while prefix.len() > NAME_LENGTH_MAX - SUFFIX_LENGTH {
        let cut = prefix.char_indices().next_back().map_or(0, |(at, _)| at);
        prefix = &prefix[..cut];
    }
    format!("{prefix}{}", suffix(chance))
}

/// Gives a new object its uid, before the kind's rules: some write it elsewhere too.
pub fn set_uid(body: &mut Value, chance: u128) {
    metadata(body).insert("uid".to_owned(), uid(chance).into());
}

/// Sets what else the server sets on a new object.
pub fn finish_create(kind: &Kind, object: &mut Value, now: Timestamp) {
    let metadata = metadata(object);
    for member in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(member);
    }
    metadata.insert("creationTimestamp".to_owned(), time(now).into());
    if kind.has_generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
}

/// Refuses what would replace an object and does not say which it is: more may be missing than that.
pub fn check_named(name: &str, body: &Value) -> Result<(), Refusal> {
    match text(body, "name").is_empty() {
        false => Ok(()),
        true => Err(Refusal::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
    }
}

/// Checks that a body sent to an object's path is about that object.
pub fn check_identity(kind: &Kind, namespace: &str, name: &str, body: &mut Value) -> Result<(), Refusal> {
    let said = text(body, "name");
    if said.is_empty() {
        metadata(body).insert("name".to_owned(), name.into());
    } else if said != name {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    check_namespace(kind, namespace, body)
}

/// Refuses a body about another object of the same name, and fills in what it leaves out of what
/// only the server sets. What it says of that, the kind's hooks judge.
pub fn check_kept(kind: &Kind, old: &Value, new: &mut Value) -> Result<(), Refusal> {
    let (old_uid, new_uid) = (text(old, "uid"), text(new, "uid"));
    if !new_uid.is_empty() && new_uid != old_uid {
        let why =
            format!("Precondition failed: UID in precondition: {new_uid}, UID in object meta: {old_uid}");
        return Err(Refusal::conflict(kind.resource(), text(old, "name"), why));
    }
    let new = metadata(new);
    for member in KEPT {
        if let Some(value) = old["metadata"].get(member) {
            new.entry(member).or_insert_with(|| value.clone());
        }
    }
    Ok(())
}

/// Puts the members that only the server sets back as they are in `old`.
pub fn keep(old: &Value, new: &mut Value) {
    let new = metadata(new);
    for member in KEPT {
        match old["metadata"].get(member) {
            Some(value) => new.insert(member.to_owned(), value.clone()),
            None => new.remove(member),
        };
    }
}

/// Counts a change of anything but metadata and status.
pub fn bump_generation(kind: &Kind, old: &Value, new: &mut Value) {
    const UNCOUNTED: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];
    let counted = |object: &Value| -> Vec<(String, Value)> {
        let members = object.as_object().into_iter().flatten();
        members
            .filter(|(k, _)| !UNCOUNTED.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    if !kind.has_generation {
        return;
    }
    let (mut before, mut after) = (counted(old), counted(new));
    before.sort_by(|a, b| a.0.cmp(&b.0));
    after.sort_by(|a, b| a.0.cmp(&b.0));
    if before != after {
        next_generation(new);
    }
}

/// One more generation.
pub fn next_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    metadata(object).insert("generation".to_owned(), generation.into());
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// True if an object that is being deleted is held by nothing any more.
pub fn is_released(object: &Value) -> bool {
    let held_by_namespace = object["kind"] == "Namespace"
        && object["apiVersion"] == "v1"
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    object["metadata"]["deletionTimestamp"].is_string()
        && finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !held_by_namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_of_version_4() {
        for _ in 0..50 {
            let uid = uid(rand::random());
            assert_eq!(uid.len(), 36);
            assert_eq!(&uid[14..15], "4", "{uid}");
            assert!("89ab".contains(&uid[19..20]), "{uid}");
        }
    }

    #[test]
    fn generated_names_fit() {
        let name = generated_name("web-", rand::random());
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert!(name[4..].bytes().all(|b| SUFFIX_ALPHABET.contains(&b)));
        assert_eq!(generated_name(&"x".repeat(100), 7).len(), NAME_LENGTH_MAX);
        assert!(generated_name(&"ä".repeat(60), 7).len() <= NAME_LENGTH_MAX);
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!(time("2024-05-06T07:08:09.999Z".parse().unwrap()), "2024-05-06T07:08:09Z");
    }
}
