//! Foreign images: those that have nothing for this node's platform.
//!
//! Fed by [`crate::pod::image_pull`]; shown in an annotation of the Node by
//! [`crate::node::registration`], where the scheduler reads it and sends the images' pods to other
//! architectures. An image may get a manifest for this platform later, so what was found is forgotten
//! after a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use proa_api::names::ANNOTATION_FOREIGN_IMAGES;
use serde_json::json;

/// How long an image is not tried again.
const REMEMBERED: Duration = Duration::from_mins(10);
/// More are not remembered; the oldest goes first.
const MAX_IMAGES: usize = 50;

/// The images by name, and when each was last tried.
#[derive(Debug, Default)]
pub struct ForeignImages(Mutex<BTreeMap<String, Instant>>);

impl ForeignImages {
    /// An image has nothing for this platform.
    pub fn add(&self, name: &str, now: Instant) {
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        images.insert(name.to_owned(), now);
        if images.len() > MAX_IMAGES {
            let oldest = images.iter().min_by_key(|(_, tried)| **tried).map(|(name, _)| name.clone());
            oldest.and_then(|name| images.remove(&name));
        }
    }

    /// An image has something after all.
    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The names that still count, separated by commas; `None` without any.
    pub fn listed(&self, now: Instant) -> Option<String> {
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        images.retain(|_, tried| now.duration_since(*tried) < REMEMBERED);
        let names: Vec<&str> = images.keys().map(String::as_str).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// Shows them in the Node.
    pub async fn publish(&self, client: &kube::Client, node: &str) -> Result<(), kube::Error> {
        let listed = self.listed(Instant::now());
        let patch = json!({"metadata": {"annotations": {ANNOTATION_FOREIGN_IMAGES: listed}}});
        let api = Api::<Node>::all(client.clone());
        api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// True if the Node does not show what is known.
    pub fn differs(&self, node: &Node) -> bool {
        let annotations = node.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(ANNOTATION_FOREIGN_IMAGES)) != self.listed(Instant::now()).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_forgotten_after_a_while() {
        let (images, start) = (ForeignImages::default(), Instant::now());
        assert_eq!(images.listed(start), None);
        images.add("b:1", start);
        images.add("a:1", start + REMEMBERED / 2);
        assert_eq!(images.listed(start + REMEMBERED / 2).as_deref(), Some("a:1,b:1"));
        assert_eq!(images.listed(start + REMEMBERED).as_deref(), Some("a:1"));
        images.remove("a:1");
        assert_eq!(images.listed(start + REMEMBERED), None);
    }

    #[test]
    fn so_many_images_are_remembered() {
        let (images, start) = (ForeignImages::default(), Instant::now());
        for number in 0..=MAX_IMAGES {
            images.add(&format!("i:{number:02}"), start + Duration::from_secs(number as u64));
        }
        let listed = images.listed(start).unwrap();
        assert_eq!(listed.split(',').count(), MAX_IMAGES);
        assert!(!listed.contains("i:00"));
    }
}
