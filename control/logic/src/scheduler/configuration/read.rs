//! Reading of JSON objects field by field, so that what nobody has asked for is refused by name.

use serde_json::{Map, Value};

/// Fields of the stock configuration that Proa has no use for.
const UNSUPPORTED: [&str; 9] = [
    "parallelism",
    "leaderElection",
    "clientConnection",
    "metricsBindAddress",
    "healthzBindAddress",
    "enableProfiling",
    "enableContentionProfiling",
    "extenders",
    "delayCacheUntilActive",
];

/// The fields of an object, and which of them have been read.
pub struct Fields<'a> {
    fields: &'a Map<String, Value>,
    path: String,
    read: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which is at `path`.
    pub fn of(value: &'a Value, path: &str) -> Result<Self, String> {
        match value.as_object() {
            Some(fields) => Ok(Fields { fields, path: path.to_owned(), read: Vec::new() }),
            None if path.is_empty() => Err("the configuration must be an object".to_owned()),
            None => Err(format!("{path}: Invalid value: must be an object")),
        }
    }

    /// The path of a field.
    pub fn path(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// A field as it is; absent and null are the same.
    pub fn object(&mut self, field: &'static str) -> Option<(&'a Value, String)> {
        self.read.push(field);
        let value = self.fields.get(field).filter(|v| !v.is_null())?;
        Some((value, self.path(field)))
    }

    /// A text.
    pub fn text(&mut self, field: &'static str) -> Result<Option<String>, String> {
        let Some((value, path)) = self.object(field) else { return Ok(None) };
        let text =
            value.as_str().ok_or_else(|| format!("{path}: Invalid value: {value}: must be a string"))?;
        Ok(Some(text.to_owned()).filter(|t| !t.is_empty()))
    }

    /// An integer from `least` to `most`; else `why` it is wrong.
    pub fn number(
        &mut self,
        field: &'static str,
        least: i64,
        most: i64,
        why: &str,
    ) -> Result<Option<i64>, String> {
        let Some((value, path)) = self.object(field) else { return Ok(None) };
        match value.as_i64().filter(|n| (least..=most).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{path}: Invalid value: {value}: {why}")),
        }
    }

    /// True or false.
    pub fn flag(&mut self, field: &'static str) -> Result<Option<bool>, String> {
        let Some((value, path)) = self.object(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("{path}: Invalid value: {value}: must be a boolean"))
    }

    /// The items of a list, each with its path.
    pub fn list(&mut self, field: &'static str) -> Result<Vec<(&'a Value, String)>, String> {
        let Some((value, path)) = self.object(field) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| format!("{path}: Invalid value: must be an array"))?;
        Ok(items.iter().enumerate().map(|(i, item)| (item, format!("{path}[{i}]"))).collect())
    }

    /// The texts of a list.
    pub fn texts(&mut self, field: &'static str) -> Result<Vec<String>, String> {
        let items = self.list(field)?.into_iter();
        items
            .map(|(item, path)| match item.as_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(format!("{path}: Invalid value: {item}: must be a string")),
            })
            .collect()
    }

    /// Refuses what has not been read.
    pub fn nothing_more(&self) -> Result<(), String> {
        match self.fields.keys().find(|field| !self.read.contains(&field.as_str())) {
            Some(field) if self.path.is_empty() && UNSUPPORTED.contains(&field.as_str()) => {
                Err(format!("{field}: Forbidden: not supported by Proa's scheduler"))
            }
            Some(field) => Err(format!("{}: Forbidden: unknown field", self.path(field))),
            None => Ok(()),
        }
    }
}
