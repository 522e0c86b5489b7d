//! Who may do what.
//!
//! The handler asks an [`Authorizer`] before anything else happens. [`SystemOnly`] is the one
//! that is there before any RBAC objects are: the cluster's own parts and its administrators may
//! do everything, everyone else may see what the API is and who they are.

use std::fmt;

use proa_api::Refusal;
use proa_api::status::Resource;
use serde_json::{Value, json};

use super::authenticate::SERVICE_ACCOUNT_PREFIX;
use crate::registry::Caller;

/// Members may do everything.
const GROUP_MASTERS: &str = "system:masters";

/// Paths that everyone who is known may read; a `*` stands for any rest.
const OPEN_PATHS: &[&str] = &[
    "/.well-known/openid-configuration",
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/livez/*",
    "/openapi",
    "/openapi/*",
    "/openid/v1/jwks",
    "/readyz",
    "/readyz/*",
    "/version",
    "/version/",
];

/// Reviews by which everyone may learn about themselves: group and plural.
const OPEN_REVIEWS: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Attributes<'a> {
    /// Something with objects.
    Resource {
        /// `list`.
        verb: &'a str,
        /// Empty for the core group.
        group: &'a str,
        /// `pods`.
        plural: &'a str,
        /// Empty for the objects themselves.
        subresource: &'a str,
        /// `None` at cluster scope and across namespaces.
        namespace: Option<&'a str>,
        /// Empty for many.
        name: &'a str,
    },
    /// Something with another path, such as `/version`.
    Path {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// Decides what callers may do.
pub trait Authorizer: Send + Sync {
    /// True if the caller may do it.
    fn allows(&self, caller: &Caller, what: &Attributes<'_>) -> bool;

    /// What the caller may do in a namespace, as the status of a SelfSubjectRulesReview.
    fn rules(&self, caller: &Caller, namespace: &str) -> Value;
}

/// Allows administrators and the cluster's own parts everything, and others only what
/// [`OPEN_PATHS`] and [`OPEN_REVIEWS`] say.
pub struct SystemOnly;

impl Authorizer for SystemOnly {
    fn allows(&self, caller: &Caller, what: &Attributes<'_>) -> bool {
        if is_system(caller) {
            return true;
        }
        match *what {
            Attributes::Path { verb, path } => {
                matches!(verb, "get" | "head") && OPEN_PATHS.iter().any(|p| path_matches(p, path))
            }
            Attributes::Resource { verb, group, plural, subresource, .. } => {
                verb == "create" && subresource.is_empty() && OPEN_REVIEWS.contains(&(group, plural))
            }
        }
    }

    fn rules(&self, caller: &Caller, _namespace: &str) -> Value {
        if is_system(caller) {
            return json!({
                "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
                "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
                "incomplete": false,
            });
        }
        let reviews: Vec<Value> = OPEN_REVIEWS
            .iter()
            .map(
                |(group, plural)| json!({ "verbs": ["create"], "apiGroups": [group], "resources": [plural] }),
            )
            .collect();
        json!({
            "resourceRules": reviews,
            "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": OPEN_PATHS }],
            "incomplete": false,
        })
    }
}

/// The refusal of what is not allowed.
pub fn forbidden(caller: &Caller, what: &Attributes<'_>) -> Refusal {
    let user = &caller.user;
    match *what {
        Attributes::Path { verb, path } => {
            Refusal::new(403, "Forbidden", format!("forbidden: User {user:?} cannot {verb} path {path:?}"))
        }
        Attributes::Resource { group, plural, name, .. } => {
            Refusal::forbidden(Resource { group, plural }, name, format_args!("User {user:?} cannot {what}"))
        }
    }
}

impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Attributes::Path { verb, path } => write!(f, "{verb} path {path:?}"),
            Attributes::Resource { verb, group, plural, subresource, namespace, .. } => {
                let slash = if subresource.is_empty() { "" } else { "/" };
                write!(f, "{verb} resource \"{plural}{slash}{subresource}\" in API group {group:?} ")?;
                match namespace {
                    Some(namespace) => write!(f, "in the namespace {namespace:?}"),
                    None => f.write_str("at the cluster scope"),
                }
            }
        }
    }
}

fn is_system(caller: &Caller) -> bool {
    let is_part = caller.user.starts_with("system:")
        && !caller.user.starts_with(SERVICE_ACCOUNT_PREFIX)
        && caller.user != "system:anonymous";
    is_part || caller.groups.iter().any(|g| g == GROUP_MASTERS)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str, groups: &[&str]) -> Caller {
        Caller {
            user: user.to_owned(),
            uid: String::new(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        }
    }

    const LIST_PODS: Attributes<'_> = Attributes::Resource {
        verb: "list",
        group: "",
        plural: "pods",
        subresource: "",
        namespace: Some("default"),
        name: "",
    };

    #[test]
    fn who_may() {
        assert!(SystemOnly.allows(&caller("jane", &["system:masters"]), &LIST_PODS));
        assert!(SystemOnly.allows(&caller("system:kube-scheduler", &[]), &LIST_PODS));
        assert!(!SystemOnly.allows(&caller("system:serviceaccount:a:b", &[]), &LIST_PODS));
        assert!(!SystemOnly.allows(&caller("system:anonymous", &[]), &LIST_PODS));
        assert!(!SystemOnly.allows(&caller("jane", &["system:authenticated"]), &LIST_PODS));
    }

    #[test]
    fn everyone_may_look_around() {
        let jane = caller("jane", &[]);
        for (verb, path, expected) in
            [("get", "/apis/apps/v1", true), ("get", "/metrics", false), ("post", "/version", false)]
        {
            assert_eq!(SystemOnly.allows(&jane, &Attributes::Path { verb, path }), expected, "{verb} {path}");
        }
    }

    #[test]
    fn texts_are_those_of_the_stock_server() {
        let account = caller("system:serviceaccount:a:b", &[]);
        assert_eq!(
            forbidden(&account, &LIST_PODS).to_string(),
            "pods is forbidden: User \"system:serviceaccount:a:b\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let scale = Attributes::Resource {
            verb: "patch",
            group: "apps",
            plural: "deployments",
            subresource: "scale",
            namespace: None,
            name: "x",
        };
        assert_eq!(
            forbidden(&account, &scale).to_string(),
            "deployments.apps \"x\" is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"deployments/scale\" in API group \"apps\" at the cluster scope"
        );
        assert_eq!(
            forbidden(&account, &Attributes::Path { verb: "get", path: "/metrics" }).to_string(),
            "forbidden: User \"system:serviceaccount:a:b\" cannot get path \"/metrics\""
        );
    }
}
