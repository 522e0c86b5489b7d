//! Wakes: which keys of which controllers have to look again after a change.
//!
//! Called by the shell for each [`Change`]. A wake only ever costs time: a controller decides on
//! the state and never learns what woke it. A forgotten wake, though, is a decision that comes
//! too late, so the rules here err on the side of waking.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{self as core, PersistentVolumeClaim, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::names;
use proa_api::owner::{controller_of, refers_to};
use proa_api::selector::Selector;

use super::controller::Controller;
use super::facts::{Fact, Key, KindName, Meta, Node, Object, Pod};
use super::observed::{Change, Observed};
use super::volumes;
use super::workloads::{may_own, recreates};

/// Who has to look again.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// Keys of controllers.
    pub keys: BTreeSet<(Controller, Key)>,
}

impl Wakes {
    /// Adds those that this change concerns. `seen` is the state after it.
    pub fn add(&mut self, seen: &Observed, change: &Change) {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        let Some(meta) = new.or(old).map(|o| o.meta.clone()) else { return };
        self.ownership(seen, old, new);
        self.namespace_of(seen, &meta);
        for object in [old, new].into_iter().flatten() {
            self.fact(seen, object);
        }
        if old.and_then(|o| replicas(&o.fact)) != new.and_then(|o| replicas(&o.fact)) {
            self.budgets(seen, &meta.key.namespace, |_| true);
        }
        match (old.map(|o| &o.fact), new.map(|o| &o.fact)) {
            (Some(Fact::Pod(old)), Some(Fact::Pod(new))) => self.pod(seen, Some(old), Some(new)),
            (_, Some(Fact::Pod(new))) => self.pod(seen, None, Some(new)),
            (Some(Fact::Pod(old)), _) => self.pod(seen, Some(old), None),
            (Some(Fact::Node(old)), Some(Fact::Node(new))) if !takes_others(old, new) => {}
            (_, Some(Fact::Node(_))) | (Some(Fact::Node(_)), _) => self.daemon_sets(seen),
            _ => {}
        }
    }

    fn key(&mut self, controller: Controller, key: &Key) {
        self.keys.insert((controller, key.clone()));
    }

    fn name(&mut self, controller: Controller, name: &Arc<str>) {
        self.keys.insert((controller, Key { namespace: "".into(), name: name.clone() }));
    }

