//! Namespaces, classes and the Services of API and DNS. The shell looks after them while it leads.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proa_api::Refusal;
use proa_api::names::{
    ANNOTATION_DEFAULT_INGRESS_CLASS, ANNOTATION_DEFAULT_STORAGE_CLASS, CONFIG_MAP_NODES, INGRESS_CLASS,
    INGRESS_CONTROLLER, LABEL_SERVICE_NAME, LOCAL_PATH_CLASS, LOCAL_PATH_PROVISIONER, NAMESPACE_DEFAULT,
    NAMESPACE_SYSTEM, SYSTEM_NAMESPACES, SYSTEM_PRIORITY_CLASSES,
};
use proa_kinds::{Kind, Part};
use serde_json::{Value, json};

use crate::registry::{Caller, DeleteOptions, Registry, WriteOptions};

/// The user in whose name the server makes its own objects.
const USER: &str = "system:apiserver";

/// A Service of the cluster's own.
struct OwnService {
    namespace: &'static str,
    name: &'static str,
    labels: &'static [(&'static str, &'static str)],
}

/// The Service by which pods reach the API.
const API_SERVICE: OwnService = OwnService {
    namespace: NAMESPACE_DEFAULT,
    name: "kubernetes",
    labels: &[("component", "apiserver"), ("provider", "kubernetes")],
};
/// The Service of the cluster's DNS, under the name that tools look for.
const DNS_SERVICE: OwnService = OwnService {
    namespace: NAMESPACE_SYSTEM,
    name: "kube-dns",
    // `kubectl cluster-info` lists what has the second label, under the name in the third.
    labels: &[
        ("k8s-app", "kube-dns"),
        ("kubernetes.io/cluster-service", "true"),
        ("kubernetes.io/name", "ProaDNS"),
    ],
};

/// How often they are looked after: what somebody deletes comes back within this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Where the API is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its address among the services.
    pub service_address: Ipv4Addr,
    /// The address of the cluster's DNS among the services.
    pub dns_address: Ipv4Addr,
    /// The port it listens on.
    pub port: u16,
    /// Where pods really reach it; without one its Service is there and has no endpoints.
    pub advertise: Option<SocketAddr>,
}

/// Looks after the objects for as long as it is let.
pub async fn keep(registry: &Registry, place: Place) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(refusal) = ensure(registry, place).await {
            tracing::warn!(%refusal, "the cluster's first objects could not be put right");
        }
    }
}

/// Tells nodes what they have to know of the cluster before they can run pods.
pub async fn ensure_node_settings(
    registry: &Registry,
    cluster_cidr: &str,
    service_cidr: &str,
    cluster_domain: &str,
) -> Result<(), Refusal> {
    let maker = Maker { registry, caller: Caller::system(USER) };
    let map = json!({
        "metadata": { "name": CONFIG_MAP_NODES, "namespace": NAMESPACE_SYSTEM },
        "data": {
            "clusterCIDR": cluster_cidr, "serviceCIDR": service_cidr, "clusterDomain": cluster_domain,
        },
    });
    maker.ensure("v1", "ConfigMap", map, &["data"]).await
}

