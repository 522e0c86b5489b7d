//! How indexes of one kind know its objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The namespace and the name of an object; the namespace is empty for one that is in none.
pub type NamespacedName = (String, String);

/// Those of this object. What is missing is empty.
pub fn of(meta: &ObjectMeta) -> NamespacedName {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
