#!/usr/bin/env python3
"""Derives control/src/schema/messages.tbl, the table of the built-in Kubernetes messages.

Run by hand when the Kubernetes version moves; the build does not need it:

    control/tools/messages.py K8S_PB_SRC K8S_OPENAPI_VERSION_SRC > control/src/schema/messages.tbl

K8S_PB_SRC is the `src` folder of the crate k8s-pb (protobuf numbers, and the markers that the Go
types carry as comments), K8S_OPENAPI_VERSION_SRC the folder of one version in the crate k8s-openapi
(the JSON names, and which fields are required). Only facts are taken: numbers, names, types and
markers.

Format of the table, one item per line:

    @io.k8s.api.core.v1.Container            a message, by its OpenAPI definition name
    6 ports []io.k8s...ContainerPort p=merge k=containerPort l=map:containerPort,protocol

A field is: number, JSON name, type, then marks. Types: s string, b bool, i integer, f float, y bytes,
otherwise a message; `[]` before it is a list, `{}` a map with string keys. Marks: `?` the Go type has
no pointer and leaves the zero value out of JSON; `o` optional; `~` an embedded struct, whose fields
stand in the JSON of the message around it; `p=` patch strategy, `k=` patch merge key, `l=` list type
with its keys.
"""

import pathlib
import re
import sys

# The roots: every kind that a client may send, and what else the server reads in protobuf.
ROOTS = """
api.core.v1: Namespace Node Pod PodTemplate Service Endpoints ConfigMap Secret ServiceAccount Event Binding
api.core.v1: PersistentVolume PersistentVolumeClaim ReplicationController ResourceQuota LimitRange
api.apps.v1: Deployment ReplicaSet StatefulSet DaemonSet ControllerRevision
api.batch.v1: Job CronJob
api.autoscaling.v1: Scale HorizontalPodAutoscaler
api.autoscaling.v2: HorizontalPodAutoscaler
api.policy.v1: PodDisruptionBudget Eviction
api.networking.v1: Ingress IngressClass NetworkPolicy IPAddress ServiceCIDR
api.discovery.v1: EndpointSlice
api.events.v1: Event
api.coordination.v1: Lease
api.storage.v1: StorageClass VolumeAttachment CSIDriver CSINode CSIStorageCapacity VolumeAttributesClass
api.scheduling.v1: PriorityClass
api.node.v1: RuntimeClass
api.rbac.v1: Role ClusterRole RoleBinding ClusterRoleBinding
api.certificates.v1: CertificateSigningRequest
api.authentication.v1: TokenRequest TokenReview SelfSubjectReview
api.authorization.v1: SubjectAccessReview LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
api.admissionregistration.v1: ValidatingWebhookConfiguration MutatingWebhookConfiguration
api.admissionregistration.v1: ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
apiextensions_apiserver.pkg.apis.apiextensions.v1: CustomResourceDefinition
apimachinery.pkg.apis.meta.v1: DeleteOptions
"""

