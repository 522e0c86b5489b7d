//! The roles and bindings of a cluster, by whom they reach.
//!
//! Fed with objects as they change; a decision then only looks at the bindings that name the
//! user or one of their groups, cluster-wide or in the one namespace, and decodes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};

use super::{Attributes, GROUP, SERVICE_ACCOUNT_PREFIX, rule};

/// Who wants something.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// The name.
    pub name: &'a str,
    /// The groups.
    pub groups: &'a [String],
}

/// All roles and bindings. What belongs to no namespace is under the empty one.
#[derive(Clone, Debug, Default)]
pub struct Index {
    roles: Spaces<Arc<[PolicyRule]>>,
    bindings: Spaces<Vec<(Who, Arc<Grant>)>>,
    reached: BTreeMap<Arc<str>, Reached>,
}

/// What reaches each name.
type Grants = BTreeMap<Arc<str>, Vec<Arc<Grant>>>;

type Spaces<T> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>;

/// Whom the bindings of one namespace reach.
#[derive(Clone, Debug, Default)]
struct Reached {
    users: Grants,
    groups: Grants,
}

#[derive(Clone, Debug, PartialEq)]
enum Who {
    User(Arc<str>),
    Group(Arc<str>),
}

/// One subject of one binding. Shown as the reason of what it allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    namespace: Arc<str>,
    binding: Arc<str>,
    role: RoleRef,
    /// `User "jane"`.
    subject: String,
}

/// Why something is not allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Denied {
    /// The roles that bindings name and that are not there, as errors.
    pub missing: Vec<String>,
}

impl Index {
    /// Folds in a Role, or a ClusterRole in the empty namespace.
    pub fn put_role(&mut self, namespace: &str, name: &str, rules: Vec<PolicyRule>) {
        self.roles.entry(namespace.into()).or_default().insert(name.into(), rules.into());
    }

    /// Folds in that a role is gone.
    pub fn remove_role(&mut self, namespace: &str, name: &str) {
        take(&mut self.roles, namespace, name);
    }

    /// Forgets all Roles, or all ClusterRoles.
    pub fn clear_roles(&mut self, cluster: bool) {
        self.roles.retain(|namespace, _| namespace.is_empty() != cluster);
    }

    /// Folds in a RoleBinding, or a ClusterRoleBinding in the empty namespace.
    pub fn put_binding(&mut self, namespace: &str, name: &str, role: RoleRef, subjects: &[Subject]) {
        self.remove_binding(namespace, name);
        let mut grants = Vec::new();
        for subject in subjects {
            let Some(who) = who(subject, namespace) else { continue };
            let grant = Arc::new(Grant {
                namespace: namespace.into(),
                binding: name.into(),
                role: role.clone(),
                subject: describe(subject),
            });
            let reached = self.reached.entry(namespace.into()).or_default();
            let (by_name, name) = reached.of(&who);
            by_name.entry(name.clone()).or_default().push(grant.clone());
            grants.push((who, grant));
        }
        self.bindings.entry(namespace.into()).or_default().insert(name.into(), grants);
    }

    /// Folds in that a binding is gone.
    pub fn remove_binding(&mut self, namespace: &str, name: &str) {
        let Some(grants) = take(&mut self.bindings, namespace, name) else { return };
        let Some(reached) = self.reached.get_mut(namespace) else { return };
        for (who, grant) in grants {
            let (by_name, name) = reached.of(&who);
            if let Some(others) = by_name.get_mut(name) {
                others.retain(|other| !Arc::ptr_eq(other, &grant));
                if others.is_empty() {
                    by_name.remove(name);
                }
            }
        }
        if reached.users.is_empty() && reached.groups.is_empty() {
            self.reached.remove(namespace);
        }
    }

    /// Forgets all RoleBindings, or all ClusterRoleBindings.
    pub fn clear_bindings(&mut self, cluster: bool) {
        self.bindings.retain(|namespace, _| namespace.is_empty() != cluster);
        self.reached.retain(|namespace, _| namespace.is_empty() != cluster);
    }

