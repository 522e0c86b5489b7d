//! What the controllers and the scheduler remember of a node.
//!
//! Made by [`super::Object::decode`], kept by [`crate::controllers::Observed`].

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use proa_api::selector::Labels;

use super::{Fact, Meta, Object, kind_of};
use crate::controllers::resources::Resources;

/// What is kept of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its metadata.
    pub meta: Arc<Meta>,
    /// Its labels.
    pub labels: Labels,
    /// Keeps pods away.
    pub taints: Vec<core::Taint>,
    /// Set by `kubectl cordon`.
    pub unschedulable: bool,
    /// What pods may use, all together.
    pub allocatable: Resources,
    /// `Ready` and others.
    pub conditions: Vec<core::NodeCondition>,
}

impl Node {
    /// The condition of this type.
    pub fn condition(&self, type_: &str) -> Option<&core::NodeCondition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }

    fn of(meta: Arc<Meta>, node: core::Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let offered = status.allocatable.or(status.capacity).unwrap_or_default();
        Node {
            meta,
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: Resources::of(&offered),
            conditions: status.conditions.unwrap_or_default(),
        }
    }
}

impl From<core::Node> for Object {
    fn from(node: core::Node) -> Self {
        let meta = Arc::new(Meta::of(&kind_of::<core::Node>(), &node.metadata));
        Object { fact: Fact::Node(Arc::new(Node::of(meta.clone(), node))), meta }
    }
}
