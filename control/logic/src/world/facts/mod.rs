//! Facts: what the controllers remember of each object.
//!
//! The shell decodes each object once with [`Object::decode`]; [`super::Observed`] keeps it. Of
//! objects that there are many of ([`pod`], [`node`]) only what a rule reads is kept, because
//! tens of thousands of pods must fit a small board. Of the others, those in the list of
//! [`whole_objects`], the whole typed object is.

mod meta;
mod node;
mod object;
mod pod;
mod terms;

pub(crate) use meta::time;
pub use meta::{Key, KindName, Meta, kind_of};
pub use node::{Node, image_name};
pub(super) use object::whole_objects;
pub use object::{AccountToken, Fact, Object};
pub(crate) use pod::phase;
pub use pod::{End, JobNotes, NamedPort, Phase, Pod, Wishes};
pub use terms::{PodTerms, Spread, Term};
