//! What one kind's rules are, and how they become the erased [`Hooks`] of its row.
//!
//! Fed by the registry through [`Hooks`]; implemented by one type per kind file. The order is that
//! of the stock server: decode → default → prepare → validate → canonical form. It never reads a
//! clock, another object or the store; what needs those is admission.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use proa_api::Refusal;
use proa_api::field::FieldErrors;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};
use serde_json::{Map, Value};

use super::meta::{self, NameFormat};
use super::{Durability, Hooks, Kind, Part, canonical, decode};
use crate::schema::{self, MessageId};

/// The rules of one kind.
///
/// Every method has a default that asks nothing, so a kind states only what is special to it.
pub trait Rules {
    /// The kind's Rust type.
    type Object: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + JsonSchema;

    /// What names of this kind look like.
    const NAME: NameFormat = NameFormat::Subdomain;
    /// False for kinds that live outside namespaces.
    const NAMESPACED: bool = true;
    /// True if `status` is a subresource.
    const HAS_STATUS: bool = false;
    /// True if a create may carry a status: nodes register themselves with theirs.
    const CREATES_WITH_STATUS: bool = false;

    /// Fills in what the API reference says of absent fields. Runs on every write of the main
    /// part and gives the same again on its own result.
    fn default(_object: &mut Self::Object) {}

    /// Clears what a client may not set on create, and sets what the server sets once.
    fn prepare_create(_object: &mut Self::Object) {}

    /// The same for a change of all but the status. `new` already has the old status.
    fn prepare_update(_old: &Self::Object, _new: &mut Self::Object) {}

    /// The same for a change of the status. `new` already has all else from `old`, but for the
    /// labels, annotations and finalizers.
    fn prepare_status_update(_old: &Self::Object, _new: &mut Self::Object) {}

    /// What is wrong with an object that is created or changed, beside its metadata.
    fn validate(_object: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with an object only when it is new; [`Rules::validate`] has seen it already.
    fn validate_create(_object: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with the change itself; [`Rules::validate`] has seen `new` already.
    fn validate_update(_old: &Self::Object, _new: &Self::Object, _errors: &mut FieldErrors) {}

    /// The same for the `approval` subresource.
    fn prepare_approval(_old: &Self::Object, _new: &mut Self::Object) {}

    /// What is wrong with a change of the status.
    fn validate_status_update(_old: &Self::Object, _new: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with a change through the `approval` subresource.
    fn validate_approval(_old: &Self::Object, _new: &Self::Object, _errors: &mut FieldErrors) {}
}

/// The rules of `R` with its type erased.
pub fn hooks<R: Rules>() -> Hooks {
    Hooks {
        default: default::<R>,
        create: create::<R>,
        update: update::<R>,
        connect: connect::<R>,
        misfit: misfit::<R>,
        schema: schema::<R>,
    }
}

/// A row with what the kind's Rust type says of it; the kind's file fills in the rest.
pub fn row<R: Rules>() -> Kind {
    Kind {
        group: R::Object::GROUP.to_owned(),
        version: R::Object::VERSION.to_owned(),
        kind: R::Object::KIND.to_owned(),
        plural: R::Object::URL_PATH_SEGMENT.to_owned(),
        singular: R::Object::KIND.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: R::NAMESPACED,
        has_generation: false,
        has_status: R::HAS_STATUS,
        scale: None,
        subresources: Vec::new(),
        unconditional_update: true,
        durability: Durability::Immediate,
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        indexed_fields: Vec::new(),
        hooks: hooks::<R>(),
        view: None,
        deprecation: None,
    }
}

fn schema<R: Rules>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<R::Object>()
}

fn misfit<R: Rules>(object: &Value) -> Option<String> {
    decode::misfit::<R::Object>(object)
}

fn default<R: Rules>(object: Value) -> Result<Value, Refusal> {
    let mut object = read::<R>(body::<R>(object)?)?;
    R::default(&mut object);
    serde_json::to_value(&object).map_err(Refusal::internal)
}

fn create<R: Rules>(object: Value) -> Result<Value, Refusal> {
    let mut object = body::<R>(object)?;
    if R::HAS_STATUS && !R::CREATES_WITH_STATUS {
        object.remove("status");
    }
    let mut object = read::<R>(object)?;
    R::default(&mut object);
    meta::prepare_create(object.metadata_mut());
    R::prepare_create(&mut object);
    let mut errors = FieldErrors::new();
    meta::validate(object.metadata(), R::NAME, R::NAMESPACED, &mut errors);
    R::validate(&object, &mut errors);
    R::validate_create(&object, &mut errors);
    finish::<R>(&object, &errors)
}

fn update<R: Rules>(old: &Value, new: Value, part: Part) -> Result<Value, Refusal> {
    let mut new = body::<R>(new)?;
    // Only what the client says: what is stored may hold defaults that look like nothing.
    tidied::<R>(&mut new)?;
    match part {
        Part::Main if R::HAS_STATUS => keep(&mut new, old, "status"),
        Part::Main => {}
        Part::Status | Part::Approval => take_status(&mut new, old),
    }
    let old = stored::<R>(old)?;
    let mut new = decode::decode::<R::Object>(Value::Object(new))?;
    let mut errors = FieldErrors::new();
    match part {
        Part::Main => {
            R::default(&mut new);
            meta::prepare_update(old.metadata(), new.metadata_mut());
            R::prepare_update(&old, &mut new);
            meta::validate_update(old.metadata(), new.metadata(), &mut errors);
            R::validate(&new, &mut errors);
            R::validate_update(&old, &new, &mut errors);
        }
        Part::Status => {
            meta::prepare_update(old.metadata(), new.metadata_mut());
            R::prepare_status_update(&old, &mut new);
            meta::validate_update(old.metadata(), new.metadata(), &mut errors);
            R::validate_status_update(&old, &new, &mut errors);
        }
        Part::Approval => {
            meta::prepare_update(old.metadata(), new.metadata_mut());
            R::prepare_approval(&old, &mut new);
            meta::validate_update(old.metadata(), new.metadata(), &mut errors);
            R::validate_approval(&old, &new, &mut errors);
        }
    }
    finish::<R>(&new, &errors)
}

fn connect<R: Rules>(old: &Value, new: Value) -> Result<Value, Refusal> {
    let old = stored::<R>(old)?;
    let new = decode::decode::<R::Object>(new)?;
    let mut errors = FieldErrors::new();
    meta::validate_update(old.metadata(), new.metadata(), &mut errors);
    finish::<R>(&new, &errors)
}

/// The body as an object that says which kind it is: clients may leave that to the path.
fn body<R: Rules>(object: Value) -> Result<Map<String, Value>, Refusal> {
    let Value::Object(mut object) = object else {
        return Err(decode::refusal::<R::Object>("json: cannot unmarshal the body into an object"));
    };
    let said = |object: &Map<String, Value>, key: &str| {
        object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (api_version, kind) = (said(&object, "apiVersion"), said(&object, "kind"));
    if !kind.is_empty() && kind != R::Object::KIND {
        return Err(Refusal::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: the object provided is unrecognized \
             (must be of type {}): {kind}",
            version_of(&api_version),
            R::Object::KIND,
            R::Object::KIND
        )));
    }
    if !api_version.is_empty() && api_version != R::Object::API_VERSION {
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            R::Object::API_VERSION
        )));
    }
    object.insert("apiVersion".to_owned(), R::Object::API_VERSION.into());
    object.insert("kind".to_owned(), R::Object::KIND.into());
    Ok(object)
}