    fn fact(&mut self, seen: &Observed, object: &Object) {
        let key = &object.meta.key;
        match &object.fact {
            Fact::Deployment(_) => self.key(Controller::Deployment, key),
            Fact::ReplicaSet(set) => {
                self.key(Controller::ReplicaSet, key);
                self.owner_of_replica_set(seen, key, set);
            }
            Fact::ReplicationController(_) => self.key(Controller::ReplicationController, key),
            Fact::DaemonSet(_) => self.key(Controller::DaemonSet, key),
            Fact::HorizontalPodAutoscaler(_) => self.key(Controller::HorizontalPodAutoscaler, key),
            Fact::ControllerRevision(revision) => self.owner_of_revision(seen, key, revision),
            Fact::Service(_) => {
                self.key(Controller::EndpointSlice, key);
                self.key(Controller::EndpointSliceMirroring, key);
                self.key(Controller::Endpoints, key);
            }
            Fact::EndpointSlice(slice) => {
                let service = slice.metadata.labels.as_ref().and_then(|l| l.get(names::LABEL_SERVICE_NAME));
                if let Some(service) = service {
                    let key = Key::new(&key.namespace, service);
                    self.key(Controller::EndpointSlice, &key);
                    self.key(Controller::EndpointSliceMirroring, &key);
                }
            }
            Fact::Endpoints(_) => {
                self.key(Controller::Endpoints, key);
                self.key(Controller::EndpointSliceMirroring, key);
            }
            Fact::Namespace(_) => {
                self.name(Controller::Namespace, &key.name);
                self.name(Controller::ServiceAccount, &key.name);
                self.name(Controller::RootCa, &key.name);
            }
            Fact::Node(node) => {
                self.name(Controller::Node, &key.name);
                self.name(Controller::PodGarbage, &key.name);
                self.name(Controller::LocalPath, &key.name);
                if node.pod_cidr.is_empty() || !seen.nodes.contains_key(&key.name) {
                    self.key(Controller::NodeIpam, &Key::new("", ""));
                }
                // Requests may wait for the Node, or for its addresses.
                for (key, _) in seen.certificate_signing_requests.iter() {
                    self.key(Controller::CertificateApproving, key);
                }
            }
            Fact::CertificateSigningRequest(_) => {
                self.key(Controller::CertificateApproving, key);
                self.key(Controller::CertificateSigning, key);
                self.key(Controller::CertificateCleaner, key);
            }
            Fact::BootstrapToken(_) => self.key(Controller::TokenCleaner, key),
            Fact::AccountToken(_) => self.key(Controller::AccountToken, key),
            Fact::Lease(_) if &*key.namespace == names::NAMESPACE_NODE_LEASE => {
                self.name(Controller::Node, &key.name);
            }
            Fact::RootCa(_) => self.name(Controller::RootCa, &key.namespace),
            Fact::Other if object.meta.kind.is::<core::ServiceAccount>() => self.account(seen, key),
            Fact::Job(job) => {
                self.key(Controller::Job, key);
                let uid = job.metadata.uid.as_deref().unwrap_or_default();
                if seen.graph.get(uid).is_none() {
                    self.orphans(seen, uid);
                }
                if let Some(owner) = controller_of(&job.metadata).filter(|owner| refers_to::<CronJob>(owner))
                {
                    self.key(Controller::CronJob, &Key::new(&key.namespace, &owner.name));
                }
            }
            Fact::CronJob(_) => self.key(Controller::CronJob, key),
            Fact::StatefulSet(_) => self.key(Controller::StatefulSet, key),
            Fact::ResourceQuota(_) => self.key(Controller::ResourceQuota, key),
            Fact::PodDisruptionBudget(_) => self.key(Controller::Disruption, key),
            Fact::PersistentVolumeClaim(claim) => self.claim(seen, key, claim),
            Fact::PersistentVolume(volume) => {
                self.key(Controller::VolumeBinder, key);
                self.key(Controller::VolumeProtection, key);
                self.local_path(volumes::node_of_volume(volume));
                for claim in volumes::claims_of(seen, volume) {
                    self.key(Controller::ClaimBinder, &claim);
                    self.key(Controller::VolumeExpansion, &claim);
                }
            }
            Fact::StorageClass(_) => {
                for claim in volumes::claims_of_class(seen, &key.name) {
                    self.key(Controller::ClaimBinder, &claim);
                    self.key(Controller::VolumeExpansion, &claim);
                    let claim = seen.persistent_volume_claims.get(&claim);
                    self.local_path(claim.and_then(|claim| volumes::node_of_claim(claim)));
                }
            }
            Fact::ClusterRole(_) => self.aggregating_roles(seen),
            _ => {}
        }
    }

    fn account(&mut self, seen: &Observed, account: &Key) {
        if &*account.name == "default" {
            self.name(Controller::ServiceAccount, &account.namespace);
        }
        for (key, token) in seen.account_tokens.in_namespace(&account.namespace) {
            if token.account == account.name {
                self.key(Controller::AccountToken, key);
            }
        }
    }

    fn aggregating_roles(&mut self, seen: &Observed) {
        for (key, _) in seen.cluster_roles.iter().filter(|(_, role)| role.aggregation_rule.is_some()) {
            self.key(Controller::ClusterRoleAggregation, key);
        }
    }

    fn local_path(&mut self, node: Option<&str>) {
        if let Some(node) = node {
            self.name(Controller::LocalPath, &node.into());
        }
    }

