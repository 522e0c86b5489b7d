//! Admission: what a write needs to know of other objects than its own.
//!
//! Fed by the registry around the kinds' hooks: before them with what a client left out, after
//! them with what the cluster gives out (addresses and ports). It reads the store and never
//! writes to it.
//!
//! - [`namespace`]: nothing is made in a namespace that is not there or on its way out
//! - [`node`]: what nodes may write
//! - [`node_addresses`]: which addresses nodes may say that they and their pods have
//! - [`pod`]: the service account of a pod
//! - [`pod_security`]: what pods may ask for in their namespace
//! - [`external_ips`]: whether Services may have external addresses
//! - [`limit_range`]: what pods and claims may ask for, and what they get
//! - [`priority`]: the priority of a pod
//! - [`runtime_class`]: what a RuntimeClass adds to a pod
//! - [`ingress`]: the default class of an Ingress
//! - [`storage`]: the default class of a claim, its protection, its growth
//! - [`service`]: the addresses and node ports of Services

pub mod external_ips;
pub mod ingress;
pub mod limit_range;
pub mod namespace;
pub mod node;
mod node_addresses;
pub mod pod;
pub mod pod_security;
pub mod priority;
pub mod runtime_class;
pub mod service;
pub mod storage;

use proa_api::Refusal;
use proa_kinds::Kind;
use proa_logic::controllers::node_ipam::Range;
use serde_json::Value;

use crate::registry::Caller;
use crate::store::{Key, Object, Store};
use service::{AddressRange, PortRange, Reservation, Services};

/// What admission needs to know of the cluster.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// Where nodes get the addresses of their pods; `None` if that is not known.
    pub pod_range: Option<Range>,
    /// Where Services get their addresses.
    pub service_range: AddressRange,
    /// Where Services get their node ports.
    pub node_ports: PortRange,
    /// Puts the volume with a service account's token into pods.
    pub token_volumes: bool,
    /// Refuses objects in namespaces that are not there.
    pub check_namespaces: bool,
    /// Refuses external addresses of Services.
    pub deny_external_ips: bool,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        AdmissionConfig {
            pod_range: None,
            service_range: AddressRange::default(),
            node_ports: PortRange::default(),
            token_volumes: true,
            check_namespaces: true,
            deny_external_ips: false,
        }
    }
}

/// The admission of one registry.
pub struct Admission {
    config: AdmissionConfig,
    services: Services,
}

impl Admission {
    /// Admission that knows which addresses and ports are taken by the Services in `store`.
    pub fn new(store: &Store, config: AdmissionConfig) -> Admission {
        let services = Services::new(config.service_range, config.node_ports);
        store.collection("services").visit(
            None,
            None,
            || 0,
            |object| {
                services.take(&object.value());
                true
            },
        );
        Admission { config, services }
    }

    /// The namespace that must be there when an object of this kind is written.
    pub fn guard(&self, kind: &Kind, namespace: &str) -> Option<Key> {
        (kind.namespaced && self.config.check_namespaces).then(|| namespace::key(namespace))
    }

    /// Refuses to make an object in a namespace that is not there or on its way out.
    pub fn check_namespace(
        &self,
        store: &Store,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        if kind.namespaced && self.config.check_namespaces {
            namespace::check(store, kind, namespace, name)?;
        }
        Ok(())
    }

    /// Refuses what a node may not say of its own addresses and its pods'. `new` has been validated.
    pub fn check_node_addresses(
        &self,
        store: &Store,
        caller: &Caller,
        kind: &Kind,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), Refusal> {
        node_addresses::check(store, &self.config, caller, kind, old, new)
    }

    /// Fills in what depends on other objects, before the kind's hooks see a new object.
    pub fn before_create(&self, store: &Store, kind: &Kind, object: &mut Value) -> Result<(), Refusal> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.check_namespace(store, kind, &namespace, &name)?;
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "PersistentVolumeClaim") => {
                storage::claim(store, object);
                Ok(())
            }
            ("", "PersistentVolume") => {
                storage::volume(object);
                Ok(())
            }
            ("", "Pod") => {
                pod::default_service_account(store, kind, object, self.config.token_volumes)?;
                limit_range::fill(store, object)?;
                priority::set(store, kind, object)?;
                runtime_class::merge(store, kind, object)
            }
            ("scheduling.k8s.io", "PriorityClass") => priority::check_default(store, kind, object),
            ("networking.k8s.io", "Ingress") => {
                ingress::default_class(store, object);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Gives a new object what the cluster gives out, after the kind's hooks.
    pub fn after_create(
        &self,
        store: &Store,
        kind: &Kind,
        object: &mut Value,
    ) -> Result<Reservation<'_>, Refusal> {
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Namespace") => {
                namespace::begin(object);
                Ok(Reservation::nothing())
            }
            ("", "Service") => {
                self.check_external_ips(kind, None, object)?;
                self.services.allocate(None, object)
            }
            ("", "Pod" | "PersistentVolumeClaim") => {
                limit_range::check(store, kind, object)?;
                Ok(Reservation::nothing())
            }
            _ => Ok(Reservation::nothing()),
        }
    }

    /// Fills in what a changed object keeps of what it was given, before the kind's hooks.
    pub fn before_update(
        &self,
        store: &Store,
        kind: &Kind,
        old: &Value,
        new: &mut Value,
    ) -> Result<(), Refusal> {
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Pod") => priority::keep(old, new),
            ("", "Service") => service::carry_over(old, new),
            ("scheduling.k8s.io", "PriorityClass") => priority::check_default(store, kind, new)?,
            _ => {}
        }
        Ok(())
    }

    /// Gives a changed object what it needs more, after the kind's hooks.
    pub fn after_update(
        &self,
        store: &Store,
        kind: &Kind,
        old: &Value,
        new: &mut Value,
    ) -> Result<Reservation<'_>, Refusal> {
        if kind.group.is_empty() && kind.kind == "Service" {
            self.check_external_ips(kind, Some(old), new)?;
            return self.services.allocate(Some(old), new);
        }
        if kind.group.is_empty() && kind.kind == "PersistentVolumeClaim" {
            storage::resize(store, kind, old, new)?;
            // What is said of its status must get through whatever the limits are by now.
            if old["spec"] != new["spec"] {
                limit_range::check(store, kind, new)?;
            }
        }
        Ok(Reservation::nothing())
    }

    fn check_external_ips(&self, kind: &Kind, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
        match self.config.deny_external_ips {
            true => external_ips::deny(kind, old, new),
            false => Ok(()),
        }
    }

    /// Takes back what a deleted object was given.
    pub fn after_delete(&self, kind: &Kind, object: &Object) {
        if kind.group.is_empty() && kind.kind == "Service" {
            self.services.release(&object.uid);
        }
    }
}

#[cfg(test)]
mod tests;
