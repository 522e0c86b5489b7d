//! Request paths of the Kubernetes API, taken apart.
//!
//! Pure. The rules are those of
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris>.

use http::Method;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: the other groups.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`: the resources of one version; group, version.
    Resources(String, String),
    /// Objects.
    Resource(ResourcePath),
    /// Anything else, such as `/healthz`.
    Other,
}

/// A path below `/api/VERSION` or `/apis/GROUP/VERSION`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// Empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// The namespace, if the path names one.
    pub namespace: Option<String>,
    /// `pods`.
    pub plural: String,
    /// The object's name, if the path names one.
    pub name: Option<String>,
    /// `status`, `log`, …; empty for the object itself.
    pub subresource: String,
    /// What follows the subresource, as in `services/NAME/proxy/index.html`.
    pub rest: String,
}

/// Takes a path apart. `None` if a part is not valid percent-encoded UTF-8.
pub fn parse(path: &str) -> Option<Route> {
    let trimmed = path.trim_start_matches('/').trim_end_matches('/');
    let parts: Vec<String> = trimmed.split('/').map(decode).collect::<Option<_>>()?;
    let part = |i: usize| parts.get(i).cloned().unwrap_or_default();
    let rest = |from: usize| parts.get(from..).unwrap_or_default().to_vec();
    Some(match (parts[0].as_str(), parts.len()) {
        ("api", 1) => Route::CoreVersions,
        ("api", 2) => Route::Resources(String::new(), part(1)),
        ("api", _) => resource(String::new(), part(1), rest(2)),
        ("apis", 1) => Route::Groups,
        ("apis", 2) => Route::Group(part(1)),
        ("apis", 3) => Route::Resources(part(1), part(2)),
        ("apis", _) => resource(part(1), part(2), rest(3)),
        _ => Route::Other,
    })
}

fn resource(group: String, version: String, parts: Vec<String>) -> Route {
    let mut path = ResourcePath { group, version, ..ResourcePath::default() };
    let mut parts = parts.into_iter().peekable();
    let first = parts.next().unwrap_or_default();
    // A namespace is both an object and what other objects are in; `status` and `finalize` are
    // the two names after it that are not resources.
    let inner = (first == "namespaces").then(|| parts.next()).flatten();
    match (inner, parts.peek().map(String::as_str)) {
        (None, None) => path.plural = first,
        (Some(name), None | Some("status" | "finalize")) => {
            path.plural = first;
            path.name = Some(name);
        }
        (Some(namespace), Some(_)) => {
            path.namespace = Some(namespace);
            path.plural = parts.next().unwrap_or_default();
            path.name = parts.next();
        }
        (None, Some(_)) => {
            path.plural = first;
            path.name = parts.next();
        }
    }
    path.subresource = parts.next().unwrap_or_default();
    path.rest = parts.collect::<Vec<_>>().join("/");
    Route::Resource(path)
}

/// What is to be done, in the words of the API and of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read one.
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Update,
    /// Change parts of one.
    Patch,
    /// Remove one.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// The verb of a request. `None` for methods that the API does not have.
    pub fn of(method: &Method, path: &ResourcePath, watch: bool) -> Option<Verb> {
        let one = path.name.is_some();
        Some(match *method {
            Method::GET | Method::HEAD if one => Verb::Get,
            Method::GET | Method::HEAD if watch => Verb::Watch,
            Method::GET | Method::HEAD => Verb::List,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if one => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            _ => return None,
        })
    }

    /// The word in discovery, in rules and in error texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// Decodes `%41` and the like. A `+` is itself in a path.
pub fn decode(text: &str) -> Option<String> {
    String::from_utf8(decode_bytes(text)?).ok()
}

/// [`decode`] of what need not be UTF-8.
pub fn decode_bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((&byte, after)) = left.split_first() {
        left = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (digit(*left.first()?)?, digit(*left.get(1)?)?);
        bytes.push(high << 4 | low);
        left = &left[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, namespace: Option<&str>, plural: &str, name: Option<&str>, subresource: &str) {
        let Some(Route::Resource(found)) = parse(path) else { panic!("{path} is not about objects") };
        assert_eq!(
            (
                found.namespace.as_deref(),
                found.plural.as_str(),
                found.name.as_deref(),
                found.subresource.as_str()
            ),
            (namespace, plural, name, subresource),
            "{path}"
        );
    }

    #[test]
    fn resources() {
        check("/api/v1/pods", None, "pods", None, "");
        check("/api/v1/nodes/n1", None, "nodes", Some("n1"), "");
        check("/api/v1/nodes/n1/status", None, "nodes", Some("n1"), "status");
        check("/api/v1/namespaces", None, "namespaces", None, "");
        check("/api/v1/namespaces/a", None, "namespaces", Some("a"), "");
        check("/api/v1/namespaces/a/finalize", None, "namespaces", Some("a"), "finalize");
        check("/api/v1/namespaces/a/pods", Some("a"), "pods", None, "");
        check("/api/v1/namespaces/a/pods/b/log", Some("a"), "pods", Some("b"), "log");
        check("/apis/apps/v1/namespaces/a/deployments/b%2Ec", Some("a"), "deployments", Some("b.c"), "");
        check("/api/v1/namespaces/a/services/b/proxy/c/d", Some("a"), "services", Some("b"), "proxy");
    }

    #[test]
    fn the_rest() {
        assert_eq!(parse("/api"), Some(Route::CoreVersions));
        assert_eq!(parse("/apis/"), Some(Route::Groups));
        assert_eq!(parse("/apis/apps"), Some(Route::Group("apps".into())));
        assert_eq!(parse("/apis/apps/v1"), Some(Route::Resources("apps".into(), "v1".into())));
        assert_eq!(parse("/healthz"), Some(Route::Other));
        assert_eq!(parse("/"), Some(Route::Other));
        assert_eq!(parse("/api/v1/pods/%f"), None);
        assert_eq!(parse("/api/v1/pods/%ff"), None);
        assert_eq!(parse("/api/v1/pods/%+f"), None);
    }

    #[test]
    fn verbs() {
        let Some(Route::Resource(many)) = parse("/api/v1/pods") else { panic!() };
        let Some(Route::Resource(one)) = parse("/api/v1/nodes/a") else { panic!() };
        assert_eq!(Verb::of(&Method::GET, &many, true), Some(Verb::Watch));
        assert_eq!(Verb::of(&Method::GET, &one, true), Some(Verb::Get));
        assert_eq!(Verb::of(&Method::DELETE, &many, false), Some(Verb::DeleteCollection));
        assert_eq!(Verb::of(&Method::OPTIONS, &many, false), None);
    }
}
