//! How much a body may become once it is decoded, whatever its encoding.
//!
//! Three bytes of a body may be an object, of which the kinds' types have some of 3 KiB: a pod whose
//! volumes are `{},{},…` takes a thousand times its size.

use std::cell::Cell;

use proa_api::Refusal;
use serde_json::Value;

/// What the values of one body may weigh together: no object that can be stored comes near it, unless
/// its objects have fewer than 20 bytes each.
pub(crate) const MAX_WEIGHT: usize = 1 << 20;
/// What an object weighs; any other value weighs 1.
const OBJECT_WEIGHT: usize = 12;
/// About what a JSON value takes for each of that.
const BYTES_PER_WEIGHT: usize = 32;

/// What a document may still yield.
pub(crate) struct Budget {
    weight: Cell<usize>,
    is_exceeded: Cell<bool>,
    /// Nodes and bytes of text.
    growth: Cell<usize>,
}

impl Budget {
    /// For formats in which nothing can be repeated by reference.
    pub(crate) fn new() -> Self {
        Budget { weight: Cell::new(MAX_WEIGHT), is_exceeded: Cell::new(false), growth: Cell::new(usize::MAX) }
    }

    /// For a YAML document of `len` bytes: room for anchors as people use them, not for bombs.
    pub(super) fn of_yaml(len: usize) -> Self {
        Budget { growth: Cell::new(len.saturating_mul(4).saturating_add(4096)), ..Budget::new() }
    }

    /// For one more object.
    pub(super) fn object(&self) -> Result<(), &'static str> {
        self.weigh(OBJECT_WEIGHT)
    }

    /// For one more value that is no object.
    pub(super) fn value(&self) -> Result<(), &'static str> {
        self.weigh(1)
    }

    fn weigh(&self, weight: usize) -> Result<(), &'static str> {
        let left = self.weight.get().checked_sub(weight);
        self.is_exceeded.set(self.is_exceeded.get() || left.is_none());
        self.weight.set(left.ok_or("it has too many values")?);
        Ok(())
    }

    /// For one more node with so much text, that may be there for the second time.
    pub(super) fn grow(&self, text: usize) -> Result<(), &'static str> {
        let left = self.growth.get().checked_sub(1 + text);
        self.growth.set(left.ok_or("document contains excessive aliasing")?);
        Ok(())
    }

    /// About how many bytes of memory have been spent.
    pub(super) fn spent_bytes(&self) -> usize {
        (MAX_WEIGHT - self.weight.get()) * BYTES_PER_WEIGHT
    }

    /// Why decoding has ended: 413 if the budget was the reason.
    pub(crate) fn refusal(&self, other: impl FnOnce() -> Refusal) -> Refusal {
        if self.is_exceeded.get() { too_heavy() } else { other() }
    }
}

/// 413 for what is more than [`MAX_WEIGHT`].
pub(crate) fn too_heavy() -> Refusal {
    Refusal::entity_too_large(format_args!(
        "the object has too many values: more than {MAX_WEIGHT}, of which an object counts as {OBJECT_WEIGHT}"
    ))
}

/// What a value weighs.
pub(crate) fn weight(value: &Value) -> usize {
    match value {
        Value::Object(map) => OBJECT_WEIGHT + map.values().map(weight).sum::<usize>(),
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        _ => 1,
    }
}
