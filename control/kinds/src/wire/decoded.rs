//! A body as a JSON value, with what strict clients want to know about it.

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::budget::Budget;
use super::build::Builder;
use super::fields::{UnknownField, unknown, unknown_fields};
use super::words;
use crate::Kind;
use crate::schema::Schema;

/// A body as a JSON value.
#[derive(Debug)]
pub struct Decoded {
    /// An object. `apiVersion` and `kind` are those of the body; JSON and YAML may lack them, and
    /// [`super::expect_kind`] fills them.
    pub value: Value,
    /// Paths of keys that the body holds twice; the last one counts.
    pub duplicate_fields: Vec<String>,
    /// About how many bytes of memory it takes.
    pub bytes: usize,
    /// True if it was YAML, where words may mean something else than text.
    pub(super) yaml: bool,
}

impl Decoded {
    /// Reads what a YAML body says in words that mean something else than text to Kubernetes, where
    /// the kind has something else than text.
    pub fn fit_to(&mut self, kind: &Kind) {
        if self.yaml {
            words::replace(&kind.schema, &mut self.value);
        }
    }

    /// What `fieldValidation=Strict` refuses and `fieldValidation=Warn` warns of:
    /// `unknown field "spec.replica"`, `duplicate field "spec.replicas"`.
    pub fn complaints(&self, kind: &Kind) -> Vec<String> {
        self.with_duplicates(unknown_fields(kind, &self.value))
    }

    /// The same of an object that is of no kind in the table.
    pub fn complaints_by(&self, schema: &Schema) -> Vec<String> {
        self.with_duplicates(unknown(schema, &self.value))
    }

    fn with_duplicates(&self, unknown: Vec<UnknownField>) -> Vec<String> {
        let duplicate = self.duplicate_fields.iter().map(|path| format!("duplicate field \"{path}\""));
        unknown.iter().map(ToString::to_string).chain(duplicate).collect()
    }
}

/// Reads JSON that need not be an object: a body, a patch.
pub fn json_value(body: &[u8], budget: &Budget) -> Result<Decoded, String> {
    let mut duplicate_fields = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Builder::new(&mut duplicate_fields, budget)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|e| if e.is_eof() { "unexpected end of JSON input".to_owned() } else { e.to_string() })?;
    Ok(Decoded { value, duplicate_fields, bytes: budget.spent_bytes(), yaml: false })
}
