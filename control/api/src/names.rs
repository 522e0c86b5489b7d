//! Well-known names of the Kubernetes API.
//!
//! Source: <https://kubernetes.io/docs/reference/labels-annotations-taints/>.

/// The namespace of objects that name none.
pub const NAMESPACE_DEFAULT: &str = "default";
/// The namespace of the cluster's own parts.
pub const NAMESPACE_SYSTEM: &str = "kube-system";
/// The namespace every client may read.
pub const NAMESPACE_PUBLIC: &str = "kube-public";
/// The namespace of the nodes' heartbeats.
pub const NAMESPACE_NODE_LEASE: &str = "kube-node-lease";
/// The namespaces that exist from the first start and cannot be deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] =
    [NAMESPACE_DEFAULT, NAMESPACE_SYSTEM, NAMESPACE_PUBLIC, NAMESPACE_NODE_LEASE];

/// Those of them that nobody may delete.
pub const PROTECTED_NAMESPACES: [&str; 3] = [NAMESPACE_DEFAULT, NAMESPACE_SYSTEM, NAMESPACE_PUBLIC];

/// Label: a node's CPU architecture, in Go's spelling (`amd64`, `arm64`).
pub const LABEL_ARCH: &str = "kubernetes.io/arch";
/// Label: a node's operating system.
pub const LABEL_OS: &str = "kubernetes.io/os";
/// The same label by the name that it had before.
pub const LABEL_ARCH_BETA: &str = "beta.kubernetes.io/arch";
/// Label: a node's operating system, by the name that it had before.
pub const LABEL_OS_BETA: &str = "beta.kubernetes.io/os";
/// Label: a node's host name.
pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// Label: the Service an EndpointSlice belongs to.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: the controller that keeps an EndpointSlice.
pub const LABEL_ENDPOINT_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label: the hash that ties a ReplicaSet and its pods to one template of a Deployment.
pub const LABEL_POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Label: a namespace's own name.
pub const LABEL_METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// Annotation: the revision of a Deployment, also kept on its ReplicaSets.
pub const ANNOTATION_REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation on a ReplicaSet: replicas its Deployment wants.
pub const ANNOTATION_DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation on a ReplicaSet: replicas its Deployment allows, surge included.
pub const ANNOTATION_MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotation: the object as `kubectl apply` last sent it.
pub const ANNOTATION_LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotation: the IngressClass that Ingresses without a class use.
pub const ANNOTATION_DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Annotation on a DaemonSet: how many templates it has had.
pub const ANNOTATION_TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// Annotation and label on a pod: its index in an indexed Job.
pub const JOB_COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation on a pod: how many pods of its index have failed before.
pub const ANNOTATION_JOB_INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation on a pod: how many more have failed in ways that do not count.
pub const ANNOTATION_JOB_INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Annotation on a Job: when its CronJob meant it to start.
pub const ANNOTATION_CRON_JOB_SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Finalizer on a pod: held until its Job has counted it.
pub const FINALIZER_JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Finalizer: delete dependents first.
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// Finalizer: leave dependents alone.
pub const FINALIZER_ORPHAN: &str = "orphan";
/// Finalizer in a Namespace's spec: held until the namespace is empty.
pub const FINALIZER_KUBERNETES: &str = "kubernetes";

