#!/usr/bin/env python3
"""Derives control/kinds/src/schema/messages.tbl, the table of the built-in Kubernetes messages.

Run by hand when the Kubernetes version moves; the build does not need it:

    control/tools/messages.py K8S_PB_SRC K8S_OPENAPI_VERSION_SRC KUBECTL > control/kinds/src/schema/messages.tbl

K8S_PB_SRC is the `src` folder of the crate k8s-pb (protobuf numbers, and the markers that the Go
types carry as comments), K8S_OPENAPI_VERSION_SRC the folder of one version in the crate k8s-openapi
(the JSON names, and which fields are required), KUBECTL the program for Linux (what Go leaves out of
JSON, and what is a pointer there; see gotypes.py). Only facts are taken: numbers, names, types and
markers.

Format of the table, one item per line:

    @io.k8s.api.core.v1.Container            a message, by its OpenAPI definition name
    6 ports []io.k8s...ContainerPort p=merge k=containerPort l=map:containerPort,protocol

A field is: number, JSON name, type, then marks. The number is 0 where protobuf does not have the field:
what the envelope says. Types: s string, b bool, i int32, l int64, f float, y bytes, otherwise a message;
`[]` before it is a list, `{}` a map with string keys. Marks: `v` the Go type has no pointer, so that the zero value is the same as none; `?` it leaves that out of JSON besides; `o`
optional; `~` an embedded struct, whose fields stand in the JSON of the message around it; `p=` patch
strategy, `k=` patch merge key, `l=` list type with its keys.
"""

import pathlib
import re
import sys

import gotypes

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

# kubectl does not know the types of custom resource definitions. These of their optional fields are
# pointers in Go.
DEFINITION_POINTERS = set(
    """
priority url maximum minimum maxLength minLength maxItems minItems multipleOf maxProperties
minProperties x-kubernetes-preserve-unknown-fields x-kubernetes-list-type x-kubernetes-map-type path
port optionalOldSelf
""".split()
)

# Objects of their own whose JSON names the version of k8s-openapi does not give.
STANDING_ALONE = {f"io.k8s.{name}" for name in ("apimachinery.pkg.apis.meta.v1.DeleteOptions",)}


def package_of(definition):
    """The Go package and name: io.k8s.api.core.v1.Pod → k8s.io/api/core/v1, Pod."""
    path, name = definition.removeprefix("io.k8s.").rsplit(".", 1)
    return "k8s.io/" + path.replace(".", "/"), name


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


SCALARS = {"string": "s", "bool": "b", "int32": "i", "int64": "l", "double": "f", "bytes": "y"}


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
    go = gotypes.json_fields(sys.argv[3])
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
    while queue:
        key = queue.pop(0)
        if key in done:
            continue
        own = definition(key)
        names, required = properties.get(own, ([], set()))
        if own.endswith(".DeleteOptions") and not names:
            names = []
        json_names = {bare(n): n for n in names}
        go_fields = go.get(package_of(own))
        if go_fields is None and "apiextensions" not in own:
            print(f"not in Go: {own}", file=sys.stderr)
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
            if go_fields is not None and not inline and json not in go_fields:
                print(f"not in Go: {own}.{json}", file=sys.stderr)
            is_optional = optional or json not in required
            is_struct = target is not None and not prefix
            if go_fields is None:
                leaves_out = by_value = (
                    is_optional and target is None and not prefix and json not in DEFINITION_POINTERS
                )
            else:
                leaves_out, by_value = go_fields.get(json, (False, False))
            if inline:
                marks.insert(0, "~")
            else:
                if is_optional:
                    marks.insert(0, "o")
                if by_value:
                    marks.insert(0, "?" if leaves_out and not is_struct else "v")
            if names and bare(field.name) not in json_names and not inline:
                print(f"not in OpenAPI: {own}.{field.name} as {json}", file=sys.stderr)
            lines.append(" ".join([number, json, prefix + kind] + marks))
        said = {line.split(" ")[1] for line in lines}
        if "apiVersion" in names and "apiVersion" not in said or not names and own in STANDING_ALONE:
            lines = [f"0 {json} s ? o" for json in ("apiVersion", "kind")] + lines
        done[key] = (own, lines)
    for own, lines in sorted(done.values()):
        print("@" + own)
        print("\n".join(lines))


main()