/// Makes what is missing and puts right what does not fit.
pub async fn ensure(registry: &Registry, place: Place) -> Result<(), Refusal> {
    let maker = Maker { registry, caller: Caller::system(USER) };
    for name in SYSTEM_NAMESPACES {
        maker.ensure("v1", "Namespace", json!({ "metadata": { "name": name } }), &[]).await?;
    }
    for (name, value, description) in SYSTEM_PRIORITY_CLASSES {
        let class = json!({
            "metadata": { "name": name }, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        maker.ensure("scheduling.k8s.io/v1", "PriorityClass", class, &[]).await?;
    }
    let class = json!({
        "metadata": {
            "name": INGRESS_CLASS,
            "annotations": { ANNOTATION_DEFAULT_INGRESS_CLASS: "true" },
        },
        "spec": { "controller": INGRESS_CONTROLLER },
    });
    // Its annotations are the users' to change: another class may be the default.
    maker.ensure("networking.k8s.io/v1", "IngressClass", class, &[]).await?;
    let class = json!({
        "metadata": {
            "name": LOCAL_PATH_CLASS,
            "annotations": { ANNOTATION_DEFAULT_STORAGE_CLASS: "true" },
        },
        "provisioner": LOCAL_PATH_PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    });
    maker.ensure("storage.k8s.io/v1", "StorageClass", class, &[]).await?;
    let target = place.advertise.map_or(place.port, |a| a.port());
    let ports = json!([{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": target }]);
    maker.ensure_service(&API_SERVICE, place.service_address, ports).await?;
    maker.ensure_endpoints(place.advertise).await?;
    // It has neither selector nor endpoints: each node answers at this address itself.
    let port = |name, protocol| json!({ "name": name, "port": 53, "protocol": protocol, "targetPort": 53 });
    let ports = json!([port("dns", "UDP"), port("dns-tcp", "TCP")]);
    maker.ensure_service(&DNS_SERVICE, place.dns_address, ports).await
}

struct Maker<'a> {
    registry: &'a Registry,
    caller: Caller,
}

impl Maker<'_> {
    /// Makes the object unless it is there; if it is, sets those of its top-level members that
    /// are `kept`.
    async fn ensure(
        &self,
        api_version: &str,
        kind: &str,
        mut object: Value,
        kept: &'static [&'static str],
    ) -> Result<(), Refusal> {
        let table = self.registry.kinds();
        let row = table
            .by_kind(api_version, kind)
            .ok_or_else(|| Refusal::internal(format!("{kind} is not in the table of kinds")))?;
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if self.registry.get(row, &namespace, &name).is_err() {
            return self.create(row, &namespace, object).await;
        }
        if kept.is_empty() {
            return Ok(());
        }
        let change = move |current: &Value| {
            let mut changed = current.clone();
            for member in kept {
                changed[*member] = object[*member].clone();
            }
            Ok(changed)
        };
        let options = WriteOptions { field_manager: USER.to_owned(), ..WriteOptions::default() };
        self.registry
            .patch(&self.caller, row, &namespace, &name, Part::Main, change, &options)
            .await
            .map(|_| ())
    }

    async fn create(&self, kind: &Kind, namespace: &str, object: Value) -> Result<(), Refusal> {
        let options = WriteOptions { field_manager: USER.to_owned(), ..WriteOptions::default() };
        match self.registry.create(&self.caller, kind, namespace, object, &options).await {
            Err(refusal) if refusal.reason() != "AlreadyExists" => Err(refusal),
            _ => Ok(()),
        }
    }

    /// A Service with a fixed address. One with another address is from before the service range
    /// was changed; since the address of a Service cannot change, it is made anew.
    async fn ensure_service(&self, own: &OwnService, address: Ipv4Addr, ports: Value) -> Result<(), Refusal> {
        let table = self.registry.kinds();
        if let Some(kind) = table.by_kind("v1", "Service")
            && let Ok(found) = self.registry.get(kind, own.namespace, own.name)
            && found.value()["spec"]["clusterIP"] != address.to_string()
        {
            let options = DeleteOptions::default();
            self.registry.delete(&self.caller, kind, own.namespace, own.name, &options).await?;
        }
        let labels: Value = own.labels.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
        let service = json!({
            "metadata": { "name": own.name, "namespace": own.namespace, "labels": labels },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": address.to_string(),
                "clusterIPs": [address.to_string()],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "ports": ports,
            },
        });
        self.ensure("v1", "Service", service, &["spec"]).await
    }

    /// The endpoints of the API. No controller keeps them, since its Service has no selector.
    async fn ensure_endpoints(&self, advertise: Option<SocketAddr>) -> Result<(), Refusal> {
        let ports = |port: u16| json!([{ "name": "https", "port": port, "protocol": "TCP" }]);
        let subsets: Value = advertise
            .iter()
            .map(|a| json!({ "addresses": [{ "ip": a.ip().to_string() }], "ports": ports(a.port()) }))
            .collect();
        let endpoints = json!({
            "metadata": {
                "name": API_SERVICE.name,
                "namespace": NAMESPACE_DEFAULT,
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
            },
            "subsets": subsets,
        });
        self.ensure("v1", "Endpoints", endpoints, &["subsets"]).await?;

        let ready: Value = advertise
            .iter()
            .map(|a| json!({ "addresses": [a.ip().to_string()], "conditions": { "ready": true } }))
            .collect();
        let slice = json!({
            "metadata": {
                "name": API_SERVICE.name,
                "namespace": NAMESPACE_DEFAULT,
                "labels": { LABEL_SERVICE_NAME: API_SERVICE.name },
            },
            "addressType": "IPv4",
            "endpoints": ready,
            "ports": advertise.map_or_else(|| json!([]), |a| ports(a.port())),
        });
        self.ensure("discovery.k8s.io/v1", "EndpointSlice", slice, &["endpoints", "ports"]).await
    }
}
