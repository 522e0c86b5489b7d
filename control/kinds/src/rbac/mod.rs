//! Role-based access control: what the objects of rbac.authorization.k8s.io allow.
//!
//! Pure. Fed by the API server with roles and bindings as they change; read by its authorizer
//! and by what keeps users from granting what they do not have. It decides by objects alone: who
//! somebody is, and who is above all rules, is the API server's to know.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>
//!
//! - [`account`]: the user names of service accounts
//! - [`attributes`]: what somebody wants to do
//! - [`rule`]: whether one rule is about it
//! - [`index`]: whether any rule that reaches somebody is
//! - [`escalation`]: whether rules cover other rules
//! - [`bootstrap`]: the roles and bindings that every cluster has

pub mod account;
pub mod attributes;
pub mod bootstrap;
pub mod escalation;
pub mod index;
pub mod rule;
#[cfg(test)]
mod tests;

pub use account::{SERVICE_ACCOUNT_PREFIX, account_groups, account_of};
pub use attributes::Attributes;
pub use index::{Index, User};

/// The group of all kinds of RBAC.
pub const GROUP: &str = "rbac.authorization.k8s.io";
