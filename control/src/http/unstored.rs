//! The table of resources that are not stored: discovery and paths go by it.

/// A resource whose objects are answered at once and forgotten.
pub struct Unstored {
    /// Empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// In paths.
    pub plural: &'static str,
    /// In error texts.
    pub singular: &'static str,
    /// What is sent and answered.
    pub kind: &'static str,
    /// True if the path names a namespace.
    pub namespaced: bool,
    /// `create`, …
    pub verbs: &'static [&'static str],
}

/// All of them, in discovery order: those that are asked with an object of their own, then those that
/// are only read.
pub const UNSTORED: &[Unstored] = &[
    unstored("", "bindings", "binding", "Binding", true),
    unstored("authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", false),
    unstored("authentication.k8s.io", "tokenreviews", "tokenreview", "TokenReview", false),
    unstored(
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "LocalSubjectAccessReview",
        true,
    ),
    unstored(
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
        false,
    ),
    unstored(
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "SelfSubjectRulesReview",
        false,
    ),
    unstored(
        "authorization.k8s.io",
        "subjectaccessreviews",
        "subjectaccessreview",
        "SubjectAccessReview",
        false,
    ),
    Unstored {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural: "nodes",
        singular: "",
        kind: "NodeMetrics",
        namespaced: false,
        verbs: &["get", "list"],
    },
    Unstored {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural: "pods",
        singular: "",
        kind: "PodMetrics",
        namespaced: true,
        verbs: &["get", "list"],
    },
];

const fn unstored(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Unstored {
    Unstored { group, version: "v1", plural, singular, kind, namespaced, verbs: &["create"] }
}
