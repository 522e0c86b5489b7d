//! One decoded object, and what is kept of which kind.
//!
//! Made by the shell, folded by [`crate::world::Observed`].

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::names;
use proa_kinds::{ScalePaths, Size};
use serde::Deserialize;

use super::meta::{KindName, Meta, kind_of};
use super::node::Node;
use super::pod::Pod;

/// One decoded object.
#[derive(Clone, Debug)]
pub struct Object {
    /// What all objects have.
    pub meta: Arc<Meta>,
    /// What its kind has.
    pub fact: Fact,
}

/// A Secret of type `kubernetes.io/service-account-token`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountToken {
    /// Which Secret.
    pub meta: Arc<Meta>,
    /// The account that it names.
    pub account: Arc<str>,
    /// The uid of that account; empty before the Secret was filled, if its maker does not insist.
    pub account_uid: Arc<str>,
}

/// Hands the list of the kinds that are kept whole to another macro: the field of
/// [`crate::world::Observed`], the variant of [`Fact`], and the type. A kind that a controller needs
/// whole is one line here.
macro_rules! whole_objects {
    ($($to:tt)*) => {
        $($to)* {
            certificate_signing_requests: CertificateSigningRequest(k8s_openapi::api::certificates::v1::CertificateSigningRequest),
            cluster_roles: ClusterRole(k8s_openapi::api::rbac::v1::ClusterRole),
            controller_revisions: ControllerRevision(k8s_openapi::api::apps::v1::ControllerRevision),
            cron_jobs: CronJob(k8s_openapi::api::batch::v1::CronJob),
            csi_nodes: CSINode(k8s_openapi::api::storage::v1::CSINode),
            daemon_sets: DaemonSet(k8s_openapi::api::apps::v1::DaemonSet),
            deployments: Deployment(k8s_openapi::api::apps::v1::Deployment),
            endpoint_slices: EndpointSlice(k8s_openapi::api::discovery::v1::EndpointSlice),
            endpoints: Endpoints(k8s_openapi::api::core::v1::Endpoints),
            horizontal_pod_autoscalers: HorizontalPodAutoscaler(k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler),
            jobs: Job(k8s_openapi::api::batch::v1::Job),
            persistent_volume_claims: PersistentVolumeClaim(k8s_openapi::api::core::v1::PersistentVolumeClaim),
            persistent_volumes: PersistentVolume(k8s_openapi::api::core::v1::PersistentVolume),
            pod_disruption_budgets: PodDisruptionBudget(k8s_openapi::api::policy::v1::PodDisruptionBudget),
            replica_sets: ReplicaSet(k8s_openapi::api::apps::v1::ReplicaSet),
            replication_controllers: ReplicationController(k8s_openapi::api::core::v1::ReplicationController),
            resource_quotas: ResourceQuota(k8s_openapi::api::core::v1::ResourceQuota),
            services: Service(k8s_openapi::api::core::v1::Service),
            stateful_sets: StatefulSet(k8s_openapi::api::apps::v1::StatefulSet),
            storage_classes: StorageClass(k8s_openapi::api::storage::v1::StorageClass),
        }
    };
}
pub(crate) use whole_objects;

macro_rules! facts {
    ($($field:ident: $variant:ident($type:ty),)*) => {
        /// What is kept of an object beyond its [`Meta`].
        #[derive(Clone, Debug)]
        pub enum Fact {
            /// A pod.
            Pod(Arc<Pod>),
            /// A node.
            Node(Arc<Node>),
            /// A namespace.
            Namespace(Arc<core::Namespace>),
            /// A Lease: when it was last renewed.
            Lease(Timestamp),
            /// The `ca.crt` of a ConfigMap that holds the cluster's CA.
            RootCa(Arc<str>),
            /// The Secret of a bootstrap token that ends: when.
            BootstrapToken(Timestamp),
            /// The Secret of an account's token: of which account.
            AccountToken(Arc<AccountToken>),
            $(#[doc = concat!("A whole ", stringify!($variant), ".")] $variant(Arc<$type>),)*
            /// The size of an object that is known for nothing else.
            Size(Arc<Size>),
            /// Anything else.
            Other,
        }

        $(impl From<$type> for Object {
            fn from(object: $type) -> Self {
                typed(&kind_of::<$type>(), object, Fact::$variant)
            }
        })*

        /// Decodes an object that is kept whole; `None` for one that is not.
        fn whole(kind: &KindName, json: &[u8]) -> Option<Result<Object, serde_json::Error>> {
            $(if kind.is::<$type>() {
                return Some(serde_json::from_slice(json).map(|o| typed(kind, o, Fact::$variant)));
            })*
            None
        }
    };
}
whole_objects!(facts!);

/// Any object, read for its metadata only.
#[derive(Deserialize)]
struct Bare {
    metadata: ObjectMeta,
}

impl Object {
    /// Decodes the JSON of an object of this kind. Fails on JSON that is not of the kind, which
    /// the API server never stores.
    pub fn decode(kind: &KindName, json: &[u8]) -> Result<Self, serde_json::Error> {
        let name = (&*kind.api_version, &*kind.kind);
        Ok(match name {
            ("v1", "Pod") => serde_json::from_slice::<core::Pod>(json)?.into(),
            ("v1", "Node") => serde_json::from_slice::<core::Node>(json)?.into(),
            ("v1", "Namespace") => serde_json::from_slice::<core::Namespace>(json)?.into(),
            ("coordination.k8s.io/v1", "Lease") => serde_json::from_slice::<Lease>(json)?.into(),
            _ => match whole(kind, json) {
                Some(object) => object?,
                None => bare(kind, json)?,
            },
        })
    }

    /// The same with its size, of which these paths say where it is, if nothing else is kept of it.
    pub fn sized(self, paths: &ScalePaths, json: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match self.fact {
            Fact::Other => {
                let fact = Fact::Size(Arc::new(paths.read(&serde_json::from_slice(json)?)));
                Object { fact, ..self }
            }
            _ => self,
        })
    }
}

