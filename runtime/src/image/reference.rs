//! Names of images.

use std::net::Ipv6Addr;

use oci_client::Reference;

use super::error::ImageError;

const DOCKER_HUB: &str = "docker.io";
/// The longest path of a repository.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// The full form of an image's name: `nginx` is `docker.io/library/nginx:latest`.
pub fn normalize(name: &str) -> Result<String, ImageError> {
    parse(name).map(|reference| reference.whole())
}

/// The repository of a full name: without tag and digest.
pub(super) fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    // A colon after the last slash begins the tag; one before it, a port.
    match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => &name[..at],
        _ => name,
    }
}

/// A name in its parts.
///
/// The grammar is that of <https://pkg.go.dev/github.com/distribution/reference>. The parser that comes with
/// the type keeps a regular expression of 7 MB for the life of the program.
pub(super) fn parse(name: &str) -> Result<Reference, ImageError> {
    parts(name).ok_or_else(|| ImageError::InvalidName(name.to_owned()))
}

fn parts(text: &str) -> Option<Reference> {
    let (text, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let path = repository(text);
    let tag = text[path.len()..].strip_prefix(':');
    let is_host = |first: &str| {
        let capital = |c: char| c.is_ascii_uppercase();
        first.contains(['.', ':']) || first.contains(capital) || first == "localhost"
    };
    let (registry, path) = match path.split_once('/').filter(|(first, _)| is_host(first)) {
        Some(("index.docker.io", rest)) => (DOCKER_HUB, rest),
        Some((host, rest)) => (host, rest),
        None => (DOCKER_HUB, path),
    };
    // `a_b.example` is no host name, but it is a path like any other, and so it is let through everywhere.
    let valid = (is_registry(registry) || is_path_component(registry))
        && path.split('/').all(is_path_component)
        && path.len() <= NAME_MAX
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !valid {
        return None;
    }
    let path = match registry == DOCKER_HUB && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    let registry = registry.to_owned();
    Some(match (tag, digest) {
        (tag, None) => Reference::with_tag(registry, path, tag.unwrap_or("latest").to_owned()),
        (None, Some(digest)) => Reference::with_digest(registry, path, digest.to_owned()),
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, path, tag.to_owned(), digest.to_owned())
        }
    })
}

/// A host name or an address, with or without a port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    is_host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Small letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(word).filter(|separator| !separator.is_empty());
    text.starts_with(word)
        && text.ends_with(word)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b".-".contains(&b))
}

fn is_digest(text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let (digits, length) = match text.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha384", hex)) => (hex, 96),
        Some(("sha512", hex)) => (hex, 128),
        _ => return false,
    };
    digits.len() == length && hex(digits)
}

/// True for registries that are spoken to without TLS: those on this machine, as everywhere, and
/// those that the administrator names.
pub(super) fn is_plain(registry: &str, insecure: &[String]) -> bool {
    is_loopback(registry) || insecure.iter().any(|named| named == registry)
}

/// Takes a name for the list of registries without TLS.
pub fn insecure_registry(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    match !text.is_empty() && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("a registry is HOST or HOST:PORT, as in the names of its images".to_owned()),
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_one_full_form() {
        let full = |name: &str| normalize(name).unwrap();
        assert_eq!(full("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(full("me/app:1"), "docker.io/me/app:1");
        assert_eq!(full("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(full("Build/a"), "Build/a:latest");
        for wrong in ["", "UPPER", "a b", "[::1/a", "r.example:port/a", "a:tag:tag", "a@b@c", "[x]/a"] {
            assert!(normalize(wrong).is_err(), "{wrong}");
        }
    }

    /// A name as people write them, or one nearly so.
    fn names() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("a"),
            Just("b2"),
            Just("."),
            Just("_"),
            Just("__"),
            Just("-"),
            Just("--"),
            Just("/"),
            Just(":"),
            Just(":5000"),
            Just("@"),
            Just("localhost"),
            Just("index.docker.io"),
            Just("docker.io"),
            Just("r.example"),
            Just("@sha256:"),
            Just(ZEROS),
            Just("@md5:"),
            Just(" "),
            Just("library/"),
        ];
        proptest::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
    }

    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    proptest! {
        #[test]
        fn it_reads_as_the_parser_of_the_type_does(name in names()) {
            let theirs = name.parse::<Reference>().ok().map(|reference| reference.whole());
            prop_assert_eq!(parse(&name).ok().map(|reference| reference.whole()), theirs);
        }
    }

    #[test]
    fn only_this_machine_goes_without_tls() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.0.1", "[::1]:5000"] {
            assert!(is_plain(registry, &[]), "{registry}");
        }
        for registry in ["docker.io", "10.0.0.1:5000", "localhost.example.com", "[fe80::1]:5000"] {
            assert!(!is_plain(registry, &["10.0.0.1".to_owned()]), "{registry}");
        }
        let named = insecure_registry("10.0.0.1:5000").unwrap();
        assert!(is_plain("10.0.0.1:5000", &[named]));
        assert!(insecure_registry("http://10.0.0.1:5000").is_err());
        assert!(insecure_registry("r.example/app").is_err());
    }
}
