//! Rules as the Kubernetes page on RBAC has them, and the index against the plain reading of all
//! objects.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::index::missing;
use super::{Attributes, Index, User, escalation, rule};

fn rules(yaml: &str) -> Vec<PolicyRule> {
    serde_yaml::from_str(yaml).expect("rules")
}

/// `get pods`, `get pods/log in ns`, `list configmaps named x in ns`, `get deployments.apps`,
/// `get /healthz`.
fn attributes(text: &'static str) -> Attributes<'static> {
    let words: Vec<&str> = text.split(' ').collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map(|at| words[at + 1]);
    if words[1].starts_with('/') {
        return Attributes::Path { verb: words[0], path: words[1] };
    }
    let (resource, subresource) = words[1].split_once('/').unwrap_or((words[1], ""));
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    Attributes::Resource {
        verb: words[0],
        group,
        plural,
        subresource,
        namespace: after("in"),
        name: after("named").unwrap_or_default(),
    }
}

/// Whether the rules allow each of `yes` and none of `no`.
#[track_caller]
fn check(yaml: &str, yes: &[&'static str], no: &[&'static str]) {
    let rules = rules(yaml);
    for (text, expected) in yes.iter().map(|t| (t, true)).chain(no.iter().map(|t| (t, false))) {
        let what = attributes(text);
        assert_eq!(rules.iter().any(|rule| rule::allows(rule, &what)), expected, "{text} with {yaml}");
    }
}

#[test]
fn rules_of_the_documentation() {
    check(
        "[{apiGroups: [''], resources: [pods], verbs: [get, watch, list]}]",
        &["get pods named a in d", "list pods in d", "watch pods"],
        &[
            "delete pods named a",
            "get pods/log named a",
            "get pods.metrics.k8s.io",
            "list secrets",
            "get /pods",
        ],
    );
    check(
        "[{apiGroups: [''], resources: [pods, pods/log], verbs: [get, list]}]",
        &["get pods/log named a in d", "get pods"],
        &["get pods/exec named a", "create pods/log"],
    );
    check(
        "[{apiGroups: [''], resources: [configmaps], resourceNames: [my-configmap], verbs: [update, get]}]",
        &["update configmaps named my-configmap in d"],
        &["update configmaps named other in d", "get configmaps in d", "create configmaps in d"],
    );
    check(
        "[{apiGroups: [example.com], resources: ['*'], verbs: ['*']}]",
        &["anything widgets.example.com", "get widgets.example.com/status named a"],
        &["get widgets", "get widgets.other.com", "get /widgets"],
    );
    check(
        "[{apiGroups: ['*'], resources: ['*/scale'], verbs: [get, patch]}]",
        &["get deployments.apps/scale named a", "patch replicationcontrollers/scale"],
        &["get deployments.apps", "get pods/scaler", "get deployments.apps/status"],
    );
    check(
        "[{apiGroups: [extensions, apps], resources: [deployments], verbs: [get, list]}]",
        &["get deployments.apps", "list deployments.extensions"],
        &["get deployments", "get deployments.apps/scale"],
    );
    check(
        "[{nonResourceURLs: [/healthz, '/healthz/*'], verbs: [get, post]}]",
        &["get /healthz", "post /healthz/etcd", "get /healthz/"],
        &["get /healthzz", "delete /healthz", "get /", "get healthz"],
    );
    check("[{nonResourceURLs: ['*'], verbs: ['*']}]", &["get /a/b", "put /"], &["get pods"]);
    check("[{apiGroups: [''], resources: ['pods/*'], verbs: [get]}]", &[], &["get pods/log", "get pods"]);
}

fn subject(kind: &str, name: &str, namespace: Option<&str>) -> Subject {
    let namespace = namespace.map(str::to_owned);
    Subject { api_group: None, kind: kind.to_owned(), name: name.to_owned(), namespace }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: super::GROUP.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

#[test]
fn bindings_reach_their_subjects() {
    let mut index = Index::default();
    let read = "[{apiGroups: [''], resources: [pods], verbs: [list]}]";
    index.put_role("", "reader", rules(read));
    index.put_role("d", "reader", rules(read));
    index.put_binding("", "all", role_ref("ClusterRole", "reader"), &[subject("Group", "ops", None)]);
    let accounts = [subject("ServiceAccount", "bot", None), subject("ServiceAccount", "bot", Some("other"))];
    index.put_binding("d", "bots", role_ref("Role", "reader"), &accounts);
    index.put_binding("d", "lost", role_ref("Role", "nothing"), &[subject("User", "jane", None)]);
    let ops = ["ops".to_owned()];
    let ask = |name: &str, groups: &[String], namespace| {
        let what = Attributes::Resource {
            verb: "list",
            group: "",
            plural: "pods",
            subresource: "",
            namespace,
            name: "",
        };
        match index.decide(User { name, groups }, &what) {
            Ok(grant) => grant.to_string(),
            Err(denied) => format!("no {denied}"),
        }
    };
    for (name, groups, namespace, expected) in [
        (
            "jane",
            &ops[..],
            Some("x"),
            "ClusterRoleBinding \"all\" of ClusterRole \"reader\" to Group \"ops\"",
        ),
        ("jane", &ops, None, "ClusterRoleBinding \"all\" of ClusterRole \"reader\" to Group \"ops\""),
        ("jane", &[], Some("d"), "no role.rbac.authorization.k8s.io \"nothing\" not found"),
        ("jane", &[], None, "no "),
        (
            "system:serviceaccount:d:bot",
            &[],
            Some("d"),
            "RoleBinding \"bots/d\" of Role \"reader\" to ServiceAccount \"bot/\"",
        ),
        (
            "system:serviceaccount:other:bot",
            &[],
            Some("d"),
            "RoleBinding \"bots/d\" of Role \"reader\" to ServiceAccount \"bot/other\"",
        ),
        ("system:serviceaccount:d:bot", &[], None, "no "),
        ("system:serviceaccount:d:bot", &[], Some("other"), "no "),
    ] {
        assert_eq!(ask(name, groups, namespace), expected, "{name} in {namespace:?}");
    }
}

#[test]
fn nobody_grants_what_they_do_not_have() {
    let check = |held: &str, granted: &str, expected: &str| {
        let (held, granted) = (rules(held), rules(granted));
        let groups = ["a".to_owned(), "b".to_owned()];
        let held: Vec<&PolicyRule> = held.iter().collect();
        let text = escalation::refusal(User { name: "jane", groups: &groups }, &held, &granted);
        let missing = text.as_deref().map_or("", |text| text.split_once('\n').unwrap().1);
        assert_eq!(missing, expected);
        if let Some(text) = &text {
            let head = "user \"jane\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not currently held:\n";
            assert!(text.starts_with(head), "{text}");
        }
    };
    let all = "[{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]";
    let pods = "[{apiGroups: [''], resources: [pods], verbs: [get, list]}]";
    check(pods, pods, "");
    check(all, pods, "");
    check("[]", pods, r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#);
    check(pods, all, r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#);
    check(all, "[{nonResourceURLs: [/a], verbs: [get]}]", r#"{NonResourceURLs:["/a"], Verbs:["get"]}"#);
    check(
        "[{nonResourceURLs: ['/a*'], verbs: [get]}]",
        "[{nonResourceURLs: [/a/b, '/a/*'], verbs: [get]}]",
        "",
    );
    let named = "[{apiGroups: [''], resources: [pods], resourceNames: [x], verbs: [get]}]";
    check(named, named, "");
    check(pods, named, "");
    check(named, pods, r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#);
    check(
        "[{apiGroups: ['*'], resources: ['*/scale'], verbs: [get]}]",
        "[{apiGroups: [apps], resources: [deployments/scale, deployments], verbs: [get]}]",
        r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#,
    );
    // Two rules together cover what neither does alone.
    check(
        "[{apiGroups: [''], resources: [pods], verbs: [get]}, {apiGroups: [''], resources: [pods], verbs: [list]}]",
        pods,
        "",
    );
    let full: Vec<PolicyRule> = escalation::full_authority();
    let held: Vec<&PolicyRule> = full.iter().collect();
    assert_eq!(escalation::refusal(User { name: "root", groups: &[] }, &held, &full), None);

    // A short rule may stand for millions.
    let many = |name: &str| Some((0..300).map(|n| format!("{name}{n}")).collect::<Vec<_>>());
    let verbs = many("v").unwrap_or_default();
    let wide = PolicyRule {
        verbs,
        api_groups: many("g"),
        resources: many("r"),
        resource_names: many("n"),
        ..PolicyRule::default()
    };
    let wide = [wide];
    assert_eq!(escalation::refusal(User { name: "root", groups: &[] }, &held, &wide), None);
    let text = escalation::refusal(User { name: "jane", groups: &[] }, &[], &wide);
    assert!(text.is_some_and(|text| text.contains("too many to compare")));
}

/// What happens to the objects of a cluster; the names are few, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    PutRole(String, String, Vec<PolicyRule>),
    RemoveRole(String, String),
    PutBinding(String, String, RoleRef, Vec<Subject>),
    RemoveBinding(String, String),
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(words).prop_map(str::to_owned)
}

fn words(list: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(word(list), least..3)
}

fn space() -> impl Strategy<Value = String> {
    word(&["", "d", "e"])
}

fn a_rule() -> impl Strategy<Value = PolicyRule> {
    let resource = (
        words(&["get", "list", "*"], 1),
        words(&["", "apps", "*"], 1),
        words(&["pods", "pods/log", "*/log", "*"], 1),
        words(&["x", "y"], 0),
    );
    let resource = resource.prop_map(|(verbs, groups, resources, names)| PolicyRule {
        verbs,
        api_groups: Some(groups),
        resources: Some(resources),
        resource_names: Some(names),
        non_resource_urls: None,
    });
    let path = (words(&["get", "*"], 1), words(&["/a", "/a/*", "*"], 1));
    let path = path.prop_map(|(verbs, urls)| PolicyRule {
        verbs,
        non_resource_urls: Some(urls),
        ..PolicyRule::default()
    });
    prop_oneof![3 => resource, 1 => path]
}

fn a_subject() -> impl Strategy<Value = Subject> {
    let kinds = word(&["User", "Group", "ServiceAccount"]);
    let spaces = prop::option::of(word(&["", "d", "e"]));
    (kinds, word(&["a", "b"]), spaces).prop_map(|(kind, name, namespace)| Subject {
        api_group: None,
        kind,
        name,
        namespace,
    })
}

fn a_step() -> impl Strategy<Value = Step> {
    let name = || word(&["r", "s"]);
    let reference = (word(&["Role", "ClusterRole"]), name()).prop_map(|(kind, name)| role_ref(&kind, &name));
    prop_oneof![
        3 => (space(), name(), prop::collection::vec(a_rule(), 0..3))
            .prop_map(|(s, n, rules)| Step::PutRole(s, n, rules)),
        1 => (space(), name()).prop_map(|(s, n)| Step::RemoveRole(s, n)),
        3 => (space(), name(), reference, prop::collection::vec(a_subject(), 0..3))
            .prop_map(|(s, n, role, subjects)| Step::PutBinding(s, n, role, subjects)),
        1 => (space(), name()).prop_map(|(s, n)| Step::RemoveBinding(s, n)),
    ]
}

/// The objects as they are, read one by one for each question.
#[derive(Default)]
struct Plain {
    roles: Vec<(String, String, Vec<PolicyRule>)>,
    bindings: Vec<(String, String, RoleRef, Vec<Subject>)>,
}

impl Plain {
    fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::PutRole(space, name, rules) => {
                self.roles.retain(|(s, n, _)| (s, n) != (&space, &name));
                self.roles.push((space, name, rules));
            }
            Step::RemoveRole(space, name) => self.roles.retain(|(s, n, _)| (s, n) != (&space, &name)),
            Step::PutBinding(space, name, role, subjects) => {
                self.bindings.retain(|(s, n, ..)| (s, n) != (&space, &name));
                self.bindings.push((space, name, role, subjects));
            }
            Step::RemoveBinding(space, name) => {
                self.bindings.retain(|(s, n, ..)| (s, n) != (&space, &name));
            }
        }
    }

    fn allows(&self, user: User<'_>, what: &Attributes<'_>) -> bool {
        let reaches = |subject: &Subject, space: &str| match subject.kind.as_str() {
            "User" => subject.name == user.name,
            "Group" => user.groups.contains(&subject.name),
            _ => {
                let own = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(space);
                !own.is_empty() && user.name == format!("system:serviceaccount:{own}:{}", subject.name)
            }
        };
        self.bindings.iter().any(|(space, _, role, subjects)| {
            let applies = space.is_empty() || what.namespace() == Some(space);
            let home = if role.kind == "ClusterRole" { "" } else { space.as_str() };
            let legal = role.kind == "ClusterRole" || !space.is_empty();
            applies
                && legal
                && subjects.iter().any(|subject| reaches(subject, space))
                && self.roles.iter().any(|(s, n, rules)| {
                    s == home && *n == role.name && rules.iter().any(|rule| rule::allows(rule, what))
                })
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_index_answers_as_the_objects_do(steps in prop::collection::vec(a_step(), 0..24)) {
        let (mut index, mut plain) = (Index::default(), Plain::default());
        for step in &steps {
            plain.step(step);
            match step.clone() {
                Step::PutRole(space, name, rules) => index.put_role(&space, &name, rules),
                Step::RemoveRole(space, name) => index.remove_role(&space, &name),
                Step::PutBinding(space, name, role, subjects) => index.put_binding(&space, &name, role, &subjects),
                Step::RemoveBinding(space, name) => index.remove_binding(&space, &name),
            }
        }
        for name in ["a", "system:serviceaccount:d:a", "c"] {
            for groups in [&[][..], &["a".to_owned(), "b".to_owned()][..]] {
                let user = User { name, groups };
                for text in [
                    "get pods", "list pods in d", "get pods named x in d", "get pods/log named y in e",
                    "get deployments.apps in e", "get /a", "get /a/b", "get /",
                ] {
                    let what = attributes(text);
                    let (found, expected) = (index.decide(user, &what).is_ok(), plain.allows(user, &what));
                    prop_assert_eq!(found, expected, "{} {:?} {}", name, groups, text);
                    let (rules, _) = index.rules(user, what.namespace());
                    prop_assert_eq!(rules.iter().any(|r| rule::allows(r, &what)), expected);
                }
            }
        }
    }

    /// Who is allowed to grant something can do it already.
    #[test]
    fn a_grant_that_passes_adds_nothing(
        held in prop::collection::vec(a_rule(), 0..4),
        granted in prop::collection::vec(a_rule(), 0..3),
    ) {
        let refs: Vec<&PolicyRule> = held.iter().collect();
        if escalation::refusal(User { name: "a", groups: &[] }, &refs, &granted).is_none() {
            for text in ["get pods", "list pods named x", "get pods/log named y", "get deployments.apps", "get /a", "get /a/b", "get /b"] {
                let what = attributes(text);
                let can = |rules: &[PolicyRule]| rules.iter().any(|rule| rule::allows(rule, &what));
                prop_assert!(!can(&granted) || can(&held), "{}", text);
            }
        }
    }
}

#[test]
fn errors_name_what_is_missing() {
    assert_eq!(
        missing(&role_ref("ClusterRole", "x")),
        "clusterrole.rbac.authorization.k8s.io \"x\" not found"
    );
    let value: Value = json!(role_ref("Role", "y"));
    assert_eq!(value["name"], "y");
}
