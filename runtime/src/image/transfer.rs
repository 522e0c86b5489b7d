//! What a transfer from or to a registry needs, and what it tells.

use oci_client::Reference;
use serde::{Deserialize, Serialize};

/// A user name and password for one registry, or for a part of it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// `registry.example.com`, with port if not the usual one, and with the beginning of a path if
    /// they are for no more: `registry.example.com/team`. In each part of the host's name `*` stands
    /// for any text.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl Credentials {
    /// Whether they are for this repository.
    /// <https://kubernetes.io/docs/concepts/containers/images/#config-json>
    fn are_for(&self, reference: &Reference) -> bool {
        let (host, path) = self.registry.split_once('/').unwrap_or((&self.registry, ""));
        let hosts = [reference.registry(), reference.resolve_registry()];
        hosts.iter().any(|name| is_host_like(host, name)) && reference.repository().starts_with(path)
    }
}

/// Those for a repository, the closest first.
pub(super) fn fitting(reference: &Reference, all: &[Credentials]) -> Vec<Credentials> {
    let mut found: Vec<_> = all.iter().filter(|one| one.are_for(reference)).cloned().collect();
    // Backwards, a longer path comes before its beginning, and a name before a wildcard.
    found.sort_by(|a, b| b.registry.cmp(&a.registry));
    found
}

/// Part by part: a wildcard matches no dot.
fn is_host_like(pattern: &str, host: &str) -> bool {
    fn parts(host: &str) -> impl Iterator<Item = &str> {
        host.split(['.', ':'])
    }
    let as_long = parts(pattern).count() == parts(host).count();
    as_long && parts(pattern).zip(parts(host)).all(|(pattern, part)| is_like(pattern, part))
}

fn is_like(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes transferred so far.
    pub done_bytes: u64,
    /// Bytes to transfer in all.
    pub total_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference;

    #[test]
    fn credentials_are_for_hosts_and_paths() {
        for (registry, image, fits) in [
            ("r.example", "r.example/team/a:1", true),
            ("r.example/team", "r.example/team/a:1", true),
            ("r.example/team/a", "r.example/team/a:1", true),
            ("r.example/other", "r.example/team/a:1", false),
            ("r.example:5000", "r.example/a:1", false),
            ("r.example:5000/a", "r.example:5000/a:1", true),
            ("docker.io", "nginx", true),
            ("docker.io/library", "nginx", true),
            ("docker.io/mine", "nginx", false),
            ("*.example", "r.example/a:1", true),
            ("*.example", "example/a:1", false),
            ("*.example", "a.r.example/a:1", false),
            ("*.*.example/a", "a.r.example/a:1", true),
            ("*-good.example", "very-good.example/a:1", true),
            ("*-good.example", "very-bad.example/a:1", false),
            ("a*a.example", "a.example/a:1", false),
            ("a*b*c.example", "aXbYc.example/a:1", true),
            ("*.example:5000", "r.example:5000/a:1", true),
            ("*.example", "r.example:5000/a:1", false),
        ] {
            let (username, password) = (String::new(), String::new());
            let one = Credentials { registry: registry.to_owned(), username, password };
            assert_eq!(one.are_for(&reference::parse(image).unwrap()), fits, "{registry} for {image}");
        }
    }
}
