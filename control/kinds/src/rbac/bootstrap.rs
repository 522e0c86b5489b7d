//! The roles and bindings that every cluster has from its first start, as tables, and how those
//! of an older start are brought up to them.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings>
//! Written by the API server at each start.

use serde_json::{Map, Value, json};

use super::GROUP;

/// Says of a default role or binding whether it is brought up to date at each start.
pub const ANNOTATION_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL_VERBS: &str = "create delete deletecollection get list patch update watch";

/// One rule; lists are words with blanks between them, and `core` is the group without a name.
struct Rule {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    paths: &'static str,
}

const fn rule(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    Rule { verbs, groups, resources, names: "", paths: "" }
}

const fn named(
    verbs: &'static str,
    group: &'static str,
    resource: &'static str,
    names: &'static str,
) -> Rule {
    Rule { verbs, groups: group, resources: resource, names, paths: "" }
}

const fn path(verbs: &'static str, paths: &'static str) -> Rule {
    Rule { verbs, groups: "", resources: "", names: "", paths }
}

/// One ClusterRole.
struct Role {
    name: &'static str,
    /// `admin`, `edit` or `view`: whose rules these become a part of.
    part_of: &'static str,
    /// The same: whose parts this gathers. It has no rules of its own then.
    gathers: &'static str,
    rules: &'static [Rule],
}

const fn role(name: &'static str, rules: &'static [Rule]) -> Role {
    Role { name, part_of: "", gathers: "", rules }
}

const fn part(name: &'static str, part_of: &'static str, rules: &'static [Rule]) -> Role {
    Role { name, part_of, gathers: "", rules }
}

const fn gathering(name: &'static str, part_of: &'static str) -> Role {
    Role { name, part_of, gathers: name, rules: &[] }
}