    fn claim(&mut self, seen: &Observed, key: &Key, claim: &PersistentVolumeClaim) {
        self.local_path(volumes::node_of_claim(claim));
        for controller in [Controller::ClaimBinder, Controller::ClaimProtection, Controller::VolumeExpansion]
        {
            self.key(controller, key);
        }
        for volume in volumes::volumes_of(seen, claim) {
            self.key(Controller::VolumeBinder, &volume);
        }
        for (set, object) in seen.stateful_sets.in_namespace(&key.namespace) {
            if may_own(object, &key.name) {
                self.key(Controller::StatefulSet, set);
            }
        }
        if let Some(owner) = controller_of(&claim.metadata).filter(|owner| refers_to::<core::Pod>(owner)) {
            self.key(Controller::EphemeralVolume, &Key::new(&key.namespace, &owner.name));
        }
    }

    /// A pod that comes, goes or moves frees its claims, or is the consumer they wait for.
    fn claims_of_pod(&mut self, seen: &Observed, pod: &Pod) {
        for name in &pod.claims {
            let key = Key { namespace: pod.meta.key.namespace.clone(), name: name.clone() };
            let claim = seen.persistent_volume_claims.get(&key);
            if claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                self.key(Controller::ClaimProtection, &key);
            }
            if claim.is_some_and(|claim| volumes::is_unbound(claim)) {
                self.key(Controller::ClaimBinder, &key);
            }
        }
        if pod.ephemeral.is_some() {
            self.key(Controller::EphemeralVolume, &pod.meta.key);
        }
    }

    fn owner_of_replica_set(&mut self, seen: &Observed, key: &Key, set: &ReplicaSet) {
        match controller_of(&set.metadata) {
            Some(owner) if refers_to::<Deployment>(owner) => {
                self.key(Controller::Deployment, &Key::new(&key.namespace, &owner.name));
            }
            Some(_) => {}
            None => {
                let labels = set.metadata.labels.as_ref();
                for (key, d) in seen.deployments.in_namespace(&key.namespace) {
                    let selector = d.spec.as_ref().map(|s| &s.selector);
                    if Selector::from_object(selector).matches(labels) {
                        self.key(Controller::Deployment, key);
                    }
                }
            }
        }
    }

    fn owner_of_revision(&mut self, seen: &Observed, key: &Key, revision: &ControllerRevision) {
        if let Some(owner) = controller_of(&revision.metadata) {
            if let Some(controller) = of_kind(&owner.kind) {
                self.key(controller, &Key::new(&key.namespace, &owner.name));
            }
            return;
        }
        for (controller, owner, selector) in selectors(seen, &key.namespace) {
            if selector.matches(revision.metadata.labels.as_ref()) {
                self.key(controller, owner);
            }
        }
    }

    fn orphans(&mut self, seen: &Observed, uid: &str) {
        for pod in seen.graph.dependents(uid).filter(|m| m.has_finalizer(names::FINALIZER_JOB_TRACKING)) {
            self.key(Controller::JobOrphan, &pod.key);
        }
    }

    fn daemon_sets(&mut self, seen: &Observed) {
        for (key, _) in seen.daemon_sets.iter() {
            self.key(Controller::DaemonSet, key);
        }
    }

    fn ownership(&mut self, seen: &Observed, old: Option<&Object>, new: Option<&Object>) {
        let going = |o: Option<&Object>| o.is_some_and(|o| o.meta.deleted.is_some());
        if let Some(object) = new {
            if !object.meta.owners.is_empty() || object.meta.deleted.is_some() {
                self.name(Controller::GarbageCollector, &object.meta.uid);
            }
            if going(new) && !going(old) {
                self.dependents(seen, &object.meta.uid);
            }
        } else if let Some(object) = old {
            self.dependents(seen, &object.meta.uid);
        }
        // An owner in foreground deletion waits for its dependents to go, or to let go of it.
        for owner in old.into_iter().flat_map(|o| o.meta.owners.iter()) {
            if seen.graph.get(&owner.uid).is_some_and(|m| m.deleted.is_some()) {
                self.name(Controller::GarbageCollector, &owner.uid.as_str().into());
            }
        }
        for owner in new.into_iter().flat_map(|o| o.meta.owners.iter()) {
            if seen.graph.get(&owner.uid).is_some_and(|m| m.deleted.is_some()) {
                self.name(Controller::GarbageCollector, &owner.uid.as_str().into());
            }
        }
    }

    /// Every object of this kind is known: now it can be told which owners of it are not there.
    pub fn complete(&mut self, seen: &Observed, kind: &KindName) {
        for object in seen.graph.owned_by_kind(kind) {
            self.name(Controller::GarbageCollector, &object.uid);
        }
    }

    fn dependents(&mut self, seen: &Observed, uid: &str) {
        for dependent in seen.graph.dependents(uid) {
            self.name(Controller::GarbageCollector, &dependent.uid);
        }
    }

    fn namespace_of(&mut self, seen: &Observed, meta: &Meta) {
        let namespace = &meta.key.namespace;
        let terminating =
            seen.namespaces.get(namespace).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
        if terminating {
            self.name(Controller::Namespace, namespace);
        }
    }

    fn pod(&mut self, seen: &Observed, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        for pod in [old, new].into_iter().flatten() {
            self.owner_of_pod(seen, pod);
            self.claims_of_pod(seen, pod);
        }
        if let Some(pod) = new.filter(|p| p.meta.has_finalizer(names::FINALIZER_JOB_TRACKING)) {
            self.key(Controller::JobOrphan, &pod.meta.key);
        }
        self.recreating_deployment(seen, old, new);
        if !same_health(old, new) {
            self.budgets(seen, &new.or(old).expect("one of them is there").meta.key.namespace, |budget| {
                [old, new].into_iter().flatten().any(|pod| covers(budget, pod))
            });
        }
        // One that does not go in time counts no more.
        if let Some(pod) = new.filter(|p| p.meta.deleted.is_some()) {
            for (key, _) in seen.resource_quotas.in_namespace(&pod.meta.key.namespace) {
                self.key(Controller::ResourceQuota, key);
            }
        }
        if let Some(pod) = new.filter(|p| p.disrupted_since.is_some()) {
            self.key(Controller::StaleDisruption, &pod.meta.key);
        }
        if !same_endpoint(old, new) {
            self.services_of(seen, old, new);
        }
        if let Some(node) = new.and_then(|p| p.node.as_ref()) {
            let exists = seen.nodes.get(node);
            if exists.is_none() {
                self.name(Controller::PodGarbage, node);
            } else if exists.is_some_and(|n| !n.taints.is_empty()) {
                self.name(Controller::Node, node);
            }
        }
    }

    fn owner_of_pod(&mut self, seen: &Observed, pod: &Pod) {
        let namespace = &pod.meta.key.namespace;
        if let Some(owner) = pod.meta.controller() {
            if let Some(controller) = of_kind(&owner.kind) {
                self.key(controller, &Key::new(namespace, &owner.name));
            }
            return;
        }
        for (controller, key, selector) in selectors(seen, namespace) {
            if selector.matches(Some(&pod.labels)) {
                self.key(controller, key);
            }
        }
    }

    /// A Deployment that recreates waits until the last old pod has ended.
    fn recreating_deployment(&mut self, seen: &Observed, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let running = |p: Option<&Arc<Pod>>| p.is_some_and(|p| !p.is_finished());
        if !running(old) || running(new) {
            return;
        }
        let Some(owner) = old.and_then(|p| p.meta.controller()) else { return };
        let Some(set) = seen.graph.get(&owner.uid) else { return };
        let Some(owner) = set.controller().filter(|owner| refers_to::<Deployment>(owner)) else { return };
        let key = Key::new(&set.key.namespace, &owner.name);
        if seen.deployments.get(&key).is_some_and(|d| recreates(d)) {
            self.key(Controller::Deployment, &key);
        }
    }

    fn budgets(&mut self, seen: &Observed, namespace: &str, test: impl Fn(&PodDisruptionBudget) -> bool) {
        for (key, _) in seen.pod_disruption_budgets.in_namespace(namespace).filter(|(_, b)| test(b)) {
            self.key(Controller::Disruption, key);
        }
    }

    fn services_of(&mut self, seen: &Observed, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let Some(pod) = new.or(old) else { return };
        for (key, service) in seen.services.in_namespace(&pod.meta.key.namespace) {
            if [old, new].into_iter().flatten().any(|p| service_selects(service, p)) {
                self.key(Controller::EndpointSlice, key);
                self.key(Controller::Endpoints, key);
            }
        }
    }
}

