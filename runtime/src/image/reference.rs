//! Names of images.

use oci_client::Reference;

use super::error::ImageError;

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
pub(super) fn parse(name: &str) -> Result<Reference, ImageError> {
    name.parse().map_err(|_| ImageError::InvalidName(name.to_owned()))
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
    use super::*;

    #[test]
    fn names_have_one_full_form() {
        let full = |name: &str| normalize(name).unwrap();
        assert_eq!(full("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(full("me/app:1"), "docker.io/me/app:1");
        assert_eq!(full("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert!(normalize("UPPER").is_err());
        assert!(normalize("").is_err());
        assert!(normalize("a b").is_err());
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