/// What everyone may do who is known, and what everyone may see.
const FOR_ALL: &[Role] = &[
    role("cluster-admin", &[rule("*", "*", "*"), path("*", "*")]),
    role(
        "system:discovery",
        &[path(
            "get",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        )],
    ),
    role(
        "system:basic-user",
        &[
            rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            rule("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    role("system:public-info-viewer", &[path("get", "/healthz /livez /readyz /version /version/")]),
    role(
        "system:monitoring",
        &[path("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    ),
    role(
        "system:service-account-issuer-discovery",
        &[path(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    ),
];

/// The roles that administrators give to users in namespaces.
const FOR_USERS: &[Role] = &[
    gathering("admin", ""),
    gathering("edit", "admin"),
    gathering("view", "edit"),
    part(
        "system:aggregate-to-admin",
        "admin",
        &[
            rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            rule(ALL_VERBS, GROUP, "rolebindings roles"),
        ],
    ),
    part(
        "system:aggregate-to-edit",
        "edit",
        &[
            rule(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
            rule("impersonate", "core", "serviceaccounts"),
            rule(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
            rule("create", "core", "pods/eviction serviceaccounts/token"),
            rule(
                WRITE,
                "core",
                "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
                 serviceaccounts services services/proxy",
            ),
            rule(
                WRITE,
                "apps extensions",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale \
                 statefulsets statefulsets/scale",
            ),
            rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
            rule(WRITE, "batch", "cronjobs jobs"),
            rule(WRITE, "networking.k8s.io extensions", "ingresses networkpolicies"),
            rule(WRITE, "policy", "poddisruptionbudgets"),
            rule(ALL_VERBS, "coordination.k8s.io", "leases"),
        ],
    ),
    part(
        "system:aggregate-to-view",
        "view",
        &[
            rule(
                READ,
                "core",
                "bindings configmaps endpoints events limitranges namespaces namespaces/status \
                 persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status \
                 replicationcontrollers replicationcontrollers/scale replicationcontrollers/status resourcequotas \
                 resourcequotas/status serviceaccounts services services/status",
            ),
            rule(
                READ,
                "apps extensions",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status \
                 replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
            ),
            rule(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            rule(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
            rule(READ, "discovery.k8s.io", "endpointslices"),
            rule(READ, "networking.k8s.io extensions", "ingresses ingresses/status networkpolicies"),
            rule(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        ],
    ),
    part("system:aggregated-metrics-reader", "view", &[rule(READ, "metrics.k8s.io", "nodes pods")]),
];

const EVENTS: Rule = rule("create patch update", "core events.k8s.io", "events");
const REVIEWS: [Rule; 2] = [
    rule("create", "authentication.k8s.io", "tokenreviews"),
    rule("create", "authorization.k8s.io", "subjectaccessreviews"),
];

/// The cluster's own parts, and programs that do such a part's work.
const FOR_PARTS: &[Role] = &[
    role("system:auth-delegator", &REVIEWS),
    role(
        "system:kube-scheduler",
        &[
            EVENTS,
            rule("create", "coordination.k8s.io", "leases"),
            named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
            rule(
                READ,
                "core",
                "namespaces nodes persistentvolumeclaims persistentvolumes pods replicationcontrollers services",
            ),
            rule("delete", "core", "pods"),
            rule("create", "core", "bindings pods/binding"),
            rule("patch update", "core", "pods/status"),
            rule(READ, "apps", "replicasets statefulsets"),
            rule(READ, "policy", "poddisruptionbudgets"),
            rule(
                READ,
                "storage.k8s.io",
                "csidrivers csinodes csistoragecapacities storageclasses volumeattachments",
            ),
            rule("create", "authentication.k8s.io", "tokenreviews"),
            rule("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    role(
        "system:volume-scheduler",
        &[
            rule("get list patch update watch", "core", "persistentvolumeclaims persistentvolumes"),
            rule(READ, "storage.k8s.io", "storageclasses"),
        ],
    ),
    role(
        "system:kube-controller-manager",
        &[
            EVENTS,
            rule("create", "coordination.k8s.io", "leases"),
            named("get list update watch", "coordination.k8s.io", "leases", "kube-controller-manager"),
            rule("create", "core", "secrets serviceaccounts serviceaccounts/token"),
            rule("delete", "core", "secrets"),
            rule("get", "core", "configmaps namespaces secrets serviceaccounts"),
            rule("update", "core", "secrets serviceaccounts"),
            rule("create", "authentication.k8s.io", "tokenreviews"),
            rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            rule("list watch", "*", "*"),
        ],
    ),
    role(
        "system:node-proxier",
        &[
            rule("list watch", "core", "endpoints services"),
            rule(READ, "core", "nodes"),
            rule("list watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    role(
        "system:kube-dns",
        &[
            rule("list watch", "core", "endpoints services"),
            rule("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    role(
        "system:proa-ingress",
        &[
            rule("list watch", "core", "nodes secrets services"),
            rule("list watch", "discovery.k8s.io", "endpointslices"),
            rule(READ, "networking.k8s.io", "ingressclasses ingresses"),
            rule("patch update", "networking.k8s.io", "ingresses/status"),
            EVENTS,
        ],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            rule("create delete get list watch", "core", "persistentvolumes"),
            rule("get list update watch", "core", "persistentvolumeclaims"),
            rule(READ, "storage.k8s.io", "storageclasses"),
            rule("watch", "core", "events"),
            EVENTS,
        ],
    ),
];

const SIGNERS: &str = "certificates.k8s.io";

/// Nodes: how they join, and what is told of them. What each may do with its own pods is the node
/// authorizer's.
const FOR_NODES: &[Role] = &[
    role("system:node-bootstrapper", &[rule("create get list watch", SIGNERS, "certificatesigningrequests")]),
    role(
        "system:kubelet-api-admin",
        &[
            rule(READ, "core", "nodes"),
            rule("proxy", "core", "nodes"),
            rule(
                "*",
                "core",
                "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/spec nodes/stats",
            ),
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule("create", SIGNERS, "certificatesigningrequests/nodeclient")],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule("create", SIGNERS, "certificatesigningrequests/selfnodeclient")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named("approve", SIGNERS, "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named("approve", SIGNERS, "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named("approve", SIGNERS, "signers", "kubernetes.io/kubelet-serving")],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named("approve", SIGNERS, "signers", "kubernetes.io/legacy-unknown")],
    ),
];

/// ClusterRoleBindings: name, role, subjects as `User:NAME` or `Group:NAME`.
const BINDINGS: &[(&str, &str, &str)] = &[
    ("cluster-admin", "cluster-admin", "Group:system:masters"),
    ("system:basic-user", "system:basic-user", "Group:system:authenticated"),
    ("system:discovery", "system:discovery", "Group:system:authenticated"),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        "Group:system:authenticated Group:system:unauthenticated",
    ),
    ("system:monitoring", "system:monitoring", "Group:system:monitoring"),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        "Group:system:serviceaccounts",
    ),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        "User:system:kube-controller-manager",
    ),
    ("system:kube-scheduler", "system:kube-scheduler", "User:system:kube-scheduler"),
    ("system:volume-scheduler", "system:volume-scheduler", "User:system:kube-scheduler"),
    ("system:node-proxier", "system:node-proxier", "User:system:kube-proxy"),
    ("system:kube-dns", "system:kube-dns", "User:system:proa-dns"),
    ("system:proa-ingress", "system:proa-ingress", "User:system:proa-ingress"),
    (
        "proa:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "Group:system:bootstrappers",
    ),
    (
        "proa:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "Group:system:nodes",
    ),
];

/// Default ClusterRoles and ClusterRoleBindings of older versions that allowed what nobody is to be
/// allowed any more: removed at each start, whoever has changed them.
pub const RETIRED: [&str; 1] = ["proa:local-path-provisioner"];

/// The default ClusterRoles.
pub fn roles() -> Vec<Value> {
    [FOR_ALL, FOR_USERS, FOR_PARTS, FOR_NODES].iter().copied().flatten().map(role_json).collect()
}

/// The default ClusterRoleBindings.
pub fn bindings() -> Vec<Value> {
    BINDINGS.iter().map(binding_json).collect()
}

/// True if somebody has made a default object their own by its annotation: it is left alone.
pub fn is_own(existing: &Value) -> bool {
    existing["metadata"]["annotations"][ANNOTATION_AUTOUPDATE] == "false"
}

/// What an existing default object becomes, or `None` if it stays as it is: what is missing is
/// added, what somebody added stays. An object whose annotation says so is left alone.
pub fn brought_up(existing: &Value, wanted: &Value) -> Option<Value> {
    if is_own(existing) {
        return None;
    }
    let mut new = existing.clone();
    for member in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][member].as_object().into_iter().flatten() {
            if new["metadata"][member].get(key).is_none() {
                new["metadata"][member][key] = value.clone();
            }
        }
    }
    for list in ["/rules", "/subjects", "/aggregationRule/clusterRoleSelectors"] {
        for entry in wanted.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            add(&mut new, list, entry);
        }
    }
    (new != *existing).then_some(new)
}

fn add(object: &mut Value, list: &str, entry: &Value) {
    let mut at = object;
    for member in list.split('/').skip(1) {
        at = &mut at[member];
    }
    match at.as_array_mut() {
        Some(entries) if entries.contains(entry) => {}
        Some(entries) => entries.push(entry.clone()),
        None => *at = json!([entry]),
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "annotations": { ANNOTATION_AUTOUPDATE: "true" },
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
    })
}

fn role_json(role: &Role) -> Value {
    let label = |of: &str| format!("{GROUP}/aggregate-to-{of}");
    let mut metadata = metadata(role.name);
    if !role.part_of.is_empty() {
        metadata["labels"][label(role.part_of)] = "true".into();
    }
    let mut object = json!({ "metadata": metadata });
    if role.gathers.is_empty() {
        object["rules"] = role.rules.iter().map(rule_json).collect();
    } else {
        let selector = json!({ "matchLabels": { label(role.gathers): "true" } });
        object["aggregationRule"] = json!({ "clusterRoleSelectors": [selector] });
    }
    object
}

fn rule_json(rule: &Rule) -> Value {
    let mut object = Map::new();
    for (name, text) in [
        ("verbs", rule.verbs),
        ("apiGroups", rule.groups),
        ("resources", rule.resources),
        ("resourceNames", rule.names),
        ("nonResourceURLs", rule.paths),
    ] {
        let words = text.split_whitespace().map(|word| if word == "core" { "" } else { word });
        let words: Vec<&str> = words.collect();
        if !words.is_empty() {
            object.insert(name.to_owned(), json!(words));
        }
    }
    Value::Object(object)
}

fn binding_json((name, role, subjects): &(&str, &str, &str)) -> Value {
    let subject = |text: &str| {
        let (kind, name) = text.split_once(':').unwrap_or_default();
        json!({ "kind": kind, "name": name, "apiGroup": GROUP })
    };
    json!({
        "metadata": metadata(name),
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": role },
        "subjects": subjects.split_whitespace().map(subject).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Part, Write, built_in};

    fn canonical(kind: &str, object: &Value) -> Value {
        let table = built_in::table();
        let row = table.by_kind("rbac.authorization.k8s.io/v1", kind).expect("a kind that is served");
        row.apply_rules(Write::Create, object.clone()).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    #[test]
    fn the_defaults_are_valid_and_refer_to_each_other() {
        let mut names = BTreeSet::new();
        for role in roles() {
            canonical("ClusterRole", &role);
            assert!(
                names.insert(role["metadata"]["name"].as_str().unwrap().to_owned()),
                "{role} is there twice"
            );
        }
        for binding in bindings() {
            assert!(!RETIRED.contains(&binding["metadata"]["name"].as_str().unwrap()));
            canonical("ClusterRoleBinding", &binding);
            assert!(names.contains(binding["roleRef"]["name"].as_str().unwrap()), "{binding} names no role");
        }
    }

    #[test]
    fn what_is_missing_is_added() {
        for (kind, list) in [("ClusterRole", roles()), ("ClusterRoleBinding", bindings())] {
            for wanted in list {
                let stored = canonical(kind, &wanted);
                assert_eq!(brought_up(&stored, &wanted), None, "nothing is missing");
            }
        }
        let wanted = roles().into_iter().find(|r| r["metadata"]["name"] == "system:discovery").unwrap();
        let mut old = canonical("ClusterRole", &wanted);
        let own = json!({ "verbs": ["get"], "nonResourceURLs": ["/own"] });
        old["rules"] = json!([own]);
        old["metadata"]["labels"] = json!({ "kubernetes.io/bootstrapping": "mine" });
        let new = brought_up(&old, &wanted).unwrap();
        assert_eq!(new["rules"], json!([own, wanted["rules"][0]]));
        assert_eq!(new["metadata"]["labels"]["kubernetes.io/bootstrapping"], "mine");
        let table = built_in::table();
        let row = table.by_kind("rbac.authorization.k8s.io/v1", "ClusterRole").unwrap();
        assert!(row.apply_rules(Write::Update(&old, &Part::Main), new).is_ok());

        old["metadata"]["annotations"][ANNOTATION_AUTOUPDATE] = "false".into();
        assert_eq!(brought_up(&old, &wanted), None, "it is somebody's own");
    }
}
