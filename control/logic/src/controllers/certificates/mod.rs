//! CertificateSigningRequests: those that nodes make are approved without asking anybody, approved
//! ones are signed, and old ones go.
//!
//! Rules: <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/> and
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.

mod approve;
mod clean;
mod sign;
#[cfg(test)]
mod tests;

pub use approve::reconcile as reconcile_approval;
pub use clean::reconcile as reconcile_cleaning;
pub use sign::reconcile as reconcile_signing;
