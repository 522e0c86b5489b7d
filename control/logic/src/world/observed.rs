//! Observed: all that the controllers and the scheduler know, folded from watch events.
//!
//! Fed by the shell with [`Observed::apply`], [`Observed::delete`] and [`Observed::reset`]; read
//! by every decision. Never asks anybody anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use proa_api::names;
use proa_kinds::{Size, Table};

use super::autoscaling::Autoscaling;
use super::controller::Controller;
use super::facts::{AccountToken, Fact, Key, KindName, Meta, Node, Object, whole_objects};
use super::graph::Graph;
use super::pods::Pods;
use super::settings::ClusterSettings;

macro_rules! observed {
    ($($field:ident: $variant:ident($type:ty),)*) => {
        /// All that is known of the cluster.
        #[derive(Clone, Debug, Default)]
        pub struct Observed {
            /// The cluster's CA certificates, for the ConfigMap in each namespace.
            pub ca_pem: Arc<str>,
            /// What the cluster is set up with.
            pub settings: ClusterSettings,
            /// Who owns whom.
            pub graph: Graph,
            /// The pods.
            pub pods: Pods,
            /// The nodes by name.
            pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
            /// The namespaces by name.
            pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
            /// When each node last renewed its Lease.
            pub heartbeats: BTreeMap<Arc<str>, Timestamp>,
            /// Nodes that pods are bound to and that do not exist, and since when.
            pub vanished: BTreeMap<Arc<str>, Timestamp>,
            /// The uids of the ServiceAccounts.
            pub service_accounts: BTreeMap<Key, Arc<str>>,
            /// The CA certificates that each namespace publishes, with the ConfigMap that does.
            pub root_cas: BTreeMap<Arc<str>, (Arc<str>, Arc<Meta>)>,
            /// When the bootstrap tokens that end do so, by their Secrets.
            pub bootstrap_tokens: BTreeMap<Key, (Timestamp, Arc<Meta>)>,
            /// The Secrets that hold tokens of ServiceAccounts.
            pub account_tokens: Shelf<AccountToken>,
            /// The kinds that there are.
            pub kinds: Arc<Table>,
            /// The sizes of objects of which nothing else is known.
            pub sizes: BTreeMap<(KindName, Key), (Arc<Meta>, Arc<Size>)>,
            /// What is measured for autoscalers, and what they have decided before.
            pub autoscaling: Autoscaling,
            /// What the API server last refused to each key of a controller.
            pub refused: BTreeMap<(Controller, Key), String>,
            $(#[doc = concat!("The objects of kind ", stringify!($variant), ".")] pub $field: Shelf<$type>,)*
        }

        impl Observed {
            fn put_whole(&mut self, key: Key, fact: &Fact) -> Option<Fact> {
                match fact {
                    $(Fact::$variant(o) => self.$field.0.insert(key, o.clone()).map(Fact::$variant),)*
                    _ => None,
                }
            }

            fn take_whole(&mut self, kind: &KindName, key: &Key) -> Option<Fact> {
                $(if kind.is::<$type>() {
                    return self.$field.0.remove(key).map(Fact::$variant);
                })*
                None
            }
        }
    };
}
whole_objects!(observed!);

/// Objects of one kind by namespace and name.
#[derive(Clone, Debug)]
pub struct Shelf<T>(BTreeMap<Key, Arc<T>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf(BTreeMap::new())
    }
}

impl<T> Shelf<T> {
    /// The object of this name.
    pub fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.0.get(key)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<T>)> {
        self.0.iter()
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<T>)> {
        self.0.range(Key::new(namespace, "")..).take_while(move |(k, _)| *k.namespace == *namespace)
    }
}

/// What one event changed: the object before and after it.
#[derive(Clone, Debug)]
pub struct Change {
    /// What was there.
    pub old: Option<Object>,
    /// What is there now.
    pub new: Option<Object>,
}

impl Observed {
    /// Nothing is known yet but the CA.
    pub fn new(ca_pem: &str) -> Self {
        Observed { ca_pem: ca_pem.into(), ..Observed::default() }
    }

    /// Folds in an object that was added or modified.
    pub fn apply(&mut self, object: Object, now: Timestamp) -> Change {
        let old_meta = self.graph.insert(object.meta.clone());
        let old_fact = self.put(&object, now);
        let old = old_meta.map(|meta| Object { meta, fact: old_fact.unwrap_or(Fact::Other) });
        Change { old, new: Some(object) }
    }

    /// Folds in that an object is gone.
    pub fn delete(&mut self, meta: &Meta, now: Timestamp) -> Change {
        let Some(meta) = self.graph.remove(&meta.uid) else { return Change { old: None, new: None } };
        let fact = self.take(&meta, now);
        Change { old: Some(Object { meta, fact }), new: None }
    }

