//! Templates: the hash that tells one pod template from another, and shares of a number of pods.
//!
//! Read by the controllers that roll templates out.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The hash of a template, as it stands in names and labels. FNV-1a over the canonical JSON;
/// letters and digits that cannot form words.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(template).unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in json.into_iter().chain(collisions.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // Ten letters of 27 hold 47 bits.
    let mut text = String::with_capacity(10);
    for _ in 0..10 {
        text.push(char::from(LETTERS[usize::try_from(hash % 27).unwrap_or(0)]));
        hash /= 27;
    }
    text
}

/// A number, or a share of `of` in percent, rounded up or down.
pub(super) fn resolve(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let scaled = percent.max(0).saturating_mul(i64::from(of));
            let rounded = if up { scaled.saturating_add(99) / 100 } else { scaled / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}