/// The controller that makes pods for objects of this kind.
fn of_kind(kind: &str) -> Option<Controller> {
    match kind {
        "ReplicaSet" => Some(Controller::ReplicaSet),
        "ReplicationController" => Some(Controller::ReplicationController),
        "DaemonSet" => Some(Controller::DaemonSet),
        "StatefulSet" => Some(Controller::StatefulSet),
        "Job" => Some(Controller::Job),
        _ => None,
    }
}

/// Everything in a namespace that selects pods to own.
fn selectors<'a>(
    seen: &'a Observed,
    namespace: &'a str,
) -> impl Iterator<Item = (Controller, &'a Key, Selector)> {
    let of = |selector: Option<&LabelSelector>| Selector::from_object(selector);
    let replica_sets = seen.replica_sets.in_namespace(namespace);
    let replica_sets =
        replica_sets.map(move |(k, o)| (Controller::ReplicaSet, k, of(o.spec.as_ref().map(|s| &s.selector))));
    let controllers = seen.replication_controllers.in_namespace(namespace);
    let controllers = controllers.map(|(k, o)| {
        let labels = o.spec.as_ref().and_then(|s| s.selector.as_ref());
        (Controller::ReplicationController, k, labels.map_or_else(Selector::nothing, Selector::from_map))
    });
    let daemon_sets = seen.daemon_sets.in_namespace(namespace);
    let daemon_sets =
        daemon_sets.map(move |(k, o)| (Controller::DaemonSet, k, of(o.spec.as_ref().map(|s| &s.selector))));
    let jobs = seen.jobs.in_namespace(namespace);
    let jobs =
        jobs.map(move |(k, o)| (Controller::Job, k, of(o.spec.as_ref().and_then(|s| s.selector.as_ref()))));
    let stateful_sets = seen.stateful_sets.in_namespace(namespace);
    let stateful_sets = stateful_sets
        .map(move |(k, o)| (Controller::StatefulSet, k, of(o.spec.as_ref().map(|s| &s.selector))));
    replica_sets.chain(controllers).chain(daemon_sets).chain(stateful_sets).chain(jobs)
}

