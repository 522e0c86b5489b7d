//! What is wrong with the objects that routes are made of, as users are told it.

use std::fmt;

use proa_api::namespaced_name::NamespacedName;

/// Something that is wrong with an object, or that it asks for and does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The Ingress, and its uid; none if it is a setting.
    pub about: Option<(NamespacedName, String)>,
    /// Constant.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// An annotation that is not understood and of which nothing hangs.
pub const REASON_IGNORED: &str = "AnnotationIgnored";
/// The Ingress is not served, lest it be open to whom it should not.
pub const REASON_CLOSED: &str = "IngressClosed";
/// A user whose password cannot be checked, and who is let in by none.
pub const REASON_PASSWORD: &str = "PasswordNotSupported";
/// A path that cannot match anything.
pub const REASON_PATH: &str = "InvalidPath";
/// A certificate that is missing or broken.
pub const REASON_CERTIFICATE: &str = "CertificateMissing";
/// Patterns are matched after the rules of another Ingress.
pub const REASON_BEHIND: &str = "PatternsBehindOthers";
/// There is more than is said.
pub const REASON_MORE: &str = "MoreProblems";
/// Pods of other nodes are left out.
pub const REASON_ENDPOINTS: &str = "EndpointsNotReachable";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(((namespace, name), _)) = &self.about {
            write!(f, "Ingress {namespace}/{name}: ")?;
        }
        f.write_str(&self.message)
    }
}