fn version_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or(api_version, |(_, version)| version)
}

fn read<R: Rules>(mut object: Map<String, Value>) -> Result<R::Object, Refusal> {
    tidied::<R>(&mut object)?;
    decode::decode::<R::Object>(Value::Object(object))
}

fn tidied<R: Rules>(object: &mut Map<String, Value>) -> Result<(), Refusal> {
    canonical::said(message::<R>(), object).map_err(|error| decode::refusal::<R::Object>(&error.to_string()))
}

fn message<R: Rules>() -> MessageId {
    schema::message_of(R::Object::API_VERSION, R::Object::KIND).expect("the table holds every built-in kind")
}

/// Decodes what the store holds, which went through these rules when it was written.
fn stored<R: Rules>(object: &Value) -> Result<R::Object, Refusal> {
    R::Object::deserialize(object)
        .map_err(|error| Refusal::internal(format!("a stored {} does not decode: {error}", R::Object::KIND)))
}

fn keep(new: &mut Map<String, Value>, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => {
            new.insert(field.to_owned(), value.clone());
        }
        None => {
            new.remove(field);
        }
    }
}

/// All of `old` but its status, and but the metadata that a status writer may change.
fn take_status(new: &mut Map<String, Value>, old: &Value) {
    const OPEN: [&str; 4] = ["labels", "annotations", "finalizers", "resourceVersion"];
    let Some(old) = old.as_object() else { return };
    let mut result = old.clone();
    match new.remove("status") {
        Some(status) => result.insert("status".to_owned(), status),
        None => result.remove("status"),
    };
    if let (Some(Value::Object(target)), Some(Value::Object(source))) =
        (result.get_mut("metadata"), new.get_mut("metadata"))
    {
        for field in OPEN {
            match source.remove(field) {
                Some(value) => target.insert(field.to_owned(), value),
                None => target.remove(field),
            };
        }
    }
    *new = result;
}

fn finish<R: Rules>(object: &R::Object, errors: &FieldErrors) -> Result<Value, Refusal> {
    if !errors.is_empty() {
        let name = object.metadata().name.as_deref().unwrap_or_default();
        return Err(Refusal::invalid(R::Object::GROUP, R::Object::KIND, name, errors));
    }
    let mut value = serde_json::to_value(object).map_err(Refusal::internal)?;
    if let Some(object) = value.as_object_mut() {
        canonical::stored(message::<R>(), object);
    }
    Ok(value)
}
