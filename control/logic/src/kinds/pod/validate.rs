//! What is wrong with a pod's spec.

use k8s_openapi::api::core::v1::PodSpec;
use proa_api::field::{FieldErrors, Path};

/// What is wrong with a pod's spec.
pub fn spec(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.containers.is_empty() {
        errors.required(&path.field("containers"), "");
    }
}