    /// What allows it.
    ///
    /// # Errors
    /// Nothing does.
    pub fn decide(&self, user: User<'_>, what: &Attributes<'_>) -> Result<&Grant, Denied> {
        let mut denied = Denied::default();
        for grant in self.grants(user, what.namespace()) {
            match self.role(&grant.role, &grant.namespace) {
                Some(rules) if rules.iter().any(|rule| rule::allows(rule, what)) => return Ok(grant),
                Some(_) => {}
                None => denied.add(missing(&grant.role)),
            }
        }
        Err(denied)
    }

    /// All rules that reach a user, cluster-wide and in a namespace, and the roles that are
    /// missing, as errors.
    pub fn rules(&self, user: User<'_>, namespace: Option<&str>) -> (Vec<&PolicyRule>, Denied) {
        let (mut rules, mut denied) = (Vec::new(), Denied::default());
        for grant in self.grants(user, namespace) {
            match self.role(&grant.role, &grant.namespace) {
                Some(found) => rules.extend(found.iter()),
                None => denied.add(missing(&grant.role)),
            }
        }
        (rules, denied)
    }

    /// The rules of the role that a binding in this namespace refers to.
    pub fn role(&self, role: &RoleRef, namespace: &str) -> Option<&[PolicyRule]> {
        let space = match role.kind.as_str() {
            "ClusterRole" => "",
            // A ClusterRoleBinding cannot refer to a Role.
            "Role" if !namespace.is_empty() => namespace,
            _ => return None,
        };
        self.roles.get(space)?.get(role.name.as_str()).map(|rules| &**rules)
    }

    fn grants<'s>(&'s self, user: User<'_>, namespace: Option<&str>) -> impl Iterator<Item = &'s Grant> {
        let spaces = [Some(""), namespace.filter(|namespace| !namespace.is_empty())];
        let reached = spaces.into_iter().flatten().filter_map(|space| self.reached.get(space));
        reached.flat_map(move |reached| {
            let groups = user.groups.iter().filter_map(|group| reached.groups.get(group.as_str()));
            reached.users.get(user.name).into_iter().chain(groups).flatten().map(|grant| &**grant)
        })
    }
}

impl Reached {
    fn of<'w>(&mut self, who: &'w Who) -> (&mut Grants, &'w Arc<str>) {
        match who {
            Who::User(name) => (&mut self.users, name),
            Who::Group(name) => (&mut self.groups, name),
        }
    }
}

impl Denied {
    fn add(&mut self, error: String) {
        if !self.missing.contains(&error) {
            self.missing.push(error);
        }
    }
}

/// `[a, b]`, or one error bare; empty if nothing is missing.
impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing.as_slice() {
            [] => Ok(()),
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "ClusterRoleBinding {:?}", self.binding)?,
            namespace => write!(f, "RoleBinding \"{}/{namespace}\"", self.binding)?,
        }
        write!(f, " of {} {:?} to {}", self.role.kind, self.role.name, self.subject)
    }
}

/// The error of a role that is not there.
pub fn missing(role: &RoleRef) -> String {
    format!("{}.{GROUP} {:?} not found", role.kind.to_lowercase(), role.name)
}

fn take<T>(spaces: &mut Spaces<T>, namespace: &str, name: &str) -> Option<T> {
    let names = spaces.get_mut(namespace)?;
    let taken = names.remove(name);
    if names.is_empty() {
        spaces.remove(namespace);
    }
    taken
}

/// Whom a subject means. An account without a namespace is one of the binding's own.
fn who(subject: &Subject, namespace: &str) -> Option<Who> {
    match subject.kind.as_str() {
        "User" => Some(Who::User(subject.name.as_str().into())),
        "Group" => Some(Who::Group(subject.name.as_str().into())),
        "ServiceAccount" => {
            let own = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
            let name = format!("{SERVICE_ACCOUNT_PREFIX}{own}:{}", subject.name);
            (!own.is_empty()).then(|| Who::User(name.into()))
        }
        _ => None,
    }
}

fn describe(subject: &Subject) -> String {
    match (subject.kind.as_str(), subject.namespace.as_deref().unwrap_or_default()) {
        ("ServiceAccount", namespace) => format!("ServiceAccount \"{}/{namespace}\"", subject.name),
        (kind, _) => format!("{kind} {:?}", subject.name),
    }
}