# Optional fields that are pointers in Go: a zero or an empty text on the wire was set on purpose.
POINTERS = set(
    """
replicas minReplicas revisionHistoryLimit progressDeadlineSeconds
terminationGracePeriodSeconds activeDeadlineSeconds runAsUser runAsGroup runAsNonRoot
readOnlyRootFilesystem allowPrivilegeEscalation privileged fsGroup tolerationSeconds
automountServiceAccountToken shareProcessNamespace enableServiceLinks setHostnameAsFQDN hostUsers
optional defaultMode mode immutable controller blockOwnerDeletion gracePeriodSeconds
orphanDependents deletionGracePeriodSeconds parallelism completions backoffLimit backoffLimitPerIndex
maxFailedIndexes ttlSecondsAfterFinished suspend manualSelector startingDeadlineSeconds
successfulJobsHistoryLimit failedJobsHistoryLimit ready terminating uncountedTerminatedPods
allowVolumeExpansion attachRequired podInfoOnMount storageCapacity requiresRepublish
seLinuxMount expirationSeconds leaseDurationSeconds leaseTransitions holderIdentity
ingressClassName storageClassName loadBalancerClass
priority preemptionPolicy runtimeClassName serving
allocateLoadBalancerNodePorts internalTrafficPolicy ipFamilyPolicy trafficDistribution
appProtocol volumeMode volumeAttributesClassName currentVolumeAttributesClassName hostnameOverride
port:io.k8s.api.discovery.v1.EndpointPort name:io.k8s.api.discovery.v1.EndpointPort
protocol:io.k8s.api.discovery.v1.EndpointPort timeoutSeconds:io.k8s.api.core.v1.ClientIPConfig
targetCPUUtilizationPercentage averageUtilization currentCPUUtilizationPercentage
stabilizationWindowSeconds selectPolicy observedGeneration:io.k8s.api.autoscaling
minDomains nodeAffinityPolicy nodeTaintsPolicy endPort
value:io.k8s.api.core.v1.PodDNSConfigOption partition:io.k8s.api.apps
namespace:io.k8s.api.core.v1.TypedObjectReference apiGroup:io.k8s.api.core apiGroup:io.k8s.api.networking
nodeName:io.k8s.api.discovery
zone:io.k8s.api.discovery hostname:io.k8s.api.discovery.v1.Endpoint nodeName:io.k8s.api.core.v1.EndpointAddress
service:io.k8s.api.core.v1.GRPCAction failedIndexes managedBy podReplacementPolicy
completionMode timeZone started path:io.k8s.apiextensions url unhealthyPodEvictionPolicy
maxLength minLength maxItems minItems maxProperties minProperties maximum minimum multipleOf
x-kubernetes-preserve-unknown-fields x-kubernetes-list-type x-kubernetes-map-type
procMount recursiveReadOnly mountPropagation localhostProfile seLinuxChangePolicy
fsGroupChangePolicy supplementalGroupsPolicy scope:io.k8s.api.networking namespace:io.k8s.api.networking
resourceVersion:io.k8s.apimachinery.pkg.apis.meta.v1.Preconditions
uid:io.k8s.apimachinery.pkg.apis.meta.v1.Preconditions propagationPolicy
ignoreStoreReadErrorWithClusterBreakingPotential type:io.k8s.api.core.v1.HostPathVolumeSource
readOnly:io.k8s.api.core.v1.CSIVolumeSource fsType:io.k8s.api.core.v1.CSIVolumeSource
fsType:io.k8s.api.core.v1.LocalVolumeSource
fsType:io.k8s.api.core.v1.AzureDisk readOnly:io.k8s.api.core.v1.AzureDisk
cachingMode:io.k8s.api.core.v1.AzureDisk kind:io.k8s.api.core.v1.AzureDisk
reinvocationPolicy failurePolicy matchPolicy sideEffects
nodeAllocatableUpdatePeriodSeconds
restartPolicy:io.k8s.api.core.v1.Container restartPolicy:io.k8s.api.core.v1.EphemeralContainer
lun ipMode stopSignal errorCode
terminatingReplicas collisionCount hostProcess gmsaCredentialSpecName gmsaCredentialSpec runAsUserName
succeededIndexes succeededCount optionalOldSelf resourceClaimName resourceClaimTemplateName
reclaimPolicy volumeBindingMode fsGroupPolicy recursiveReadOnlyMounts userNamespaces
timeoutSeconds:io.k8s.api.admissionregistration port:io.k8s.api.admissionregistration
path:io.k8s.api.admissionregistration capacity:io.k8s.api.core.v1.NodeSwapStatus
count:io.k8s.api.storage port:io.k8s.apiextensions maxExpirationSeconds
strategy:io.k8s.api.coordination preferredHolder
""".split()
)


def is_pointer(definition, field):
    if field in POINTERS:
        return True
    return any(
        p.startswith(field + ":") and definition.startswith(p.split(":", 1)[1]) for p in POINTERS
    )


def definition_of(path, name):
    path = path.replace("_", "-") if "apiextensions_apiserver" in path else path
    return f"io.k8s.{path}.{name}"


class Field:
    pass


def read_messages(root):
    """(module path, struct) → list of fields."""
    messages = {}
    for file in sorted(pathlib.Path(root).rglob("mod.rs")):
        module = ".".join(file.parent.relative_to(root).parts)
        struct, fields, comments, attribute = None, None, [], ""
        for line in file.read_text().splitlines():
            text = line.strip()
            if m := re.match(r"pub struct (\w+) \{", text):
                struct, fields, comments = m.group(1), [], []
                messages[(module, struct)] = fields
            elif line == "}":
                struct = None
            elif text.startswith("///"):
                comments.append(text[3:].strip())
            elif text.startswith("#[prost("):
                attribute = text
            elif struct and (m := re.match(r"pub (?:r#)?(\w+): ?(.*)", text)):
                pending = Field()
                pending.name, pending.rust = m.group(1), m.group(2)
                pending.attribute, pending.comments = attribute, comments
                fields.append(pending)
                comments, attribute = [], ""
            elif text.startswith(("impl", "pub mod")):
                comments = []
            elif struct and fields and not text.startswith("#["):
                fields[-1].rust += text
    return messages