    /// Folds in a fresh list of all objects of a kind: what is not in it is gone.
    pub fn reset(&mut self, kind: &KindName, objects: Vec<Object>, now: Timestamp) -> Vec<Change> {
        let listed: BTreeSet<Arc<str>> = objects.iter().map(|o| o.meta.uid.clone()).collect();
        let gone: Vec<Arc<Meta>> =
            self.graph.iter().filter(|m| m.kind == *kind && !listed.contains(&m.uid)).cloned().collect();
        let mut changes: Vec<Change> = gone.iter().map(|m| self.delete(m, now)).collect();
        changes.extend(objects.into_iter().map(|o| self.apply(o, now)));
        self.graph.complete(kind);
        changes
    }

    /// Folds in that a kind is served no longer: nobody can tell of its objects.
    pub fn forget(&mut self, kind: &KindName, now: Timestamp) -> Vec<Change> {
        let changes = self.reset(kind, Vec::new(), now);
        self.graph.incomplete(kind);
        changes
    }

    fn put(&mut self, object: &Object, now: Timestamp) -> Option<Fact> {
        let key = object.meta.key.clone();
        let name = key.name.clone();
        match &object.fact {
            Fact::Pod(pod) => {
                if let Some(node) = pod.node.as_ref().filter(|n| !self.nodes.contains_key(*n)) {
                    self.vanished.entry(node.clone()).or_insert(now);
                }
                self.pods.insert(pod.clone()).map(Fact::Pod)
            }
            Fact::Node(node) => {
                self.vanished.remove(&name);
                self.nodes.insert(name, node.clone()).map(Fact::Node)
            }
            Fact::Namespace(n) => self.namespaces.insert(name, n.clone()).map(Fact::Namespace),
            Fact::Lease(at) if &*key.namespace == names::NAMESPACE_NODE_LEASE => {
                self.heartbeats.insert(name, *at).map(Fact::Lease)
            }
            Fact::Lease(_) => None,
            Fact::RootCa(ca) => {
                let entry = (ca.clone(), object.meta.clone());
                self.root_cas.insert(key.namespace, entry).map(|(ca, _)| Fact::RootCa(ca))
            }
            Fact::BootstrapToken(ends) => {
                let old = self.bootstrap_tokens.insert(key, (*ends, object.meta.clone()));
                old.map(|(ends, _)| Fact::BootstrapToken(ends))
            }
            Fact::AccountToken(token) => {
                self.account_tokens.0.insert(key, token.clone()).map(Fact::AccountToken)
            }
            Fact::Size(size) => {
                let entry = (object.meta.clone(), size.clone());
                let old = self.sizes.insert((object.meta.kind.clone(), key), entry);
                old.map(|(_, size)| Fact::Size(size))
            }
            Fact::Other => {
                if object.meta.kind.is::<Secret>() {
                    // Its end may have been taken away.
                    self.bootstrap_tokens.remove(&key);
                }
                if object.meta.kind.is::<ServiceAccount>() {
                    self.service_accounts.insert(key, object.meta.uid.clone());
                }
                None
            }
            whole => self.put_whole(key, whole),
        }
    }

    fn take(&mut self, meta: &Meta, now: Timestamp) -> Fact {
        let key = &meta.key;
        let fact = match (&*meta.kind.api_version, &*meta.kind.kind) {
            ("v1", "Pod") => {
                let pod = self.pods.remove(key);
                let node = pod.as_ref().and_then(|p| p.node.clone());
                if let Some(node) = node.filter(|n| self.pods.load(n).is_none()) {
                    self.vanished.remove(&node);
                }
                pod.map(Fact::Pod)
            }
            ("v1", "Node") => {
                if self.pods.load(&key.name).is_some() {
                    self.vanished.insert(key.name.clone(), now);
                }
                self.nodes.remove(&key.name).map(Fact::Node)
            }
            ("v1", "Namespace") => self.namespaces.remove(&key.name).map(Fact::Namespace),
            ("coordination.k8s.io/v1", "Lease") if &*key.namespace == names::NAMESPACE_NODE_LEASE => {
                self.heartbeats.remove(&key.name).map(Fact::Lease)
            }
            ("v1", "ConfigMap") if &*key.name == names::CONFIG_MAP_ROOT_CA => {
                self.root_cas.remove(&key.namespace).map(|(ca, _)| Fact::RootCa(ca))
            }
            ("v1", "Secret") => {
                let ends = self.bootstrap_tokens.remove(key).map(|(ends, _)| Fact::BootstrapToken(ends));
                ends.or_else(|| self.account_tokens.0.remove(key).map(Fact::AccountToken))
            }
            ("v1", "ServiceAccount") => {
                self.service_accounts.remove(key);
                None
            }
            _ => {
                let size = self.sizes.remove(&(meta.kind.clone(), key.clone()));
                size.map(|(_, size)| Fact::Size(size)).or_else(|| self.take_whole(&meta.kind, key))
            }
        };
        fact.unwrap_or(Fact::Other)
    }
}