/// The resource that claims ask for and volumes have.
pub const STORAGE: &str = "storage";
/// Annotation: the StorageClass that claims without a class use.
pub const ANNOTATION_DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Annotation that named a claim's or volume's class before the field did.
pub const ANNOTATION_STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotation on a claim: the node that the scheduler has chosen for its first consumer.
pub const ANNOTATION_SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation on a claim: who is to make its volume.
pub const ANNOTATION_STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same under its older name, which provisioners still read.
pub const ANNOTATION_BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Annotation on a claim: its binding has been completed once.
pub const ANNOTATION_BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation on a claim or volume: the binder chose the partner, not a user.
pub const ANNOTATION_BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation on a volume: who made it, and is to delete it.
pub const ANNOTATION_PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation on a node: the images, separated by commas, that it tried to pull and that have no
/// manifest for its architecture. The scheduler sends their pods to other architectures.
pub const ANNOTATION_FOREIGN_IMAGES: &str = "proa.dev/foreign-images";
/// Annotation on a pod: how long a request to one of its Wasm HTTP components may take, as a Go
/// duration. 0 for no limit, 5m if it is not there.
pub const ANNOTATION_REQUEST_TIMEOUT: &str = "proa.dev/request-timeout";
/// Annotation on a pod: how much memory one instance of its Wasm HTTP components may have, as a
/// quantity.
pub const ANNOTATION_INSTANCE_MEMORY: &str = "proa.dev/instance-memory";
/// Finalizer on a claim: held while a pod uses it.
pub const FINALIZER_PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer on a volume: held while it is bound.
pub const FINALIZER_PV_PROTECTION: &str = "kubernetes.io/pv-protection";
/// The built-in StorageClass: directories of the node that the first consumer runs on.
pub const LOCAL_PATH_CLASS: &str = "local-path";
/// The provisioner that the built-in StorageClass names.
pub const LOCAL_PATH_PROVISIONER: &str = "proa.dev/local-path";

/// The scheduler that pods without a `schedulerName` use.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// The ConfigMap with the cluster's CA that every namespace holds.
pub const CONFIG_MAP_ROOT_CA: &str = "kube-root-ca.crt";
/// The built-in IngressClass and the controller it names.
pub const INGRESS_CLASS: &str = "proa";
/// Value of `spec.controller` of IngressClasses that the built-in ingress serves.
pub const INGRESS_CONTROLLER: &str = "proa.dev/ingress";

/// The user that the API server is towards the nodes' servers.
pub const USER_KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// Its group, which gives it nothing at the API itself.
pub const GROUP_KUBELET_CLIENTS: &str = "proa:kubelet-clients";
/// What the user names of nodes begin with.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The group of everyone who is known.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// The group of all nodes.
pub const GROUP_NODES: &str = "system:nodes";
/// The group of whoever shows a bootstrap token.
pub const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";
/// What the user names of bootstrap tokens begin with.
pub const BOOTSTRAP_USER_PREFIX: &str = "system:bootstrap:";
/// The ConfigMap in `kube-system` that tells nodes what they have to know of the cluster.
pub const CONFIG_MAP_NODES: &str = "proa-nodes";
/// In which the API server tells a node for whom the streams count that it is asked for.
pub const STREAMS_HOLDER_HEADER: &str = "proa-streams-holder";
/// In which the API server tells a node how a client called it, in a request for a pod.
pub const PROXY_HOST_HEADER: &str = "proa-proxy-host";
/// With which a node marks an answer to such a request that is its own and not the pod's.
pub const PROXY_REFUSED_HEADER: &str = "proa-proxy-refused";
/// Where a node's server listens, unless its Node says otherwise.
pub const KUBELET_PORT: u16 = 10250;

/// The PriorityClasses of the cluster's own: name, value and description.
/// <https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/>
pub const SYSTEM_PRIORITY_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
/// The type of Secrets that hold a token of a ServiceAccount.
pub const SECRET_TYPE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
/// Names the account whose token such a Secret holds.
pub const ANNOTATION_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// The uid of that account.
pub const ANNOTATION_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The type of Secrets that are bootstrap tokens.
pub const SECRET_TYPE_BOOTSTRAP_TOKEN: &str = "bootstrap.kubernetes.io/token";
/// What the names of their Secrets begin with; the rest is the token's id.
pub const BOOTSTRAP_TOKEN_PREFIX: &str = "bootstrap-token-";

/// What RuntimeClasses and their handlers are called in the guides of container and Wasm runtimes.
/// None that stands for more isolation than Proa gives: `kata`, `gvisor`.
pub const RUNTIME_HANDLERS: [&str; 19] = [
    "crun",
    "crun-wasm",
    "lunatic",
    "runc",
    "slight",
    "spin",
    "wamr",
    "wasi",
    "wasm",
    "wasmedge",
    "wasmer",
    "wasmtime",
    "wasmtime-lunatic",
    "wasmtime-slight",
    "wasmtime-slight-v1",
    "wasmtime-spin",
    "wasmtime-spin-v2",
    "wws",
    "youki",
];
