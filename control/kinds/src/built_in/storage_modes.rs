//! What volumes and claims share: access modes, volume modes, sizes and how kubectl shows them.
//!
//! Read by the files of both kinds.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;
use serde_json::Value;

use crate::columns::{items, text};

/// The access modes there are, in the order in which errors list them.
pub const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// The volume modes there are.
pub const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
/// How kubectl abbreviates access modes, in its order.
const SHORT: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// What is wrong with a list of access modes.
pub fn access_modes(modes: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&mode.as_str())) {
        errors.not_supported(path, mode.as_str(), &ACCESS_MODES);
    }
    let single_pod = |mode: &&String| *mode == "ReadWriteOncePod";
    if modes.iter().any(|m| single_pod(&m)) && !modes.iter().all(|m| single_pod(&m)) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Refuses a size that is nothing or less.
pub fn positive(amount: &Quantity, path: &Path<'_>, errors: &mut FieldErrors) {
    if Amount::parse(&amount.0).is_ok_and(|amount| amount <= Amount::ZERO) {
        errors.invalid(path, amount.0.as_str(), "must be greater than zero");
    }
}

/// `RWO,ROX` of the list at a JSON pointer.
pub fn access_modes_column(object: &Value, pointer: &str) -> String {
    let has = |long: &str| items(object, pointer).any(|mode| mode == long);
    let short: Vec<&str> = SHORT.iter().filter(|(long, _)| has(long)).map(|(_, short)| *short).collect();
    short.join(",")
}

/// The name of the VolumeAttributesClass, as kubectl shows it.
pub fn attributes_class_column(object: &Value) -> &str {
    match text(object, "/spec/volumeAttributesClassName") {
        "" => "<unset>",
        name => name,
    }
}

/// `Terminating` for what is on its way out, else its phase.
pub fn deleting_or_phase(object: &Value) -> &str {
    match object.pointer("/metadata/deletionTimestamp") {
        Some(_) => "Terminating",
        None => text(object, "/status/phase"),
    }
}
