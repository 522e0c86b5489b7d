//! Decodes a body into its kind's type, and says what does not fit as the stock server does.
//!
//! The schema is walked only after decoding has failed.

use k8s_openapi::Resource;
use proa_api::Refusal;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::schema::Schema;

/// Decodes `value`; a refusal names the field that does not fit.
pub fn decode<T: Resource + DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    T::deserialize(&value).map_err(|error| {
        let schema = Schema::built_in(T::API_VERSION, T::KIND);
        let misfit = schema.and_then(|schema| schema.misfit(&value));
        refusal::<T>(&misfit.unwrap_or_else(|| error.to_string()))
    })
}

/// 400, with the kind and version that could not be read.
pub fn refusal<T: Resource>(why: &str) -> Refusal {
    Refusal::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}",
        kind = T::KIND,
        version = T::VERSION
    ))
}