fn bare(kind: &KindName, json: &[u8]) -> Result<Object, serde_json::Error> {
    let bare: Bare = serde_json::from_slice(json)?;
    let meta = Meta::of(kind, &bare.metadata);
    let is_root_ca = kind.is::<core::ConfigMap>() && &*meta.key.name == names::CONFIG_MAP_ROOT_CA;
    let fact = if is_root_ca {
        root_ca(json)?
    } else if meta.kind.is::<core::Secret>() {
        return secret(meta, json);
    } else {
        Fact::Other
    };
    Ok(Object { meta: Arc::new(meta), fact })
}

fn root_ca(json: &[u8]) -> Result<Fact, serde_json::Error> {
    let map: core::ConfigMap = serde_json::from_slice(json)?;
    let data = map.data.unwrap_or_default();
    Ok(Fact::RootCa(data.get("ca.crt").map(String::as_str).unwrap_or_default().into()))
}

/// What a Secret is, without what is in it.
#[derive(Deserialize)]
struct SecretHead {
    metadata: ObjectMeta,
    #[serde(default, rename = "type")]
    type_: String,
}

/// Of Secrets only tokens are known: those of accounts, and those by which nodes join.
fn secret(meta: Meta, json: &[u8]) -> Result<Object, serde_json::Error> {
    let SecretHead { metadata, type_ } = serde_json::from_slice(json)?;
    let meta = Arc::new(meta);
    let fact = match &*type_ {
        names::SECRET_TYPE_ACCOUNT_TOKEN => {
            let annotations = metadata.annotations.unwrap_or_default();
            let text = |key: &str| Arc::from(annotations.get(key).map_or("", String::as_str));
            Fact::AccountToken(Arc::new(AccountToken {
                meta: meta.clone(),
                account: text(names::ANNOTATION_ACCOUNT_NAME),
                account_uid: text(names::ANNOTATION_ACCOUNT_UID),
            }))
        }
        names::SECRET_TYPE_BOOTSTRAP_TOKEN if may_be_bootstrap_token(&meta) => bootstrap_token(json)?,
        _ => Fact::Other,
    };
    Ok(Object { meta, fact })
}

fn may_be_bootstrap_token(meta: &Meta) -> bool {
    &*meta.key.namespace == names::NAMESPACE_SYSTEM
        && meta.key.name.starts_with(names::BOOTSTRAP_TOKEN_PREFIX)
}

fn bootstrap_token(json: &[u8]) -> Result<Fact, serde_json::Error> {
    let secret: core::Secret = serde_json::from_slice(json)?;
    let data = secret.data.unwrap_or_default();
    let ends = data.get("expiration").and_then(|v| std::str::from_utf8(&v.0).ok()?.parse().ok());
    Ok(ends.map_or(Fact::Other, Fact::BootstrapToken))
}

fn typed<K>(kind: &KindName, mut object: K, fact: fn(Arc<K>) -> Fact) -> Object
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    object.metadata_mut().managed_fields = None;
    let meta = Arc::new(Meta::of(kind, object.metadata()));
    Object { meta, fact: fact(Arc::new(object)) }
}

impl From<core::Namespace> for Object {
    fn from(namespace: core::Namespace) -> Self {
        typed(&kind_of::<core::Namespace>(), namespace, Fact::Namespace)
    }
}

impl From<Lease> for Object {
    fn from(lease: Lease) -> Self {
        let meta = Arc::new(Meta::of(&kind_of::<Lease>(), &lease.metadata));
        let renewed = lease.spec.and_then(|s| s.renew_time).map(|t| t.0);
        Object { fact: Fact::Lease(renewed.unwrap_or(meta.created)), meta }
    }
}

impl From<core::Node> for Object {
    fn from(node: core::Node) -> Self {
        let meta = Arc::new(Meta::of(&kind_of::<core::Node>(), &node.metadata));
        Object { fact: Fact::Node(Arc::new(Node::of(meta.clone(), node))), meta }
    }
}

impl From<core::Pod> for Object {
    fn from(pod: core::Pod) -> Self {
        let meta = Arc::new(Meta::of(&kind_of::<core::Pod>(), &pod.metadata));
        Object { fact: Fact::Pod(Arc::new(Pod::of(meta.clone(), pod))), meta }
    }
}
