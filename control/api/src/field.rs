//! Field errors: what is wrong with one field of an object, in the words of the Kubernetes API.

use std::fmt;

/// The kinds of field error; their words and reasons are those of the stock API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A field that must be set is not.
    Required,
    /// The value is against the field's rules.
    Invalid,
    /// The same of a number without a sign, which the stock server writes in hexadecimal.
    InvalidUnsigned,
    /// The value is none of the allowed ones.
    NotSupported,
    /// The field may not be set, or not changed, here.
    Forbidden,
    /// A value that must be unique is there twice.
    Duplicate,
    /// What the field refers to is not there.
    NotFound,
    /// The value is longer than allowed.
    TooLong,
    /// The list is longer than allowed.
    TooMany,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Which rule.
    pub kind: FieldErrorKind,
    /// `spec.containers[0].name`.
    pub path: String,
    /// The offending value as JSON; `Null` where the kind shows none.
    pub value: serde_json::Value,
    /// The text after the value; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The reason in the `Status` cause.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid | FieldErrorKind::InvalidUnsigned => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
        }
    }

    /// The text without the path: `Invalid value: "x": must be …`.
    pub fn body(&self) -> String {
        let words = match self.kind {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid | FieldErrorKind::InvalidUnsigned => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
        };
        let mut text = words.to_owned();
        let shows_value = matches!(
            self.kind,
            FieldErrorKind::Invalid
                | FieldErrorKind::NotSupported
                | FieldErrorKind::Duplicate
                | FieldErrorKind::NotFound
                | FieldErrorKind::TooMany
        );
        if self.kind == FieldErrorKind::InvalidUnsigned {
            text.push_str(&format!(": {:#x}", self.value.as_u64().unwrap_or_default()));
        } else if shows_value {
            text.push_str(&format!(": {}", self.value));
        }
        if !self.detail.is_empty() {
            text.push_str(&format!(": {}", self.detail));
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// All that is wrong with one object, in the order in which it was found.
///
/// Displayed as the stock server does: one error bare, several in brackets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// No errors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// True while nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The errors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: FieldErrors) {
        self.0.extend(other.0);
    }

    fn push(
        &mut self,
        kind: FieldErrorKind,
        path: &Path<'_>,
        value: serde_json::Value,
        detail: impl Into<String>,
    ) {
        self.0.push(FieldError { kind, path: path.to_string(), value, detail: detail.into() });
    }

    /// `Required value: detail`.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Required, path, serde_json::Value::Null, detail);
    }

    /// `Invalid value: "value": detail`.
    pub fn invalid(
        &mut self,
        path: &Path<'_>,
        value: impl Into<serde_json::Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldErrorKind::Invalid, path, value.into(), detail);
    }

    /// `Invalid value: 0x2a: detail`.
    pub fn invalid_unsigned(&mut self, path: &Path<'_>, value: u64, detail: impl Into<String>) {
        self.push(FieldErrorKind::InvalidUnsigned, path, value.into(), detail);
    }

    /// `Unsupported value: "value": supported values: "a", "b"`.
    pub fn not_supported(
        &mut self,
        path: &Path<'_>,
        value: impl Into<serde_json::Value>,
        supported: &[&str],
    ) {
        let listed: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let detail = if listed.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", listed.join(", "))
        };
        self.push(FieldErrorKind::NotSupported, path, value.into(), detail);
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Forbidden, path, serde_json::Value::Null, detail);
    }

    /// `Duplicate value: "value"`.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<serde_json::Value>) {
        self.push(FieldErrorKind::Duplicate, path, value.into(), "");
    }

    /// `Not found: "value"`.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<serde_json::Value>) {
        self.push(FieldErrorKind::NotFound, path, value.into(), "");
    }

    /// `Not found: "value": detail`.
    pub fn not_found_among(
        &mut self,
        path: &Path<'_>,
        value: impl Into<serde_json::Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldErrorKind::NotFound, path, value.into(), detail);
    }

    /// `Too long: may not be more than max bytes`.
    pub fn too_long(&mut self, path: &Path<'_>, max_bytes: usize) {
        self.push(
            FieldErrorKind::TooLong,
            path,
            serde_json::Value::Null,
            format!("may not be more than {max_bytes} bytes"),
        );
    }

    /// `Too many: actual: must have at most max items`.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        self.push(FieldErrorKind::TooMany, path, actual.into(), format!("must have at most {max} items"));
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            many => {
                let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

/// A path to a field. Built on the stack while validation descends; it costs nothing until an
/// error is written down.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of a top-level field, such as `spec`.
    pub const fn root(field: &'a str) -> Self {
        Path { parent: None, step: Step::Field(field) }
    }

    /// `self.field`. The field may hold dots itself (`securityContext.runAsUser`).
    pub const fn field(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(field) }
    }

    /// `self[index]`.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `self[key]`, for maps.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_stock_server() {
        let spec = Path::root("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        let mut errors = FieldErrors::new();
        errors.required(&first.field("image"), "");
        assert_eq!(errors.to_string(), "spec.containers[0].image: Required value");
        errors.not_supported(&spec.field("restartPolicy"), "Sometimes", &["Always", "Never"]);
        errors.invalid(&spec.field("replicas"), -1, "must be greater than or equal to 0");
        assert_eq!(
            errors.to_string(),
            "[spec.containers[0].image: Required value, \
             spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \
             spec.replicas: Invalid value: -1: must be greater than or equal to 0]"
        );
    }
}
