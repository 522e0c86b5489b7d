//! What the controllers and the scheduler remember of a node.
//!
//! Made by [`super::Object::decode`], kept by [`crate::world::Observed`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::local_path::{self, Orders, Outcomes};
use proa_api::names;
use proa_api::resources::Resources;
use proa_api::selector::Labels;

use super::meta::Meta;

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
    /// Where it says that it is.
    pub addresses: Vec<core::NodeAddress>,
    /// Addresses of its pods; empty until it is given some.
    pub pod_cidr: String,
    /// `Ready` and others.
    pub conditions: Vec<core::NodeCondition>,
    /// The images on its disk: each name in the form of [`image_name`], with the size in bytes.
    pub images: BTreeMap<Box<str>, i64>,
    /// The images that it found to have no manifest for its architecture, named likewise.
    pub foreign_images: Box<[Box<str>]>,
    /// What it is to do with directories of local paths.
    pub local_path_orders: Orders,
    /// What has become of that, by its own word.
    pub local_path_outcomes: Outcomes,
}

impl Node {
    /// The condition of this type.
    pub fn condition(&self, type_: &str) -> Option<&core::NodeCondition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }

    pub(super) fn of(meta: Arc<Meta>, node: core::Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let offered = status.allocatable.or(status.capacity).unwrap_or_default();
        Node {
            meta,
            foreign_images: foreign_images(&node.metadata),
            local_path_orders: local_path::read(annotation(&node.metadata, local_path::ANNOTATION_ORDERS)),
            local_path_outcomes: local_path::read(annotation(
                &node.metadata,
                local_path::ANNOTATION_OUTCOMES,
            )),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: Resources::of(&offered),
            addresses: status.addresses.unwrap_or_default(),
            pod_cidr: spec.pod_cidr.unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
            images: images(status.images.as_deref().unwrap_or_default()),
        }
    }
}

fn images(images: &[core::ContainerImage]) -> BTreeMap<Box<str>, i64> {
    let sized = images.iter().map(|i| (i.names.iter().flatten(), i.size_bytes.unwrap_or(0)));
    sized.flat_map(|(names, size)| names.map(move |name| (image_name(name), size))).collect()
}

fn foreign_images(meta: &ObjectMeta) -> Box<[Box<str>]> {
    let listed = annotation(meta, names::ANNOTATION_FOREIGN_IMAGES);
    let names = listed.into_iter().flat_map(|list| list.split(','));
    names.filter(|name| !name.is_empty()).map(image_name).collect()
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The full name of an image, by which a pod's and a node's are compared: with the tag that is
/// meant when none is given, and with the registry that short names belong to.
pub fn image_name(reference: &str) -> Box<str> {
    let (first, rest) = reference.split_once('/').unwrap_or(("", reference));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let mut name = match (is_registry, first) {
        (true, _) => reference.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{reference}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        name.push_str(":latest");
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::image_name;

    #[test]
    fn images_are_compared_by_their_full_names() {
        let rows = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1", "docker.io/library/nginx:1"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("host:5000/a", "host:5000/a:latest"),
            ("ghcr.io/a/b@sha256:0", "ghcr.io/a/b@sha256:0"),
        ];
        for (given, full) in rows {
            assert_eq!(&*image_name(given), full);
        }
    }
}
