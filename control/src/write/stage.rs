//! What a write passes on its way, beside its kind's own rules: the stages.
//!
//! A stage is what the stock server calls an admission plugin. It knows other objects than the one
//! that is written, and who writes it.
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::rbac::Attributes;
use proa_kinds::{Kind, Part};
use serde_json::Value;

use super::request::{Caller, WriteOptions};
use crate::store::{Settle, Store};

/// One attempt to write an object, as stages see it.
pub struct Attempt<'a> {
    /// What is there.
    pub store: &'a Store,
    /// Who writes.
    pub caller: &'a Caller,
    /// The kind that is stored.
    pub kind: &'a Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// What is done.
    pub operation: Operation,
    /// The object as it is; none for one that is made.
    pub old: Option<&'a Value>,
    /// How it is done.
    pub options: &'a WriteOptions,
    /// When.
    pub now: Timestamp,
    /// Random bits, the same for all that this attempt does.
    pub chance: u128,
}

/// What is done to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is made.
    Create,
    /// A part of it is changed by a client.
    Update(Part),
    /// The server itself changes it through this subresource: `binding`.
    Connect(&'static str),
    /// It is deleted.
    Delete,
}

/// What a stage says, now or later.
pub enum Verdict<'a> {
    /// At once.
    Now(Result<(), Refusal>),
    /// After it has asked somebody.
    Later(Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + 'a>>),
}

impl Verdict<'_> {
    /// The write may go on.
    pub const PASSED: Verdict<'static> = Verdict::Now(Ok(()));

    pub(super) async fn get(self) -> Result<(), Refusal> {
        match self {
            Verdict::Now(said) => said,
            Verdict::Later(said) => said.await,
        }
    }
}

impl From<Result<(), Refusal>> for Verdict<'_> {
    fn from(said: Result<(), Refusal>) -> Self {
        Verdict::Now(said)
    }
}

/// One stage. It is asked in the order of its methods, and may be asked again when a write that lost
/// a race is decided anew.
pub trait Stage: Send + Sync {
    /// What it is called: `NodeRestriction`.
    fn name(&self) -> &'static str;

    /// True if it has anything to say about writes of this kind.
    fn concerns(&self, kind: &Kind) -> bool;

    /// True if it changes objects of this kind: they are decoded and have their defaults when it sees
    /// them.
    fn mutates(&self, _kind: &Kind) -> bool {
        false
    }

    /// Changes a new object, or a new version of one, before its kind's rules see it.
    fn mutate<'a>(&'a self, _attempt: &'a Attempt<'_>, _new: &'a mut Value) -> Verdict<'a> {
        Verdict::PASSED
    }

    /// Judges what the kind's rules have let through.
    fn validate<'a>(&'a self, _attempt: &'a Attempt<'_>, _new: &'a Value) -> Verdict<'a> {
        Verdict::PASSED
    }

    /// Judges a delete.
    fn validate_delete<'a>(&'a self, _attempt: &'a Attempt<'_>) -> Verdict<'a> {
        Verdict::PASSED
    }

    /// What is to be decided at the moment of the commit, on what is there then. `new` is none where
    /// the object goes.
    fn settle(&self, _attempt: &Attempt<'_>, _new: Option<&Value>) -> Option<Settle> {
        None
    }
}

/// Whether a caller may do something, for stages that ask.
pub type Allows = Arc<dyn Fn(&Caller, &Attributes<'_>) -> bool + Send + Sync>;
