//! How indexes of one kind know its objects.

/// The namespace and the name of an object; the namespace is empty for one that is in none.
pub type NamespacedName = (String, String);