def read_properties(root):
    """definition → (json names, required names)."""
    found = {}
    for file in pathlib.Path(root).rglob("*.rs"):
        text = file.read_text()
        m = re.search(r'fn schema_name\(\)[^{]*\{\s*"([^"]+)"', text)
        if not m:
            continue
        schema = text[m.end() :]
        names = re.findall(r'^                "([^"]+)": [({_]', schema, re.M)
        required = re.search(r'^            "required": \[(.*?)\]', schema, re.M | re.S)
        required = re.findall(r'"([^"]+)"', required.group(1)) if required else []
        found[m.group(1)] = (names, set(required))
    return found


def bare(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def camel(name):
    head, *rest = name.split("_")
    return head + "".join(r[:1].upper() + r[1:] for r in rest)


def resolve(module, rust):
    """The (module, struct) that a Rust type path names."""
    # The innermost type is the last path of the text: the value of a map, the item of a list.
    parts = re.findall(r"[\w:]+", rust)[-1].split("::")
    base = module.split(".")
    while parts and parts[0] == "super":
        parts.pop(0)
        base = base[:-1]
    return ".".join(base + parts[:-1]), parts[-1]


SCALARS = {"string": "s", "bool": "b", "int32": "i", "int64": "i", "double": "f", "bytes": "y"}


def markers(comments):
    text = [c for c in comments if c.startswith("+")]
    get = lambda key: [c.split("=", 1)[1].strip() for c in text if c.startswith(f"+{key}=")]
    out = []
    if strategy := get("patchStrategy"):
        out.append("p=" + strategy[0])
    if key := get("patchMergeKey"):
        out.append("k=" + key[0])
    if kind := get("listType"):
        keys = get("listMapKey")
        out.append("l=" + kind[0] + (":" + ",".join(keys) if keys else ""))
    return out, "+optional" in text


def main():
    messages = read_messages(sys.argv[1])
    properties = read_properties(sys.argv[2])
    by_bare = {bare(name): name for name in properties}

    def definition(key):
        module, struct = key
        guess = definition_of(module, struct)
        return by_bare.get(bare(guess), guess)

    queue = []
    for line in ROOTS.strip().splitlines():
        module, names = line.split(": ")
        for name in names.split():
            key = next((k for k in messages if k[0] == module and k[1].lower() == name.lower()), None)
            if key is None:
                print(f"no message {module}.{name}", file=sys.stderr)
                continue
            queue.append(key)
    done = {}
    zeroes = []
    while queue:
        key = queue.pop(0)
        if key in done:
            continue
        own = definition(key)
        names, required = properties.get(own, ([], set()))
        if own.endswith(".DeleteOptions") and not names:
            names = []
        json_names = {bare(n): n for n in names}
        lines = []
        for field in messages[key]:
            m = re.match(r"#\[prost\((.*)\)\]", field.attribute)
            words = m.group(1)
            number = re.search(r'tag = "(\d+)"', words).group(1)
            prefix, kind = "", words.split(",")[0].split(" ")[0]
            if mm := re.match(r'btree_map = "string, (\w+)"', words):
                prefix, kind = "{}", mm.group(1)
            elif "repeated" in words:
                prefix = "[]"
            target = None
            if kind == "message":
                target = resolve(key[0], field.rust)
                if target not in messages:
                    raise SystemExit(f"{key} {field.name}: {field.rust} → {target}")
                queue.append(target)
                kind = definition(target)
            else:
                kind = SCALARS[kind]
            marks, optional = markers(field.comments)
            json = json_names.get(bare(field.name))
            if json is None and bare(field.name).startswith("xkubernetes"):
                json = "x-kubernetes-" + field.name.split("kubernetes_", 1)[1].replace("_", "-")
            inline = False
            if json is None and target is not None and not prefix and names:
                inner = properties.get(definition(target), ([], set()))[0]
                inner = inner or [camel(f.name) for f in messages[target]]
                inline = bool(inner) and all(bare(i) in json_names for i in inner)
                if inline:
                    properties.setdefault(definition(target), (names, required))
            json = json or camel(field.name)
            is_optional = optional or json not in required
            if inline:
                marks.insert(0, "~")
            elif is_optional:
                marks.insert(0, "o")
                if not prefix and kind in ("s", "b", "i", "f", "y"):
                    if not is_pointer(own, json):
                        marks.insert(0, "?")
                        zeroes.append(f"{own}.{json}:{kind}")
            if names and bare(field.name) not in json_names and not inline:
                print(f"not in OpenAPI: {own}.{field.name} as {json}", file=sys.stderr)
            lines.append(" ".join([number, json, prefix + kind] + marks))
        done[key] = (own, lines)
    for own, lines in sorted(done.values()):
        print("@" + own)
        print("\n".join(lines))
    if "--zeroes" in sys.argv:
        print("\n".join(zeroes), file=sys.stderr)


main()
