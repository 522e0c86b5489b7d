//! The rules of a kind that has a Rust type, and how they become the [`Rules`] of its row.
//!
//! Asked by the write pipeline through [`Rules`]; implemented by one type per kind file. It never
//! reads a clock, another object or the store; what needs those is a stage's.

use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use proa_api::Refusal;
use proa_api::field::FieldErrors;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};
use serde_json::{Map, Value};

use super::meta::{self, NameFormat};
use super::{Kind, Part, Proposal, Rules, Subresource, Write, canonical, decode};
use crate::schema::Schema;

const STATUS: &str = "status";

/// The rules of one kind that has a Rust type.
///
/// Every method has a default that asks nothing, so a kind states only what is special to it.
pub trait TypedRules: Send + Sync + 'static {
    /// The kind's Rust type.
    type Object: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Send;

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

    /// What is wrong with an object only when it is new; [`TypedRules::validate`] has seen it already.
    fn validate_create(_object: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with the change itself; [`TypedRules::validate`] has seen `new` already.
    fn validate_update(_old: &Self::Object, _new: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with a change of the status.
    fn validate_status_update(_old: &Self::Object, _new: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with a change of what another subresource owns.
    fn validate_part_update(
        _name: &str,
        _old: &Self::Object,
        _new: &Self::Object,
        _errors: &mut FieldErrors,
    ) {
    }
}

/// A row with what the kind's Rust type says of it; the kind's file fills in the rest.
pub fn row<R: TypedRules>() -> Kind {
    let status = match (R::HAS_STATUS, R::CREATES_WITH_STATUS) {
        (false, _) => None,
        (true, false) => Some(Subresource::status()),
        (true, true) => Some(Subresource::status().and_at_create()),
    };
    let schema = Schema::built_in(R::Object::API_VERSION, R::Object::KIND);
    let schema = schema.expect("the table holds every built-in kind");
    Kind {
        namespaced: R::NAMESPACED,
        subresources: status.into_iter().collect(),
        ..Kind::new(
            (R::Object::GROUP, R::Object::VERSION),
            (R::Object::KIND, R::Object::URL_PATH_SEGMENT),
            schema.clone(),
            Arc::new(Typed::<R> { schema, rules: PhantomData }),
        )
    }
}

/// The rules of `R` with its type erased.
struct Typed<R> {
    schema: Schema,
    rules: PhantomData<R>,
}

impl<R: TypedRules> Rules for Typed<R> {
    fn tidy(&self, object: Value) -> Result<Value, Refusal> {
        let mut object = body::<R>(object)?;
        canonical::said(&self.schema, &mut object)
            .map_err(|error| decode::refusal::<R::Object>(&error.to_string()))?;
        Ok(Value::Object(object))
    }

    fn decode(&self, write: Write<'_>, object: Value) -> Result<Box<dyn Proposal>, Refusal> {
        let what = match write {
            Write::Create => What::Create,
            Write::Update(old, Part::Main) => What::Main(stored::<R>(old)?),
            Write::Update(old, Part::Sub(name)) => What::Part(name.to_string(), stored::<R>(old)?),
            Write::Connect(old) => What::Connect(stored::<R>(old)?),
        };
        let new = decode::decode::<R::Object>(object)?;
        Ok(Box::new(TypedProposal::<R> { schema: self.schema.clone(), what, new }))
    }
}

/// What is written, with what is there.
enum What<T> {
    Create,
    Main(T),
    Part(String, T),
    Connect(T),
}

/// A decoded object.
struct TypedProposal<R: TypedRules> {
    schema: Schema,
    what: What<R::Object>,
    new: R::Object,
}

impl<R: TypedRules> Proposal for TypedProposal<R> {
    fn default(&mut self) {
        if matches!(self.what, What::Create | What::Main(_)) {
            R::default(&mut self.new);
        }
    }

    fn prepare(&mut self) {
        let new = &mut self.new;
        match &self.what {
            What::Create => {
                meta::prepare_create(new.metadata_mut());
                R::prepare_create(new);
            }
            What::Main(old) => {
                meta::prepare_update(old.metadata(), new.metadata_mut());
                R::prepare_update(old, new);
            }
            What::Part(name, old) => {
                meta::prepare_update(old.metadata(), new.metadata_mut());
                if name == STATUS {
                    R::prepare_status_update(old, new);
                }
            }
            What::Connect(_) => {}
        }
    }

    fn validate(&self) -> Result<(), Refusal> {
        let (new, mut errors) = (&self.new, FieldErrors::new());
        match &self.what {
            What::Create => {
                meta::validate(new.metadata(), R::NAME, R::NAMESPACED, &mut errors);
                R::validate(new, &mut errors);
                R::validate_create(new, &mut errors);
            }
            What::Main(old) | What::Part(_, old) | What::Connect(old) => {
                meta::validate_update(old.metadata(), new.metadata(), &mut errors);
            }
        }
        match &self.what {
            What::Main(old) => {
                R::validate(new, &mut errors);
                R::validate_update(old, new, &mut errors);
            }
            What::Part(name, old) if name == STATUS => R::validate_status_update(old, new, &mut errors),
            What::Part(name, old) => R::validate_part_update(name, old, new, &mut errors),
            What::Create | What::Connect(_) => {}
        }
        if errors.is_empty() {
            return Ok(());
        }
        let name = new.metadata().name.as_deref().unwrap_or_default();
        Err(Refusal::invalid(R::Object::GROUP, R::Object::KIND, name, &errors))
    }

    fn value(&self) -> Result<Value, Refusal> {
        serde_json::to_value(&self.new).map_err(Refusal::internal)
    }

    fn stored(&self) -> Result<Value, Refusal> {
        let mut value = self.value()?;
        if let Some(object) = value.as_object_mut() {
            canonical::stored(&self.schema, object);
        }
        Ok(value)
    }
}

/// The body as an object that says which kind it is: clients may leave that to the path.
fn body<R: TypedRules>(object: Value) -> Result<Map<String, Value>, Refusal> {
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

/// Decodes what the store holds, which went through these rules when it was written.
fn stored<R: TypedRules>(object: &Value) -> Result<R::Object, Refusal> {
    R::Object::deserialize(object)
        .map_err(|error| Refusal::internal(format!("a stored {} does not decode: {error}", R::Object::KIND)))
}

/// Takes objects as they are: those of a view, which are judged in the form that is stored.
pub struct Unruled;

impl Rules for Unruled {
    fn tidy(&self, object: Value) -> Result<Value, Refusal> {
        Ok(object)
    }

    fn decode(&self, _write: Write<'_>, object: Value) -> Result<Box<dyn Proposal>, Refusal> {
        Ok(Box::new(AsItIs(object)))
    }
}

struct AsItIs(Value);

impl Proposal for AsItIs {
    fn default(&mut self) {}

    fn prepare(&mut self) {}

    fn validate(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn value(&self) -> Result<Value, Refusal> {
        Ok(self.0.clone())
    }

    fn stored(&self) -> Result<Value, Refusal> {
        Ok(self.0.clone())
    }
}
