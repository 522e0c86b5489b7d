//! The roles and bindings of this cluster as an index that is always up to date.
//!
//! Fed by the store's collections of the four kinds, read by the authorizer and by what keeps
//! users from granting more than they have. Nobody has to feed it: whoever asks first after a
//! change folds it in, so that a binding counts as soon as its write is acknowledged. Between
//! changes a question costs four loads and a lock that readers share.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use proa_kinds::rbac::Index;
use serde_json::Error;

use crate::store::{Collection, EventKind, Object, Revision, Store};

/// The four kinds, by what their collections are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

const SOURCES: [(Source, &str); 4] = [
    (Source::Role, "roles.rbac.authorization.k8s.io"),
    (Source::ClusterRole, "clusterroles.rbac.authorization.k8s.io"),
    (Source::RoleBinding, "rolebindings.rbac.authorization.k8s.io"),
    (Source::ClusterRoleBinding, "clusterrolebindings.rbac.authorization.k8s.io"),
];

/// The index, and where it comes from.
pub struct Policy {
    sources: [(Source, Arc<Collection>); 4],
    state: RwLock<State>,
}

/// The index and the changes that are in it.
pub struct State {
    index: Index,
    /// For each source the revision it is folded in up to; none before the first time.
    seen: [Option<Revision>; 4],
}

impl std::ops::Deref for State {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

impl Policy {
    /// The policy in these objects.
    pub fn new(store: &Store) -> Policy {
        let sources = SOURCES.map(|(source, resource)| (source, store.collection(resource)));
        Policy { sources, state: RwLock::new(State { index: Index::default(), seen: [None; 4] }) }
    }

    /// The index with every change that has been acknowledged.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_current(&state) {
            return state;
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for (i, (source, collection)) in self.sources.iter().enumerate() {
            let seen = state.seen[i];
            state.seen[i] = Some(catch_up(&mut state.index, *source, collection, seen));
        }
        drop(state);
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_current(&self, state: &State) -> bool {
        let mut sources = self.sources.iter().zip(&state.seen);
        sources.all(|((_, collection), seen)| seen.is_some_and(|seen| seen >= collection.last()))
    }
}

/// Folds in what has changed since `seen`, or everything if that is not known any more. Gives how
/// far it has come.
fn catch_up(index: &mut Index, source: Source, from: &Collection, seen: Option<Revision>) -> Revision {
    if let Some(seen) = seen
        && let Ok((events, now)) = from.events_after(seen, usize::MAX, || seen)
    {
        for event in events {
            match event.kind {
                EventKind::Deleted => remove(index, source, &event.object),
                EventKind::Added | EventKind::Modified => put(index, source, &event.object),
            }
        }
        return now;
    }
    match source {
        Source::Role | Source::ClusterRole => index.clear_roles(source == Source::ClusterRole),
        Source::RoleBinding | Source::ClusterRoleBinding => {
            index.clear_bindings(source == Source::ClusterRoleBinding);
        }
    }
    let visit = |object: &Arc<Object>| {
        put(index, source, object);
        true
    };
    from.visit(None, None, || 0, visit)
}

fn put(index: &mut Index, source: Source, object: &Object) {
    if let Err(error) = try_put(index, source, object) {
        // What cannot be read allows nothing.
        remove(index, source, object);
        tracing::error!(object = %object.key, %error, "a stored object of RBAC does not decode");
    }
}

fn try_put(index: &mut Index, source: Source, object: &Object) -> Result<(), Error> {
    let (namespace, name) = (&*object.key.namespace, &*object.key.name);
    match source {
        Source::Role => {
            let role: Role = object.decode()?;
            index.put_role(namespace, name, role.rules.unwrap_or_default());
        }
        Source::ClusterRole => {
            let role: ClusterRole = object.decode()?;
            index.put_role(namespace, name, role.rules.unwrap_or_default());
        }
        Source::RoleBinding => {
            let binding: RoleBinding = object.decode()?;
            index.put_binding(namespace, name, binding.role_ref, &binding.subjects.unwrap_or_default());
        }
        Source::ClusterRoleBinding => {
            let binding: ClusterRoleBinding = object.decode()?;
            index.put_binding(namespace, name, binding.role_ref, &binding.subjects.unwrap_or_default());
        }
    }
    Ok(())
}

fn remove(index: &mut Index, source: Source, object: &Object) {
    let (namespace, name) = (&*object.key.namespace, &*object.key.name);
    match source {
        Source::Role | Source::ClusterRole => index.remove_role(namespace, name),
        Source::RoleBinding | Source::ClusterRoleBinding => index.remove_binding(namespace, name),
    }
}