fn service_selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| pod.labels.get(k) == Some(v)))
}

/// True if a budget covers a pod.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_object(selector).matches(Some(&pod.labels))
}

/// How many pods a workload wants, which is what budgets in percent reckon by.
fn replicas(fact: &Fact) -> Option<i32> {
    match fact {
        Fact::Deployment(o) => o.spec.as_ref()?.replicas,
        Fact::ReplicaSet(o) => o.spec.as_ref()?.replicas,
        Fact::ReplicationController(o) => o.spec.as_ref()?.replicas,
        Fact::StatefulSet(o) => o.spec.as_ref()?.replicas,
        _ => None,
    }
}

/// True if a budget counts the pod as before.
fn same_health(old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return false };
    let counted = |p: &Pod| (p.ready_since.is_some(), p.meta.deleted.is_some());
    old.meta.uid == new.meta.uid
        && counted(old) == counted(new)
        && old.labels == new.labels
        && old.meta.owners == new.meta.owners
}

/// True if nothing that an endpoint shows of a pod has changed.
fn same_endpoint(old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return false };
    let shown = |p: &Pod| (p.ready_since.is_some(), p.meta.deleted.is_some(), p.is_finished());
    old.meta.uid == new.meta.uid
        && shown(old) == shown(new)
        && old.labels == new.labels
        && old.ips == new.ips
        && old.node == new.node
        && old.hostname == new.hostname
        && old.subdomain == new.subdomain
}

/// True if the node may take pods that it did not take, or the other way round.
fn takes_others(old: &Node, new: &Node) -> bool {
    old.taints != new.taints || old.labels != new.labels || old.unschedulable != new.unschedulable
}
